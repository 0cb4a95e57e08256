"""What plays trajectories: one protocol, and the engines by their names."""

from collections.abc import Callable
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
            piece: steps of which what the backward pass needs is held at a time; the whole window if None.
        """


MakeEngine = Callable[[InnerOptimizer, MetaBatch, int, bool], Engine]
"""Makes the engine of an inner optimizer, a meta-batch, a number of steps, and whether in second order."""


def engine_maker(name: EngineName) -> MakeEngine:
    """What makes engines of a kind.

    All that one maker makes must be of the same inner optimizer and of tasks of the same family, because what they
    compile is theirs together.
    """
    return Unroll if name == "higher" else partial(CompiledUnroll, Programs())
