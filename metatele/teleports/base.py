"""The base of all teleports: where to go on the orbit."""

import abc
from typing import get_args

from torch import Tensor

from metatele.checks import at_least, one_of
from metatele.errors import ConfigError
from metatele.params import Params
from metatele.part import OptimizerPart
from metatele.point import Point, State
from metatele.symmetry import Kind, ProductGroup


class Teleport(OptimizerPart, abc.ABC):
    """Chooses the group element g at each step of the inner loop.

    Args:
        symmetry: which of a network's groups to use (see `metatele.symmetry.symmetries_of`).
        first: the first step at which to teleport.
        last: the last one, or None for no end.
    """

    def __init__(self, symmetry: Kind = "auto", first: int = 0, last: int | None = None) -> None:
        super().__init__()
        at_least(0, first=first, **({} if last is None else {"last": last}))
        one_of(get_args(Kind), symmetry=symmetry)
        if last is not None and last < first:
            raise ConfigError(
                f"the first step with teleports must not come after the last, got first={first}, last={last}"
            )
        self.symmetry, self.first, self.last = symmetry, first, last

    @property
    def moves(self) -> bool:
        """Whether the teleport ever leaves the current point, and so needs a symmetry."""
        return True

    def active(self, step: int) -> bool:
        """Whether the teleport acts at this step."""
        return self.first <= step and (self.last is None or step <= self.last)

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        """The state before the first step; seeds [B] int64 are for the tasks' random draws."""
        return State()

    @abc.abstractmethod
    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        """One group element for each factor of the group, and the next state."""
