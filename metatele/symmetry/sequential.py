"""Read the layers of a plain nn.Sequential network."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from metatele.symmetry.activations import is_plain
from metatele.symmetry.layers import HiddenLayer, LayerInput
from metatele.task.stack import stacked_forward

Named = tuple[str, nn.Module]


class Between(NamedTuple):
    """A hidden layer and the modules between its two linear maps, without nn.Identity."""

    layer: HiddenLayer
    activations: list[nn.Module]


class LastLayer(NamedTuple):
    """The last linear layer and the modules behind it, without nn.Identity."""

    weight: str
    bias: str | None
    width: int
    behind: list[nn.Module]


def hidden_layers(network: nn.Module) -> Iterator[Between]:
    """The hidden layers that have neurons and whose tensors are used in one place only, in the order of layers."""
    layers = _flatten(network)
    for i, j in itertools.pairwise(_linear(layers)):
        (name, source), (next_name, target) = layers[i], layers[j]
        # A tensor used twice cannot be moved in one place only.
        once = _used_once(layers, *source.parameters(), cast(nn.Linear, target).weight)
        if once and cast(nn.Linear, source).out_features > 0:
            hidden = HiddenLayer(
                name=f"the hidden layer after '{name}'",
                width=cast(nn.Linear, source).out_features,
                weight_in=f"{name}.weight",
                bias_in=_bias(name, source),
                weight_out=f"{next_name}.weight",
                layer_input=_input_of(layers[:i]),
                sees_data=i == 0,
            )
            yield Between(hidden, _active(layers[i + 1 : j]))


def last_layer(network: nn.Module) -> LastLayer | None:
    """The last linear layer, if its tensors are used in one place only."""
    layers = _flatten(network)
    for i in _linear(layers)[-1:]:
        name, module = layers[i]
        if _used_once(layers, *module.parameters()):
            width = cast(nn.Linear, module).in_features
            return LastLayer(f"{name}.weight", _bias(name, module), width, _active(layers[i + 1 :]))
    return None


def describe_network(network: nn.Module) -> str:
    """One line that names a network's layers."""
    if _plain(network, nn.Sequential):
        return "Sequential(" + ", ".join(type(m).__name__ for _, m in _flatten(network)) + ")"
    return type(network).__name__


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module does what `kind` does: no other forward, no computed parameters."""
    # Pruning and the older weight and spectral norms leave no parameter of the weight's own name.
    computed = is_parametrized(module) or ("weight" in vars(module) or "weight" in module._buffers)
    return is_plain(module, kind) and not computed


def _flatten(network: nn.Module) -> list[Named]:
    """The layers of a Sequential with their names, nested ones flattened; an empty list for other networks."""
    return list(_walk(network, "")) if _plain(network, nn.Sequential) else []


def _walk(network: nn.Module, prefix: str) -> Iterator[Named]:
    # Not named_children(), which skips a module that occurs a second time.
    for name, module in network._modules.items():
        assert module is not None
        if _plain(module, nn.Sequential):
            yield from _walk(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def _linear(layers: list[Named]) -> list[int]:
    return [i for i, (_, module) in enumerate(layers) if _plain(module, nn.Linear)]


def _active(layers: list[Named]) -> list[nn.Module]:
    return [module for _, module in layers if not is_plain(module, nn.Identity)]


def _used_once(layers: list[Named], *parameters: Tensor) -> bool:
    uses = Counter(id(p) for _, module in layers for p in module.parameters())
    return all(uses[id(p)] == 1 for p in parameters)


def _bias(name: str, module: nn.Module) -> str | None:
    return None if module.bias is None else f"{name}.bias"


def _input_of(before: list[Named]) -> LayerInput:
    """The map from (params, inputs) to what the layers `before` hand to the next one."""

    def layer_input(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        for name, module in before:
            own = {key: params[f"{name}.{key}"] for key, _ in module.named_parameters()}
            inputs = stacked_forward(module, own, inputs)
        return inputs

    return layer_input
