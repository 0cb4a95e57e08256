"""A search over learning rates that says which ones to try next, so that many searches run side by side."""

from dataclasses import dataclass, field

import numpy as np

GROWTH = 6  # how many rates a grid may grow by


@dataclass
class RateSearch:
    """A grid of half-decades about a centre, which grows by one rate while its best one is at an edge.

    Attributes:
        centre: learning rate in the middle.
        reach: half-decades on either side; with 0 the centre is all that there is to try.
        scores: what was tried so far, {half-decades from the centre: score}, lower is better.
    """

    centre: float
    reach: int
    scores: dict[int, float] = field(default_factory=dict)

    def wanted(self) -> list[int]:
        """What to try next, in half-decades from the centre; empty when done."""
        grid = range(-self.reach, self.reach + 1)
        if not self.scores:
            return list(grid) if self.reach else []
        if not self.at_edge or len(self.scores) >= len(grid) + GROWTH:
            return []
        low, high = min(self.scores), max(self.scores)
        return [low - 1 if self.best == low else high + 1]

    def add(self, k: int, score: float) -> None:
        """Note a score; one that is not finite is the worst there is."""
        self.scores[k] = score if np.isfinite(score) else np.inf

    @property
    def best(self) -> int:
        """The rate with the lowest score, the smaller one at a tie; the centre if none was tried."""
        return min(self.scores, key=lambda k: (self.scores[k], k), default=0)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the smallest or the largest tried, so that it may not be the best there is."""
        return bool(self.scores) and self.best in (min(self.scores), max(self.scores))

    def rate(self, k: int) -> float:
        """The learning rate so many half-decades from the centre."""
        return float(f"{self.centre * 10 ** (k / 2):.3g}")

    def tried(self) -> dict[float, float]:
        """Learning rates and their scores."""
        return {self.rate(k): self.scores[k] for k in sorted(self.scores)}
