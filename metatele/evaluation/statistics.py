"""Numbers over tasks: means, and paired differences with their bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 5000
CONFIDENCE = 0.95

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Losses of the tasks that ran all steps, at one step. NaN where there is nothing to average.

    Attributes:
        mean, median: over tasks.
        geometric_mean: over tasks; NaN unless all losses are positive.
        tasks: how many tasks ran all steps.
    """

    mean: float
    median: float
    geometric_mean: float
    tasks: int


@dataclass(frozen=True)
class Interval:
    """A value and its 95% bootstrap interval over tasks; the bounds are NaN for fewer than 2 tasks."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A contestant against the reference, on the tasks that both of them finished.

    Attributes:
        difference: mean over tasks of loss - reference loss.
        change: ratio of the geometric means of the losses, minus 1, in percent; NaN unless all
            losses are positive.
        tasks: how many tasks both of them finished.
    """

    difference: Interval
    change: Interval
    tasks: int


def centre(losses: ArrayLike, geometric: bool, axis: int = -1) -> float:
    """The geometric or arithmetic mean; NaN if there is nothing to average, infinite if a loss is."""
    values = np.asarray(losses, np.float64)
    out: float
    if values.shape[axis] == 0:
        return float("nan")
    out = np.exp(np.log(values).mean(axis)) if geometric else values.mean(axis)
    return float(out)


def summarise(losses: ArrayLike, finished: ArrayLike) -> Summary:
    """Summarise the losses [B] of the tasks that finished ([B] bool)."""
    ran = np.asarray(losses, np.float64)[np.asarray(finished, bool)]
    if len(ran) == 0:
        return Summary(np.nan, np.nan, np.nan, 0)
    geometric = centre(ran, True) if (ran > 0).all() else np.nan
    return Summary(float(ran.mean()), float(np.median(ran)), geometric, len(ran))


def compare(losses: ArrayLike, reference: ArrayLike, both: ArrayLike, rng: np.random.Generator) -> Paired:
    """Compare losses [B] with the reference's [B] on the same tasks, where both finished ([B] bool)."""
    keep = np.asarray(both, bool)
    a, b = (np.asarray(side, np.float64)[keep] for side in (losses, reference))
    difference = mean_interval(a - b, rng)
    if not ((a > 0).all() and (b > 0).all()):
        return Paired(difference, Interval(np.nan, np.nan, np.nan), len(a))
    logs = mean_interval(np.log(a) - np.log(b), rng)
    change = Interval(*(100 * float(np.expm1(x)) for x in (logs.value, logs.low, logs.high)))
    return Paired(difference, change, len(a))


def mean_interval(values: Values, rng: np.random.Generator) -> Interval:
    """The mean of values [n] and its 95% interval by the percentile bootstrap."""
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    bounds = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", random_state=rng
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high))
