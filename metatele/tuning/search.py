"""A search over step sizes that says which ones to try next, so that many searches run side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Found = TypeVar("Found")
Cell = tuple[str, int]
"""What is tried: one of the options, such as a schedule, with a place on the grid of step sizes."""


class RateSearch(Generic[Found]):
    """A grid that grows by one place while the best one is at an edge, and then is refined about the best one.

    Args:
        options: what each place of the first grid is tried with.
        places: the first grid, in equal distances.
        rate: the step size at a place, to three digits.
        best_of: the best of the cells that were tried, and of what was found there.
        growth: by how many places the grid may grow.
        fine: distances from the best cell at which to look in the end, one after the other.

    Attributes:
        found: what was found in the cells that were tried.
    """

    def __init__(
        self,
        options: Sequence[str],
        places: Sequence[int],
        rate: Callable[[int], float],
        best_of: Callable[[Mapping[Cell, Found]], Cell],
        growth: int = 0,
        fine: Sequence[int] = (),
    ) -> None:
        self.first = [(option, k) for option in options for k in places]
        self.spacing = places[1] - places[0] if len(places) > 1 else 1
        self.best_of, self.growth, self.fine = best_of, growth, list(fine)
        self.found: dict[Cell, Found] = {}
        self._rate = rate

    def wanted(self) -> list[Cell]:
        """What to try next; empty when done. Asked only when all that was wanted before has been added."""
        if not self.found:
            return self.first
        option, k = self.best
        if self.growth and self.at_edge:
            self.growth -= 1
            return [(option, k - self.spacing if k == min(self._places(option)) else k + self.spacing)]
        self.growth = 0
        while self.fine:
            distance = self.fine.pop(0)
            if new := [c for c in ((option, k - distance), (option, k + distance)) if c not in self.found]:
                return new
        return []

    def add(self, cell: Cell, found: Found) -> None:
        """Note what was found in a cell."""
        self.found[cell] = found

    @property
    def best(self) -> Cell:
        """The best of the cells that were tried."""
        return self.best_of(self.found)

    @property
    def at_edge(self) -> bool:
        """Whether the best step size is the smallest or the largest tried with its option, so that it may not be
        the best there is."""
        if not self.found:
            return False
        option, k = self.best
        return k in (min(self._places(option)), max(self._places(option)))

    def rate(self, cell: Cell) -> float:
        """The step size of a cell."""
        return float(f"{self._rate(cell[1]):.3g}")

    def _places(self, option: str) -> list[int]:
        return [k for o, k in self.found if o == option]
