"""Learning rates from a fixed grid, the same one for every variant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metatele.errors import ConfigError
from metatele.experiments.harness.training import Curves, Problem, train_stack
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import above_zero
from metatele.task.params import Params
from metatele.tuning.search import Cell, RateSearch

PER_DECADE = 8  # learning rates tried
FLOOR = 1e-20  # losses below it count as this: what is left of them is rounding
Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Tuned:
    """The learning rate of one variant.

    Attributes:
        rate: the best one of the grid.
        scores: {rate: geometric mean of the recorded losses of the tasks that did not diverge}.
        diverged: {rate: tasks that diverged}.
    """

    rate: float
    scores: Mapping[float, float]
    diverged: Mapping[float, int]

    @property
    def key(self) -> tuple[int, float]:
        """A sort key, lower is better: tasks that diverged, then the score."""
        score = self.scores[self.rate]
        return self.diverged[self.rate], score if np.isfinite(score) else np.inf

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the smallest or the largest of its grid, so that it may not be the best."""
        return self.rate in (min(self.scores), max(self.scores))


def rate_grid(lowest: float, highest: float, per_decade: int = 4) -> list[float]:
    """Learning rates equally spaced in their logarithm.

    Raises: ConfigError if there is none.
    """
    above_zero(lowest=lowest, highest=highest, per_decade=per_decade)
    if not lowest < highest:
        raise ConfigError(f"rates must be the lowest and the highest learning rate, got {[lowest, highest]!r}")
    count = 1 + max(1, round(per_decade * float(np.log10(highest / lowest))))
    return [float(f"{rate:.3g}") for rate in np.geomspace(lowest, highest, count)]


def best_rate(
    make: Callable[[float], InnerOptimizer],
    rates: list[float],
    problem: Problem,
    params: Params,
    seeds: list[int],
    steps: int,
    record: int,
) -> Tuned:
    """The rate of the grid with the fewest diverged tasks and, among those, the lowest score.

    Args:
        make: the inner optimizer with a given learning rate.
        rates: the grid.
        problem, params, seeds, steps, record: what to train and for how long (see `train_stack`). With
            record=1 the loss at every step counts, with record=steps the last one alone.
    """
    search: RateSearch[tuple[int, float]] = RateSearch([""], range(len(rates)), lambda k: rates[k], _best)
    while wanted := search.wanted():
        for cell in wanted:
            losses, finished = curve_of(train_stack(make(search.rate(cell)), problem, params, seeds, steps, record))
            search.add(cell, (int((~finished).sum()), float(geometric_mean(losses[1:, finished]))))
    scores = {search.rate(cell): score for cell, (_, score) in search.found.items()}
    diverged = {search.rate(cell): count for cell, (count, _) in search.found.items()}
    return Tuned(search.rate(search.best), scores, diverged)


def _best(found: Mapping[Cell, tuple[int, float]]) -> Cell:
    """The cell with the fewest diverged tasks, then the lowest score, then the smallest rate."""

    def key(cell: Cell) -> tuple[int, float, int]:
        diverged, score = found[cell]
        return diverged, score if np.isfinite(score) else np.inf, cell[1]

    return min(found, key=key)


def curve_of(curves: Curves) -> tuple[Losses, NDArray[np.bool_]]:
    """The training losses [K, B], and which tasks kept them finite, [B]."""
    losses = curves.train.detach().double().cpu().numpy()
    return losses, np.isfinite(losses).all(0)


def geometric_mean(losses: Losses, axis: int | None = None) -> float | Losses:
    """The geometric mean; NaN without losses."""
    if losses.size == 0:
        return float("nan")
    mean: Losses = np.exp(np.log(np.maximum(losses, FLOOR)).mean(axis))
    return mean
