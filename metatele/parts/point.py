"""What an update and a teleport see, and what they remember."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metatele.landscape import Landscape
from metatele.task.params import Params, map_params


@dataclass(frozen=True)
class Point:
    """Where the inner loop stands, for B tasks at once.

    Attributes:
        params: parameters, {name: [B, ...]}.
        gradient: gradient of each task's loss with respect to its parameters, same shapes.
        inputs: the inputs of the batch that gave the gradient, [B, n, ...].
        step: number of steps taken before this one; for an update, counted from when its state began. A tensor that
            holds the number while a step is traced, so that the compiled step serves for every number.
        landscape: the losses on the step's batch; None where nobody needs it.
        whole: the losses on all rows that the inner loop trains on; likewise.
    """

    params: Params
    gradient: Params
    inputs: Tensor
    step: int
    landscape: Landscape | None = None
    whole: Landscape | None = None

    def time(self, like: Tensor) -> Tensor:
        """log(1 + step) / 3, of order one, with the shape, dtype and device of `like`."""
        now = torch.as_tensor(self.step, dtype=torch.float64, device=like.device).log1p() / 3
        return now.to(like.dtype).expand_as(like)

    def at(self, params: Params, gradient: Params) -> "Point":
        """Another point of the same landscape."""
        return replace(self, params=params, gradient=gradient)


@dataclass(frozen=True)
class State:
    """What an update or a teleport carries from step to step.

    Attributes:
        covectors: means of gradients (momentum); a teleport carries them along like the gradient.
        squares: means of squared gradients (Adam's second moment); carried along likewise.
        memory: everything that a teleport leaves alone: LSTM states, seeds.
    """

    covectors: tuple[Params, ...] = ()
    squares: tuple[Params, ...] = ()
    memory: tuple[Tensor, ...] = ()

    def map(self, fn: Callable[[Tensor], Tensor]) -> "State":
        """Apply fn to every tensor."""
        return State(
            tuple(map_params(fn, p) for p in self.covectors),
            tuple(map_params(fn, p) for p in self.squares),
            tuple(fn(t) for t in self.memory),
        )

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return [t for params in (*self.covectors, *self.squares) for t in params.values()] + [*self.memory]

    def detach(self) -> "State":
        return self.map(lambda t: t.detach())
