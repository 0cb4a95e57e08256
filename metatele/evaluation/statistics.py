"""Numbers over tasks and meta-seeds: centres, paired differences with intervals, win rates, profiles.

The losses of a contestant are [K, B]: K meta-training seeds of one recipe (1 for what is not
meta-trained) on the same B tasks. Tasks are resampled (bootstrap); the mean over the few seeds is
assumed to follow Student's t, so that two or three seeds that happen to agree prove little.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, stats

from metatele.evaluation.seeds import SeedPool, Values

RESAMPLES = 5000
CONFIDENCE = 0.95
NO_POOL = SeedPool()


@dataclass(frozen=True)
class Summary:
    """Losses at one step, over all tasks and seeds. NaN where there is nothing to average.

    Attributes:
        mean, median: over tasks and seeds.
        geometric_mean: likewise; NaN unless all losses are positive.
        iqm: interquartile mean: of the middle half of the losses (Agarwal et al. 2021, arXiv:2108.13264).
        seed_spread: standard deviation over seeds of the log geometric mean (of the mean if a loss is
            not positive); NaN for one seed.
    """

    mean: float
    median: float
    geometric_mean: float
    iqm: float
    seed_spread: float


@dataclass(frozen=True)
class Interval:
    """A value and its interval over tasks and seeds; the bounds are NaN for fewer than 2 tasks."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A contestant against another, on the same tasks.

    Attributes:
        difference: mean of loss - other loss.
        change: ratio of the geometric means of the losses, minus 1, in percent; NaN unless all
            losses are positive.
        win_rate: fraction of tasks on which its loss is the lower one; ties count half.
    """

    difference: Interval
    change: Interval
    win_rate: float


NOTHING = Interval(np.nan, np.nan, np.nan)  # where there is nothing to compare


def summarise(losses: ArrayLike) -> Summary:
    """Summarise losses [K, B]."""
    values = np.asarray(losses, np.float64)
    if values.size == 0:
        return Summary(*[np.nan] * 5)
    positive = bool((values > 0).all())
    centres = np.log(values).mean(1) if positive else values.mean(1)
    return Summary(
        mean=float(values.mean()),
        median=float(np.median(values)),
        geometric_mean=float(np.exp(centres.mean())) if positive else np.nan,
        iqm=float(stats.trim_mean(values, 0.25, axis=None)),
        seed_spread=float(centres.std(ddof=1)) if len(values) > 1 else np.nan,
    )


def compare(
    losses: ArrayLike,
    other: ArrayLike,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    pool: SeedPool = NO_POOL,
) -> Comparison:
    """Compare losses [K, B] with another contestant's [L, B] on the same tasks. If both are positive, the losses of
    the pool must be positive too."""
    a, b = (np.asarray(side, np.float64) for side in (losses, other))
    a_tasks, b_tasks = a[:, None], b[None]
    wins = float(((a_tasks < b_tasks) + 0.5 * (a_tasks == b_tasks)).mean()) if a.shape[1] else np.nan
    difference = cautious_interval(a, b, rng, confidence, pool)
    if not _positive(a, b):
        return Comparison(difference, NOTHING, wins)
    logs = cautious_interval(np.log(a), np.log(b), rng, confidence, pool.map(np.log))
    return Comparison(difference, as_change(logs), wins)


def compare_runs(losses: ArrayLike, other: ArrayLike, rng: np.random.Generator) -> tuple[Interval, Interval]:
    """Difference and change (see `Comparison`) of losses [B] from others [B] on the same tasks, one run each, with 95%
    intervals by the percentile bootstrap alone."""
    a, b = (np.asarray(side, np.float64) for side in (losses, other))
    difference = mean_interval(a - b, rng)
    return difference, as_change(mean_interval(np.log(a) - np.log(b), rng)) if _positive(a, b) else NOTHING


def _positive(a: Values, b: Values) -> bool:
    return bool((a > 0).all() and (b > 0).all())


def as_change(logs: Interval) -> Interval:
    """An interval of a difference of logarithms as a change in percent."""
    with np.errstate(over="ignore"):  # few tasks and seeds give huge intervals
        return Interval(*(100 * float(np.expm1(x)) for x in (logs.value, logs.low, logs.high)))


def mean_interval(values: Values, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Interval:
    """The mean of values [n] and its interval by the percentile bootstrap."""
    if len(values) == 0:
        return NOTHING
    mean = float(values.mean())
    if len(values) == 1 or not np.isfinite(values).all():
        return Interval(mean, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    bounds = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", random_state=rng
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high))


def cautious_interval(
    a: Values, b: Values, rng: np.random.Generator, confidence: float, pool: SeedPool = NO_POOL
) -> Interval:
    """The mean of a - b, values [K, B] and [L, B] of the same B tasks, and its interval; its bounds are NaN
    for fewer than 2 tasks.

    Over tasks it is the wider of two: the percentile bootstrap, which accounts for skewed values, and
    Student's t, which accounts for few tasks. The uncertainty from the choice of seeds (see `SeedPool`) is
    added in quadrature.
    """
    tasks = a.mean(0) - b.mean(0)
    plain = mean_interval(tasks, rng, confidence)
    quantile = (1 + confidence) / 2
    seeds = pool.reach(a, b, confidence)
    student = np.nan if len(tasks) < 2 else float(stats.sem(tasks) * stats.t.ppf(quantile, len(tasks) - 1))
    # np.maximum, because max would drop a NaN: one task has no interval.
    reach = [np.maximum(student, side) for side in (plain.value - plain.low, plain.high - plain.value)]
    low, high = (float(np.hypot(side, seeds)) for side in reach)
    return Interval(plain.value, plain.value - low, plain.value + high)


def performance_profile(losses: Mapping[str, ArrayLike], ratios: ArrayLike) -> dict[str, Values]:
    """For each contestant, the fraction of tasks (and seeds) on which its loss is at most a given multiple of the
    best contestant's (Dolan and More 2002), {name: [len(ratios)]}.

    Args:
        losses: {name: [K, B]}, positive.
        ratios: the multiples, at least 1.
    """
    tables = {name: np.asarray(v, np.float64) for name, v in losses.items()}
    best = np.min([v.min(0) for v in tables.values()], axis=0)
    return {
        name: np.array([(v <= r * best).mean() for r in np.asarray(ratios, np.float64)]) for name, v in tables.items()
    }


def area_under_log(at: ArrayLike, losses: ArrayLike) -> Values:
    """Mean over the trajectory of the log loss, by trapezoids, for curves [R, ...] at steps [R]; NaN
    where a loss is not positive."""
    steps, curves = np.asarray(at, np.float64), np.asarray(losses, np.float64)
    positive = np.where(curves > 0, curves, np.nan)
    if len(steps) == 1:
        return np.asarray(np.log(positive[0]))
    return np.asarray(integrate.trapezoid(np.log(positive), steps, axis=0) / (steps[-1] - steps[0]))


def first_reached(at: ArrayLike, curves: ArrayLike, target: ArrayLike) -> Values:
    """The first step at which each curve [R, ...] is at most its target; infinite if it never is."""
    reached = np.asarray(curves, np.float64) <= np.asarray(target, np.float64)
    return np.where(reached.any(0), np.asarray(at, np.float64)[reached.argmax(0)], np.inf)
