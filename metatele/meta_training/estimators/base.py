"""What every estimator of the meta-gradient does."""

import abc

from metatele.meta_training.flight import Flight
from metatele.support.ranks import Ranks
from metatele.unroll import Engine


class Estimator(abc.ABC):
    """Plays the windows of meta-batches in flight, and estimates the meta-gradient of each.

    Attributes:
        copies: trajectories that are played of each task.
        units: into how many parts, each with its own random numbers, the tasks of a meta-batch fall.
    """

    copies: int = 1
    units: int

    @abc.abstractmethod
    def engine(self, flight: Flight) -> Engine:
        """What plays the tasks of a meta-batch."""

    @abc.abstractmethod
    def gradient(self, flight: Flight, length: int) -> float | None:
        """Play the next `length` steps and set the `grad` of the learned weights to an estimate of the gradient of the
        mean meta-loss of this process's tasks; a weight that has none keeps None.

        Returns: that mean; None if nothing in the window counts.
        """

    def tasks(self, ranks: Ranks, tasks: int) -> range:
        """The tasks of a meta-batch that are this process's: those of whole units."""
        own, each = ranks.share(range(self.units)), tasks // self.units
        return range(own[0] * each, (own[-1] + 1) * each)
