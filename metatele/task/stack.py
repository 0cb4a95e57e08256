"""B copies of one network as one module, so that `higher` patches a whole meta-batch at once."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves, tree_map

from metatele.support.messages import lacks_memory
from metatele.task.params import Params

# Activations that apply one function to every entry, without parameters or randomness; so no PReLU and no RReLU.
ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.LogSigmoid,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Threshold,
)


NONE: Mapping[str, Tensor] = {}


def unwrapped(network: Any) -> Any:
    """The network inside what torch wraps around one: torch.compile, DataParallel, DistributedDataParallel,
    AveragedModel. It has the same parameters."""
    while True:
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module does what one of torch's kinds does: a subclass may have another forward."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def stacked_forward(
    network: nn.Module, params: Mapping[str, Tensor], inputs: Tensor, constants: Mapping[str, Tensor] = NONE
) -> Tensor:
    """Run copy b of `network`, with parameters params[...][b], on inputs[b], for all b.

    Args:
        network: the network for ONE task; its own parameter values are not used.
        params: stacked parameters [B, ...].
        inputs: [B, n, ...].
        constants: frozen parameters and buffers, [B, ...]; the network's own where there are none.
    Returns: predictions [B, n, ...].
    """
    params = {**constants, **params}
    layers = _plain_layers(network, params) if inputs.dim() == 3 else None
    if layers is None:
        return over_tasks(partial(_run, network), network, params, inputs, alone=partial(_run_alone, network))
    for name, module in layers:  # an MLP needs none of vmap's bookkeeping, which takes longer than its arithmetic
        if isinstance(module, nn.Linear):
            weight, bias = params[f"{name}.weight"].mT, params.get(f"{name}.bias")
            inputs = torch.bmm(inputs, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), inputs, weight)
        else:
            inputs = module(inputs)
    return inputs


def _run(network: nn.Module, params: Params, inputs: Tensor) -> Any:
    return functional_call(network, params, (inputs,))


def _run_alone(network: nn.Module, params: Params, inputs: Tensor) -> Any:
    """The same for one network outside of vmap, which would refuse one that changes its buffers."""
    before = {k: params.get(k, b).clone() for k, b in network.named_buffers()}
    after = {k: b.clone() for k, b in before.items()}
    outputs = functional_call(network, {**params, **after}, (inputs,))
    changed = next((k for k, b in before.items() if not torch.equal(b, after[k])), None)
    if changed is not None:
        raise RuntimeError(f"the network changes its buffer {changed!r}; call eval() on its batch norm layers")
    return outputs


_looped: WeakSet[Any] = WeakSet()  # networks and functions that vmap cannot batch
_told: set[str] = set()


def over_tasks(
    one: Callable[..., Any],
    what: object,
    *arguments: Any,
    alone: Callable[..., Any] | None = None,
    many: str = "tasks",
    instead: str = ", or override TaskFamily.losses",
) -> Any:
    """A function of one task, on trees of tensors [B, ...] of all of them: by vmap, or what vmap cannot batch task by
    task, with a warning, once.

    Args:
        one: the function.
        what: which function or network it stands for, to be remembered if vmap cannot batch it.
        arguments: what it takes, stacked.
        alone: the function where tasks are computed one by one, if it differs.
        many, instead: what the B are, and what else a user can do, for the warning.
    Raises: what the function raises; vmap's own error for what draws random numbers.
    """
    if what not in _looped:
        try:
            return vmap(one)(*arguments)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            if "random" in str(error) or lacks_memory(error):
                raise
            result = _one_by_one(alone or one, *arguments)
        _looped.add(what)
        name = getattr(what, "__qualname__", type(what).__qualname__)
        if name not in _told:
            _told.add(name)
            warnings.warn(
                f"{name} cannot be batched over {many} by vmap, so {many} are computed one after the other, which "
                f"takes longer; use operations that vmap knows{instead}",
                stacklevel=3,
            )
        return result
    return _one_by_one(alone or one, *arguments)


def _one_by_one(one: Callable[..., Any], *arguments: Any) -> Any:
    tasks = len(tree_leaves(arguments)[0])
    results = [one(*tree_map(lambda t, i=i: t[i], arguments)) for i in range(tasks)]
    return tree_map(lambda *each: torch.stack(each), *results)


def _plain_layers(network: nn.Module, params: Mapping[str, Tensor]) -> list[tuple[str, nn.Module]] | None:
    """The names and layers of a Sequential of linear layers and elementwise activations; None for other networks."""
    if type(network) is not nn.Sequential or _hooked(network) or nn.modules.module._has_any_global_hook():
        return None
    layers = list(network._modules.items())
    names = {f"{name}.{k}" for name, module in layers if module is not None for k in module._parameters}
    if not params.keys() <= names:
        return None
    for name, module in layers:
        linear = type(module) is nn.Linear and set(module._parameters) == {"weight", "bias"}
        given = linear and all(p is None or f"{name}.{k}" in params for k, p in module._parameters.items())
        if module is None or _hooked(module) or not (given or type(module) in ELEMENTWISE):
            return None
    return layers


def _hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its kind's forward."""
    own = vars(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in own or any(own[h] for h in hooks)


class StackedNetwork(nn.Module):
    """B copies of one network with parameters [B, ...], called on inputs [B, n, ...].

    The parameters are registered flat (`p0`, `p1`, ...), because `higher` runs this forward on a
    patched module that has this module's parameters and attributes but not its methods.
    """

    def __init__(
        self, network: nn.Module, params: Mapping[str, Tensor], constants: Mapping[str, Tensor] = NONE
    ) -> None:
        super().__init__()
        self.names = tuple(params)
        self.template = (network, constants)  # in a tuple, so that its own parameters are not registered
        for i, value in enumerate(params.values()):
            self.register_parameter(f"p{i}", nn.Parameter(value.detach()))

    def forward(self, inputs: Tensor) -> Tensor:
        params: Params = {name: getattr(self, f"p{i}") for i, name in enumerate(self.names)}
        network, constants = self.template
        return stacked_forward(network, params, inputs, constants)
