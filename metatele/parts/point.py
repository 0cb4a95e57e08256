"""What an update and a teleport see, and what they remember."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metatele.landscape import Landscape
from metatele.parts.numbers import log, row
from metatele.task.params import Params, map_params

PROGRESS = 4  # numbers that `Point.progress` gives
AMOUNTS = 5  # numbers that `Point.amounts` gives


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
        horizon: the number of steps that the trajectory is to have, counted as `step` is, and likewise a tensor while a
            step is traced, NaN for None; None where nobody knows it. More steps than that are no error.
        losses: the loss of each task on the step's batch, [B], 0 of a task that has diverged; None where nobody knows
            them. In first order they are constants, as the gradient is.
        unseen: whether the trajectory is judged by its loss on rows that it does not train on; None where nobody says.
    """

    params: Params
    gradient: Params
    inputs: Tensor
    step: int
    landscape: Landscape | None = None
    whole: Landscape | None = None
    horizon: int | None = None
    losses: Tensor | None = None
    unseen: bool | None = None

    def time(self, like: Tensor) -> Tensor:
        """log(1 + step) / 3, of order one, with the shape, dtype and device of `like`."""
        return row(self.clock()[:1], like).expand_as(like)

    def progress(self, like: Tensor) -> Tensor:
        """What is known of the horizon T at step t: (1, t / T, log((T - t + 1) / (T + 1)) / 3, log(1 + T) / 3).

        Args:
            like: whose dtype and device the result has.
        Returns: [PROGRESS]; zeros, as far from the end as can be, if no horizon is known. Steps beyond the horizon see
            its end.
        """
        return row(self.clock()[1:], like)

    def clock(self) -> list[float | Tensor]:
        """What `time` and `progress` give, as 1 + PROGRESS numbers."""
        now = log(self.step + 1) / 3
        if self.horizon is None:
            return [now] + [0.0] * PROGRESS
        if not isinstance(self.horizon, Tensor):
            end = max(self.horizon, 1)
            return [now, *_progress(min(self.step, end), end)]
        known = self.horizon.isfinite()
        end = torch.where(known, self.horizon, 1).clamp(min=1)
        return [now, *(torch.where(known, x, 0) for x in _progress(torch.minimum(self.step, end), end))]

    def amounts(self) -> list[float | Tensor]:
        """What is known of the data: (1, log n / 3 - 1, log N / 3 - 1, log(P / N) / 3, u) with n rows in the step's
        batch, N that the inner loop trains on, P entries in a task's parameters, and u = 1 if unseen rows are what
        counts, -1 if not, 0 where nobody says; zeros if N or the horizon is not known."""
        if self.whole is None or self.horizon is None:
            return [0.0] * AMOUNTS
        rows, every = (max(inputs.shape[1], 1) for inputs in (self.inputs, self.whole.inputs))
        entries = max(sum(p.shape[1:].numel() for p in self.params.values()), 1)
        counts = 0.0 if self.unseen is None else 1.0 if self.unseen else -1.0
        amounts = [1.0, math.log(rows) / 3 - 1, math.log(every) / 3 - 1, math.log(entries / every) / 3, counts]
        if not isinstance(self.horizon, Tensor):
            return [*amounts]
        known = self.horizon.isfinite().to(self.horizon.dtype)  # in double precision, as Python's numbers are
        return [known * x for x in amounts]

    def counted_from(self, step: int) -> "Point":
        """The same point with its steps, and its horizon, counted from a step on."""
        horizon = None if self.horizon is None else self.horizon - step
        return replace(self, step=self.step - step, horizon=horizon)

    def at(self, params: Params, gradient: Params) -> "Point":
        """Another point of the same landscape."""
        return replace(self, params=params, gradient=gradient)


def _progress(t: float | Tensor, end: float | Tensor) -> list[float | Tensor]:
    """What `Point.progress` gives at step t of a horizon that is known."""
    return [end / end, t / end, log((end - t + 1) / (end + 1)) / 3, log(end + 1) / 3]


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
