"""The meaning of the tensors in a torch optimizer's state, as far as a teleport needs it.

torch names them by convention. A teleport carries means of gradients along like the gradient, and
means of squared gradients like its square; tensors with any other meaning stay as they are.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metatele.task.params import Params

# Means of gradients; Rprop's prev is the last one.
COVECTORS = frozenset({"momentum_buffer", "exp_avg", "grad_avg", "prev"})
# Means, sums or largest values of squared gradients.
NEAR = 0.5  # of the length of the weights, up to which a tensor is a copy of them
SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})


@dataclass(frozen=True)
class StateKeys:
    """The keys of one parameter's optimizer state, by meaning; each in the state's own order.

    Attributes:
        covectors: means of gradients, of the parameter's shape.
        squares: means, sums or largest values of squared gradients, of the parameter's shape.
        unknown: other tensors: Adamax's exp_inf, Adadelta's acc_delta, Rprop's step_size, ASGD's ax;
            also Adafactor's factors, which are not of the parameter's shape.
        scalars: step counts and the like: numbers, and tensors without dimensions.
    """

    covectors: tuple[str, ...] = ()
    squares: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()


def split_state(state: Mapping[str, Any]) -> StateKeys:
    """Sort the keys of one parameter's state, `optimizer.state[parameter]`, by what a teleport does to them.

    RMSprop's momentum_buffer, next to a square_avg, is a mean of gradients already divided by their size.
    Where an action is diagonal, such a quotient stays as it is; so it counts as unknown, and is left alone.
    """

    def meaning(key: str) -> str:
        if not isinstance(state[key], Tensor):
            return "scalars"
        if key in COVECTORS and not (key == "momentum_buffer" and "square_avg" in state):
            return "covectors"
        if key in SQUARES:
            return "squares"
        return "unknown" if state[key].dim() or key in COVECTORS else "scalars"

    kinds: dict[str, list[str]] = {"covectors": [], "squares": [], "unknown": [], "scalars": []}
    for key in state:
        kinds[meaning(key)].append(key)
    return StateKeys(**{kind: tuple(keys) for kind, keys in kinds.items()})


class CarriedState:
    """The state of optimizers that a teleport carries along, as stacks of one network.

    A parameter that has no such tensor (no step was taken with it yet) counts as zero. Some optimizers keep a second
    copy of the weights (ASGD's ax, schedule-free's z, averages): a tensor that is near the weights is a point, too.

    Args:
        optimizers: the optimizers, each of parameters of its own.
        named: a model's parameters {name: parameter}.

    Attributes:
        left: the names of other tensors, which stay as they are.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], named: Mapping[str, Tensor]) -> None:
        self.state = {name: o.state[p] for name, p in named.items() for o in optimizers if p in o.state}
        self._named = {name: p.detach() for name, p in named.items()}
        self._zeros = {name: torch.zeros_like(p).unsqueeze(0) for name, p in named.items()}
        kinds = [split_state(s) for s in self.state.values()]
        self._covectors = list(dict.fromkeys(key for k in kinds for key in k.covectors))
        self._squares = list(dict.fromkeys(key for k in kinds for key in k.squares))
        unknown = dict.fromkeys(key for k in kinds for key in k.unknown)
        self._points = [key for key in unknown if self._is_point(key)]
        self.left = tuple(key for key in unknown if key not in self._points)

    @property
    def whole(self) -> bool:
        """Whether all of the state is tensors and numbers: LBFGS keeps lists of past steps, which would
        not fit what was carried."""
        values = (v for s in self.state.values() for v in s.values())
        return all(isinstance(v, (Tensor, int, float, type(None))) for v in values)

    @property
    def covectors(self) -> list[Params]:
        """Means of gradients, each {name: [1, ...]}."""
        return [self._read(key) for key in self._covectors]

    @property
    def squares(self) -> list[Params]:
        """Means of squared gradients, each {name: [1, ...]}."""
        return [self._read(key) for key in self._squares]

    @property
    def points(self) -> list[Params]:
        """Second copies of the weights, each {name: [1, ...]}; where there is none, the weights themselves."""
        here = {name: p.unsqueeze(0) for name, p in self._named.items()}
        return [{**here, **self._own(key)} for key in self._points]

    def _is_point(self, key: str) -> bool:
        """Whether a tensor of the state is nearer to the weights than half their length."""
        apart = size = 0.0
        for name, s in self.state.items():
            t, p = s.get(key), self._named[name].double()
            if isinstance(t, Tensor):
                if t.shape != p.shape or not t.is_floating_point():
                    return False
                apart += float((t.detach().double() - p).square().sum())
                size += float(p.square().sum())
        return apart < NEAR**2 * size

    def _own(self, key: str) -> Params:
        found = {name: s[key] for name, s in self.state.items() if isinstance(s.get(key), Tensor)}
        return {name: t.detach().unsqueeze(0) for name, t in found.items()}

    def _read(self, key: str) -> Params:
        return self._zeros | self._own(key)

    @torch.no_grad()
    def write(self, covectors: Sequence[Params], squares: Sequence[Params], points: Sequence[Params]) -> None:
        """Overwrite the optimizers' tensors with the carried ones, in place."""
        keys = [*self._covectors, *self._squares, *self._points]
        for key, values in zip(keys, [*covectors, *squares, *points], strict=True):
            for name, s in self.state.items():
                if isinstance(s.get(key), Tensor):
                    s[key].copy_(values[name][0])


def reset_state(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Reset the optimizer's state of these parameters to what a fresh optimizer has."""
    groups = [dict(group) for group in optimizer.param_groups]
    fresh: Mapping[Tensor, Any] = {}
    with contextlib.suppress(TypeError):  # a constructor with other arguments: the state is then empty
        fresh = type(optimizer)(groups, **optimizer.defaults).state  # some make state there (Adagrad)
    for p in parameters:
        optimizer.state.pop(p, None)
        if p in fresh:
            optimizer.state[p] = fresh[p]
