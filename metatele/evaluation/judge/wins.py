"""The probability of the lower loss, over tasks and meta-seeds, with its interval."""

import numpy as np
from scipy import stats

from metatele.evaluation.seeds import SeedPool, Values
from metatele.evaluation.statistics import Interval


def win_interval(a: Values, b: Values, tie: float, confidence: float, pool: SeedPool) -> Interval:
    """P(a < b) of values [K, B] and [L, B] on the same B tasks, over tasks and pairs of runs, and its interval; the
    bounds are NaN for fewer than 2 tasks.

    Over tasks it is Clopper and Pearson's, for which a hundred wins out of a hundred are no certainty. It is also valid
    for fractions of wins, because they spread no more than wins and losses do. The uncertainty from the choice of seeds
    is added in quadrature; it is estimated by comparing the seeds of single recipes with each other (see `_luck`).

    Args:
        a, b: what is compared.
        tie: a difference up to this is a tie, which counts half.
        confidence: of the interval.
        pool: other recipes, on the same scale.
    """
    tasks = _wins(a, b, tie).mean((0, 1))
    n = len(tasks)
    if n < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Interval(float(tasks.mean()) if n else np.nan, np.nan, np.nan)
    p, tail = float(tasks.mean()), (1 - confidence) / 2
    low = stats.beta.ppf(tail, n * p, n * (1 - p) + 1) if p > 0 else 0.0
    high = stats.beta.ppf(1 - tail, n * p + 1, n * (1 - p)) if p < 1 else 1.0
    luck = _luck(a, b, tie, confidence, pool)
    return Interval(p, max(0.0, p - float(np.hypot(p - low, luck))), min(1.0, p + float(np.hypot(high - p, luck))))


def _wins(a: Values, b: Values, tie: float) -> Values:
    """1 where a is lower than b, 0.5 where they tie, [K, L, B]."""
    difference = a[:, None] - b[None]
    return np.where(np.abs(difference) <= tie, 0.5, (difference < 0).astype(np.float64))


def _luck(a: Values, b: Values, tie: float, confidence: float, pool: SeedPool) -> float:
    """How far P(a < b) may be off because of the choice of seeds, at a confidence; 0 for one seed each.

    Between two seeds of one recipe, P would be 1/2 without luck; it differs from that by h(k) - h(l), where h is the
    first term of Hoeffding's decomposition, whose variance is at most half of the mean squared distance from 1/2. Each
    recipe counts with the larger of its own and the pooled variance.
    """
    several = [x for x in (a, b) if len(x) > 1]
    if not several:
        return 0.0
    recipes = [*several, *pool.recipes]
    dofs = [len(r) - 1 for r in recipes]
    variances = np.array([_variance(r, tie) for r in recipes])
    larger = np.maximum(variances, np.average(variances, weights=dofs))[: len(several)]
    return float(np.sqrt((larger / [len(x) for x in several]).sum()) * stats.t.ppf((1 + confidence) / 2, sum(dofs)))


def _variance(recipe: Values, tie: float) -> float:
    """The variance of the luck of a recipe's seeds, by their wins against each other."""
    rates = _wins(recipe, recipe, tie).mean(2)[np.triu_indices(len(recipe), 1)]
    return float(((rates - 0.5) ** 2).mean() / 2)
