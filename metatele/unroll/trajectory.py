"""Trajectories of the inner loop: where they stand, and windows of them."""

import enum
from dataclasses import dataclass

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
    def outcomes(self) -> list[Outcome]:
        """One outcome a task."""
        return [Outcome.FINISHED if a else Outcome.DIVERGED for a in self.alive.tolist()]


@dataclass(frozen=True)
class Window:
    """One window of K steps, with the graph that connects its losses to the learned weights.

    Attributes:
        meta_losses: loss on the meta part after each step, [K, B]. What stands in the place of a
            task that has diverged carries no meaning and no gradient.
        inner_losses: loss on the inner rows used at each step, before the step, [K, B]; detached.
        gradient_norms: norm of the inner gradient at each step, [K, B]; detached.
        gradients: the inner gradients of the window, detached; only when recorded.
        end: where the window ends.
        incoming, outgoing: the floating-point tensors of the positions at which the window begins and ends, in one
            order, that gradients can pass in and out by; only when linked.
    """

    meta_losses: Tensor
    inner_losses: Tensor
    gradient_norms: Tensor
    gradients: list[Params]
    end: Position
    incoming: tuple[Tensor, ...] = ()
    outgoing: tuple[Tensor, ...] = ()
