"""Paired comparisons with one run per task."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metatele.evaluation.statistics import Interval, compare_runs


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


def compare_paired(losses: ArrayLike, reference: ArrayLike, both: ArrayLike, rng: np.random.Generator) -> Paired:
    """Compare losses [B] with the reference's [B] on the same tasks, where both finished ([B] bool)."""
    keep = np.asarray(both, bool)
    a, b = (np.asarray(side, np.float64)[keep] for side in (losses, reference))
    return Paired(*compare_runs(a, b, rng), len(a))
