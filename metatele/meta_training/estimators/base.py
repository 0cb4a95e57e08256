"""What every estimator of the meta-gradient does."""

import abc
from collections.abc import Callable

from metatele.meta_training.flight import Flight
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart
from metatele.parts.point import State
from metatele.support.ranks import Ranks
from metatele.task.batch import MetaBatch
from metatele.unroll import Engine


class Estimator(abc.ABC):
    """Plays the windows of meta-batches in flight, and estimates the meta-gradient of each.

    Attributes:
        copies: trajectories that are played of each task.
        inner: the inner optimizer.
        units: into how many parts, each with its own random numbers, the tasks of a meta-batch fall.
    """

    copies: int = 1
    inner: InnerOptimizer
    units: int

    @abc.abstractmethod
    def engine(self, flight: Flight) -> Engine:
        """What plays the tasks of a meta-batch."""

    @abc.abstractmethod
    def gradient(self, flight: Flight) -> float | None:
        """Play the next window and add an estimate of the gradient of the mean meta-loss of this process's tasks, times
        `Flight.weight`, to the `grad` of the learned weights; a weight that has none keeps None.

        Returns: that mean; None if nothing in the window counts.
        """

    def scales(self, flight: Flight) -> list[bool]:
        """Which tensors of a flight's position have rows for each task, side by side; others are of all tasks. Of a
        state it is found by starting with one task and with two."""
        if flight.scales is None:
            one, two = (flight.batch.take(tasks) for tasks in ([0], [0, 0]))
            inner, group = self.inner, self.inner.bind(one.network, one.trained(one.params))

            def found(part: OptimizerPart, start: Callable[[MetaBatch], State]) -> list[bool]:
                pairs = zip(start(one).tensors(), start(two).tensors(), strict=True)
                return [part in self.particles_of() or a.shape != b.shape for a, b in pairs]

            state = [
                *found(inner.update, lambda batch: inner.update.start(batch.trained(batch.params))),
                *found(inner.teleport, lambda b: inner.teleport.start(b.trained(b.params), group, b.seeds)),
            ]
            position = flight.position
            before, all_tensors = len(position.params), len(position.tensors())
            flight.scales = [True] * before + state + [True] * (all_tensors - before - len(state))
        return flight.scales

    def particles_of(self) -> frozenset[OptimizerPart]:
        """The parts of which there is one for each particle, so that all their tensors have rows for each."""
        return frozenset()

    def tasks(self, ranks: Ranks, tasks: int) -> range:
        """The tasks of a meta-batch that are this process's: those of whole units."""
        own, each = ranks.share(range(self.units)), tasks // self.units
        return range(own[0] * each, (own[-1] + 1) * each)
