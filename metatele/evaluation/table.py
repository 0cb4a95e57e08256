"""The table of an evaluation, for the terminal."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from metatele.evaluation.entry import Entry, Statistics
from metatele.evaluation.statistics import Interval

NONE = "-"
STYLES = {"checkpoint": "bold", "control": "", "baseline": "dim"}


def make_table(entries: Sequence[Entry], statistics: Statistics, reference: str, title: str) -> Table:
    """One line a contestant: mean loss at each reported step, median at the end, difference from
    the reference at the end with its interval, time of a step; under the name its diverged tasks.

    Args:
        entries: the contestants, in the order of the table.
        statistics: of one part's losses (see `statistics_of`).
        reference: the contestant that differences are taken from.
        title: what stands above the table.
    """
    steps = list(next(iter(statistics.values())))
    last = steps[-1]
    table = Table(
        title=Text(title + "\n", "bold"),
        caption=_caption(entries, reference, last),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.caption_justify = "left"
    table.add_column("contestant", overflow="fold", min_width=12)
    for step in steps:
        table.add_column(f"mean\n@{step}", justify="right", no_wrap=True)
    table.add_column(f"median\n@{last}", justify="right", no_wrap=True)
    table.add_column(f"difference\n@{last}", justify="right", no_wrap=True)
    table.add_column(f"change\n@{last}", justify="right", no_wrap=True)
    table.add_column("ms/\nstep", justify="right", no_wrap=True)
    for e in entries:
        table.add_row(_name(e), *_cells(e, statistics, e.name == reference))
    return table


def _name(entry: Entry) -> Text:
    diverged = entry.run.diverged
    note = [(f"\n{diverged} of {len(entry.run.stopped_at)} diverged", "bold red")] if diverged else []
    return Text.assemble((entry.contestant.label, STYLES[entry.contestant.kind]), *note)


def _cells(entry: Entry, statistics: Statistics, is_reference: bool) -> list[Text]:
    numbers = statistics[entry.name]
    summary, paired = list(numbers.values())[-1]
    difference, change = ("ref.", "ref.") if is_reference else (_difference(paired.difference), _change(paired.change))
    return [
        *(Text(number(s.mean)) for s, _ in numbers.values()),
        Text(number(summary.median)),
        Text(difference),
        Text(change),
        Text(number(1000 * entry.seconds[-1] / entry.run.steps, 2)),
    ]


def _caption(entries: Sequence[Entry], reference: str, last: int) -> Text:
    lines = [
        f"difference: arithmetic mean over tasks of loss minus loss of {reference!r} at step {last};",
        "change: ratio of geometric means minus 1 (a few bad tasks can give the two opposite signs);",
        "brackets: 95% bootstrap intervals over the tasks that both finished. Means leave diverged tasks out.",
    ]
    if any(e.contestant.kind == "control" for e in entries):
        lines.append("'NAME, teleports off' and 'NAME + balance' use the update of NAME, not meta-trained for it.")
    return Text("\n" + " ".join(lines), "dim")


def number(x: float, digits: int = 3) -> str:
    """x with so many significant digits, in few characters; a dash for NaN."""
    if not np.isfinite(x):
        return NONE
    if x != 0 and not 1e-3 <= abs(x) < 1e5:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    places = 0 if x == 0 else max(0, digits - 1 - int(np.floor(np.log10(abs(x)))))
    return f"{x:.{places}f}"


def _difference(interval: Interval) -> str:
    if np.isnan(interval.value):
        return NONE
    sign = "+" if interval.value > 0 else ""
    return f"{sign}{number(interval.value)}\n[{number(interval.low, 2)},{number(interval.high, 2)}]"


def _change(interval: Interval) -> str:
    if np.isnan(interval.value):
        return NONE
    return f"{_percent(interval.value)}%\n[{_percent(interval.low)},{_percent(interval.high)}]"


def _percent(x: float) -> str:
    if not np.isfinite(x):
        return NONE
    return f"{x:+.1f}" if abs(x) < 100 else f"{x:+.0f}" if abs(x) < 1e5 else number(x)
