"""Trajectories of the inner loop: where B tasks stand, and what a window of steps gave."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metatele.optimizer import InnerState
from metatele.task.params import Params

DIVERGENCE = 1e6  # a task has diverged when its loss is above this many times (initial loss + 1)


class Outcome(enum.Enum):
    """How the inner loop ended for one task."""

    FINISHED = "ran all steps"
    DIVERGED = "the loss or its gradient became non-finite or the loss exploded"


@dataclass(frozen=True)
class Position:
    """Where B tasks stand in their trajectories; everything detached from the past.

    Attributes:
        params: parameters, {name: [B, ...]}.
        state: the inner optimizer's state.
        step: steps taken so far.
        alive: whether each task has not diverged, [B].
        stopped_at: the last step at which each task's loss was in order, [B].
        initial_loss: each task's loss on the inner part before the first step, [B].
    """

    params: Params
    state: InnerState
    step: int
    alive: Tensor
    stopped_at: Tensor
    initial_loss: Tensor

    @property
    def bar(self) -> Tensor:
        """The loss above which each task has diverged, [B]."""
        return DIVERGENCE * (self.initial_loss.abs() + 1)

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return [*self.params.values(), *self.state.tensors(), self.alive, self.stopped_at, self.initial_loss]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Position":
        """Apply fn to every tensor, in the order of `tensors`."""
        return replace(
            self,
            params={k: fn(p) for k, p in self.params.items()},
            state=self.state.map(fn),
            alive=fn(self.alive),
            stopped_at=fn(self.stopped_at),
            initial_loss=fn(self.initial_loss),
        )

    @property
    def all_diverged(self) -> bool:
        """Whether every task has diverged."""
        return not bool(self.alive.any())

    @property
    def outcomes(self) -> list[Outcome]:
        """One outcome for each task."""
        return [Outcome.FINISHED if a else Outcome.DIVERGED for a in self.alive.tolist()]


@dataclass(frozen=True)
class Window:
    """A window of K steps. If played differentiably, a graph links its meta-losses to the learned weights.

    Attributes:
        meta_losses: loss on the meta part after each step, [K, B]. The entries of a task that were not `in_order` have
            no meaning and no gradient.
        inner_losses: loss on the inner rows used at each step, before the step, [K, B]; detached.
        gradient_norms: norm of the inner gradient at each step, [K, B]; detached.
        end: where the window ends.
    """

    meta_losses: Tensor
    inner_losses: Tensor
    gradient_norms: Tensor
    end: Position

    @property
    def in_order(self) -> Tensor:
        """Which meta-losses [K, B] were in order: those after which the task had not diverged."""
        end, length = self.end, len(self.meta_losses)
        steps = torch.arange(end.step - length + 1, end.step + 1, device=end.stopped_at.device)
        return steps.unsqueeze(1) <= end.stopped_at

    @staticmethod
    def at_rest(begin: Position, length: int) -> "Window":
        """A window of tasks all of which have diverged."""
        losses = begin.bar.expand(length, -1)
        return Window(losses, losses, torch.zeros_like(losses), replace(begin, step=begin.step + length))

    @staticmethod
    def join(windows: "Sequence[Window]") -> "Window":
        """Windows that follow each other, as one."""
        losses = torch.cat([w.meta_losses for w in windows])
        inner_losses = torch.cat([w.inner_losses for w in windows])
        norms = torch.cat([w.gradient_norms for w in windows])
        return Window(losses, inner_losses, norms, windows[-1].end)

    def detach(self) -> "Window":
        """The window without its graph."""
        return replace(self, meta_losses=self.meta_losses.detach())


Score = Callable[[Window], Tensor]
"""Gives a window's meta-loss: a mean over its tasks."""


class Scored(NamedTuple):
    """A window whose meta-gradient has been taken.

    Attributes:
        window: the window, without a graph.
        loss: its meta-loss. There is no meta-gradient if all tasks had diverged before.
    """

    window: Window
    loss: float
