"""Find the symmetries of a network from its layers."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from metatele.errors import ConfigError, SymmetryError
from metatele.stack import stacked_forward
from metatele.symmetry.base import Symmetry
from metatele.symmetry.bijective import BijectiveGL, LayerInput, bijective_slope
from metatele.symmetry.general_linear import GeneralLinear
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.positive_scaling import PositiveScaling
from metatele.symmetry.product import ProductGroup

Kind = Literal["auto", "scaling", "general_linear", "data_dependent"]
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)

SUPPORTED = (
    "supported are nn.Sequential networks of nn.Linear and activation layers: 'scaling' (positive scaling of neurons) "
    "at ReLU, LeakyReLU or no activation; 'general_linear' (GL(h)) at no activation; 'data_dependent' (GL(h) on the "
    "data) at LeakyReLU with slope > 0 or no activation; 'auto' takes GL(h) or scaling. Other activations have no "
    "continuous symmetry that is known here: train without a teleport, or declare the symmetries of a module of your "
    "own with a method symmetries(self) -> list[Symmetry]"
)


def symmetries_of(network: nn.Module, kind: Kind = "auto") -> list[Symmetry]:
    """The symmetries of a network, one for each hidden layer that has one, in the order of layers.

    Args:
        network: an `nn.Sequential` (nested ones too) of `nn.Linear` and activation layers, or a
            module with a method `symmetries()`, whose answer is then taken as it is.
        kind: which group to take for a layer that has several (see `SUPPORTED`).
    Raises: SymmetryError if there is none; ConfigError for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"symmetry {kind!r} is unknown; use one of {', '.join(get_args(Kind))}")
    declare = getattr(network, "symmetries", None)
    found = list(declare()) if callable(declare) else list(_of_sequential(network, kind))
    if not found:
        raise SymmetryError(f"no symmetry of kind {kind!r} is known for {_describe(network)}; {SUPPORTED}")
    return found


def group_of(network: nn.Module, kind: Kind = "auto") -> ProductGroup:
    """The product of `symmetries_of(network, kind)`."""
    return ProductGroup(tuple(symmetries_of(network, kind)))


def _of_sequential(network: nn.Module, kind: Kind) -> Iterator[Symmetry]:
    layers = list(_flatten(network)) if _plain(network, nn.Sequential) else []
    linear = [i for i, (_, module) in enumerate(layers) if _plain(module, nn.Linear)]
    uses = Counter(id(p) for _, module in layers for p in module.parameters())
    for i, j in itertools.pairwise(linear):
        between = [m for _, m in layers[i + 1 : j] if not isinstance(m, nn.Identity)]
        (name, module), (next_name, target) = layers[i], layers[j]
        source = cast(nn.Linear, module)
        if any(uses[id(p)] > 1 for p in (*source.parameters(), target.weight)):
            continue  # a tensor used twice cannot be moved in one place only
        hidden = HiddenLayer(
            name=f"the hidden layer after '{name}'",
            width=source.out_features,
            weight_in=f"{name}.weight",
            bias_in=f"{name}.bias" if source.bias is not None else None,
            weight_out=f"{next_name}.weight",
        )
        symmetry = _of_layer(hidden, between, kind, _input_of(network, [n for n, _ in layers[:i]]))
        if symmetry is not None:
            yield symmetry


def _of_layer(hidden: HiddenLayer, between: list[nn.Module], kind: Kind, layer_input: LayerInput) -> Symmetry | None:
    """The group of one hidden layer with the given modules between its two linear maps."""
    if not between:
        return PositiveScaling(hidden) if kind == "scaling" else GeneralLinear(hidden)
    if len(between) > 1 or kind == "general_linear":
        return None
    if kind == "data_dependent":
        slope = bijective_slope(between[0])
        return None if slope is None else BijectiveGL(hidden, slope, layer_input)
    return PositiveScaling(hidden) if isinstance(between[0], HOMOGENEOUS) else None


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module does what `kind` does: no other forward, no computed parameters."""
    return isinstance(module, kind) and type(module).forward is kind.forward and not is_parametrized(module)


def _flatten(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    # Not named_children(), which passes over a module that stands in two places.
    for name, module in network._modules.items():
        assert module is not None
        if _plain(module, nn.Sequential):
            yield from _flatten(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def _input_of(network: nn.Module, before: list[str]) -> LayerInput:
    """The map from (params, inputs) to what the layers named `before` hand to the next one."""
    modules = [(name, network.get_submodule(name)) for name in before]

    def layer_input(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        for name, module in modules:
            own = {key: params[f"{name}.{key}"] for key, _ in module.named_parameters()}
            inputs = stacked_forward(module, own, inputs)
        return inputs

    return layer_input


def _describe(network: nn.Module) -> str:
    """One line that names a network's layers."""
    if _plain(network, nn.Sequential):
        return "Sequential(" + ", ".join(type(m).__name__ for _, m in _flatten(network)) + ")"
    return type(network).__name__
