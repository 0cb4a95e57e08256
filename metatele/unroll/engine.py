"""The engines that play trajectories: their protocol, and how to make one by its name."""

from functools import partial
from typing import Literal, Protocol

from metatele.optimizer import InnerOptimizer
from metatele.task import MetaBatch
from metatele.unroll.compiled import CompiledUnroll, Programs
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Score, Scored, Window

EngineName = Literal["higher", "compiled"]


class Engine(Protocol):
    """Plays the trajectories of one meta-batch with one inner optimizer. All engines give the same, to rounding."""

    def start(self) -> Position:
        """The position before the first step."""

    def window(self, begin: Position, length: int, differentiable: bool = True) -> Window:
        """Play `length` steps from a position.

        Args:
            begin: where to start; the window's graph does not reach beyond it.
            length: number of steps K.
            differentiable: keep the graph from the meta-losses to the learned weights.
        """

    def gradient(self, begin: Position, length: int, score: Score, piece: int | None = None) -> Scored:
        """Play a window and add the gradient of its meta-loss to the `grad` of the learned weights.

        Weights that no step of the window uses keep the `grad` that they have.

        Args:
            begin, length: the window.
            score: gives the meta-loss.
            piece: number of steps for which the backward pass is held in memory at a time; the whole window if None.
        """


class MakeEngine(Protocol):
    """Makes an engine for a meta-batch."""

    def __call__(
        self,
        inner: InnerOptimizer,
        batch: MetaBatch,
        steps: int | None,
        second_order: bool = False,
        adjoint_clip: float | None = None,
    ) -> Engine:
        """See `metatele.unroll.Unroll`."""


def engine_maker(name: EngineName) -> MakeEngine:
    """A function that makes engines of this kind.

    All engines from one maker must have the same inner optimizer and tasks of the same family, because they share what
    they compile.
    """
    return Unroll if name == "higher" else partial(CompiledUnroll, Programs())
