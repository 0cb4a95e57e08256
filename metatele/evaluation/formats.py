"""Losses, changes and counts of an evaluation as short text."""

from collections.abc import Mapping

import numpy as np

from metatele.evaluation.statistics import Comparison, Interval
from metatele.support.messages import DASH, number, percent
from metatele.task.family import Part

ROWS: Mapping[Part, str] = {"inner": "training rows", "meta": "rows of the meta-loss", "test": "unseen rows"}
MOST = 1e4  # percent: a larger change is only said to be larger


def held_out(tasks: int) -> str:
    """How many held-out tasks, in words."""
    return f"{tasks} held-out task{'s' if tasks > 1 else ''}"


def shown_change(paired: Comparison) -> tuple[Interval, bool]:
    """The change of a comparison in percent, or else the mean difference; and whether it is in percent."""
    relative = bool(np.isfinite(paired.change.value))
    return (paired.change if relative else paired.difference), relative


def percent_text(x: float) -> str:
    """A signed percentage in few characters; "> +10000" if it is larger than that, a dash for NaN."""
    return f"> {MOST:+.0f}" if x > MOST else percent(x)


def interval_text(interval: Interval, relative: bool) -> str:
    """A change in percent, or a difference, with its interval in few characters."""
    if not relative:
        value, low, high = (number(x) for x in (interval.value, interval.low, interval.high))
        return value + (f" [{low}, {high}]" if low != DASH else "")
    value, low, high = (percent_text(x) for x in (interval.value, interval.low, interval.high))
    return f"{value}%" + (f" [{low}, {high}]" if low != DASH else "")


def wins_text(wins: Interval) -> str:
    """A probability of the lower loss in percent, with its interval unless that covers everything."""
    value, low, high = (f"{100 * x:.0f}" for x in (wins.value, wins.low, wins.high))
    return f"{value}%" if (low, high) == ("0", "100") or np.isnan(wins.low) else f"{value}% [{low}, {high}]"
