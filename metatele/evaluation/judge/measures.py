"""Measures of a whole trajectory, one number per contestant: area under the curve, steps and seconds to a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metatele.evaluation.entry import Entry
from metatele.evaluation.statistics import area_under_log, first_reached
from metatele.task.family import Part


@dataclass(frozen=True)
class Measures:
    """What a contestant's whole curves say.

    Attributes:
        log_area: mean over tasks and steps of the log loss (the area under the curve of the log loss,
            divided by its length); NaN unless all losses are positive.
        reached: fraction of tasks (and seeds) that reach the target: on each task the loss of the best
            baseline at the last step. NaN without a baseline.
        steps_to_target: median over tasks of the recorded steps until they reach it; infinite unless more than half do.
        seconds_to_target: likewise of the wall-clock for the tasks that were timed together.
    """

    log_area: float
    reached: float
    steps_to_target: float
    seconds_to_target: float


def measures_of(entries: Sequence[Entry], target: Entry | None, part: Part) -> Mapping[str, Measures]:
    """{contestant: its measures}; the best baseline's final losses are the tasks' targets."""
    goal = None if target is None else target.runs[0].scored(part)[-1]
    return {e.name: _measures(e, goal, part) for e in entries}


def _measures(entry: Entry, goal: np.ndarray | None, part: Part) -> Measures:
    """The measures of one contestant, against the targets [B]; without targets only the area."""
    at = entry.runs[0].at
    curves = np.concatenate([run.scored(part) for run in entry.runs], axis=1)  # [R, seeds x B]
    area = float(area_under_log(at, curves).mean())
    if goal is None:
        return Measures(area, np.nan, np.nan, np.nan)
    steps = first_reached(at, curves, np.tile(goal, len(entry.runs)))
    # At an even number of tasks the median would be the mean of a finite and an infinite number.
    middle = float(np.quantile(steps, 0.5, method="higher"))
    seconds = np.inf
    if entry.cost is not None and np.isfinite(middle):
        seconds = float(entry.cost.seconds[np.searchsorted(at, middle)])
    return Measures(area, float(np.isfinite(steps).mean()), middle, seconds)
