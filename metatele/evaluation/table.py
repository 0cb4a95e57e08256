"""The table of an evaluation, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from metatele.evaluation.entry import Entry
from metatele.evaluation.statistics import Interval
from metatele.task.family import Part

if TYPE_CHECKING:
    from metatele.evaluation.record import Evaluation

NONE = "-"
STYLES = {"checkpoint": "bold", "control": "", "baseline": "dim"}
ROWS = {"inner": "training rows", "meta": "rows of the meta-loss", "test": "unseen rows"}


def make_table(evaluation: Evaluation, part: Part) -> Table:
    """One line a contestant: mean loss at each reported step, accuracy at the end (if the family has one),
    change from the reference at the end with its 95% interval, win rate, time of a step; under the name
    its diverged tasks or what ended it.

    Args:
        evaluation: what was found.
        part: whose losses to show.
    """
    s = evaluation.settings
    table = Table(
        title=Text(f"{evaluation.title or evaluation.family}: loss on {ROWS[part]}, {count(s.tasks)}\n", "bold"),
        caption=_caption(evaluation),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.caption_justify = "left"
    table.add_column("contestant", overflow="fold", min_width=12)
    accuracy = has_accuracy(evaluation, part)
    columns = [*(f"mean\n@{step}" for step in s.report_steps), f"median\n@{s.steps}"]
    columns += [f"acc.\n@{s.steps}"] if accuracy else []
    for column in [*columns, f"change\n@{s.steps}", "wins", "ms/\nstep"]:
        table.add_column(column, justify="right", no_wrap=True)
    for e in evaluation.entries:
        table.add_row(_name(e), *(_cells(evaluation, e, part, accuracy) if e.runs else []))
    return table


def has_accuracy(evaluation: Evaluation, part: Part) -> bool:
    """Whether there are accuracies on a part."""
    return any(part in run.accuracies for e in evaluation.ran for run in e.runs)


def count(tasks: int) -> str:
    """How many held-out tasks, in words."""
    return f"{tasks} held-out task{'s' if tasks > 1 else ''}"


def _name(entry: Entry) -> Text:
    notes = []
    if entry.failure is not None:
        notes = [(f"\nfailed: {entry.failure}", "bold red")]
    elif entry.diverged:
        of = sum(len(run.stopped_at) for run in entry.runs)
        notes = [(f"\n{entry.diverged} of {of} diverged", "bold red")]
    return Text.assemble((entry.label, STYLES[entry.kind]), *notes)


def _cells(evaluation: Evaluation, entry: Entry, part: Part, accuracy: bool) -> list[Text]:
    s = evaluation.settings
    cells = [number(entry.summary(part, step).mean) for step in s.report_steps]
    cells.append(number(entry.summary(part, s.steps).median))
    if accuracy:
        cells.append(percent_right(entry, part, s.steps))
    if entry.name == evaluation.reference or not evaluation[evaluation.reference].runs:
        cells += ["ref.", ""] if entry.name == evaluation.reference else [NONE, NONE]
    else:
        paired = evaluation.paired(entry.name, part)
        cells += [change(paired.change), f"{100 * paired.win_rate:.0f}%"]
    cells.append(NONE if entry.cost is None else number(milliseconds(entry), 2))
    return [Text(cell) for cell in cells]


def milliseconds(entry: Entry) -> float:
    """Wall-clock of one step of the tasks that were timed together; NaN if unknown."""
    return float("nan") if entry.cost is None else 1000 * float(entry.cost.seconds[-1]) / int(entry.runs[0].at[-1])


def percent_right(entry: Entry, part: Part, step: int) -> str:
    """The mean accuracy; a dash if one is not a number."""
    mean = float(entry.accuracies(part, step).mean())
    return f"{100 * mean:.1f}%" if np.isfinite(mean) else NONE


def _caption(evaluation: Evaluation) -> Text:
    e, s = evaluation, evaluation.settings
    timed = next((entry.cost.tasks for entry in e.ran if entry.cost is not None), 0)
    lines = [
        f"change: ratio of geometric means over tasks of the loss at step {s.steps} to that of {e.reference!r},",
        "minus 1, with its 95% interval; wins: tasks with the lower loss. A task that diverged counts with its last",
        f"loss or its first, whichever is larger. ms/step: of {timed} tasks together.",
    ]
    if any(entry.control in ("off", "mean schedule", "random") for entry in e.entries):
        lines.append("'NAME, teleports off' and so on use the update of NAME, not meta-trained for it.")
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


def change(interval: Interval) -> str:
    """A change in percent over its interval."""
    if np.isnan(interval.value):
        return NONE
    return f"{percent(interval.value)}%\n[{percent(interval.low)},{percent(interval.high)}]"


def percent(x: float) -> str:
    """A signed percentage in few characters; a dash for NaN."""
    if np.isnan(x):
        return NONE
    if x > 1e6:
        return ">+1e6"  # of so few tasks or seeds that nothing is known
    if abs(x) < 1e5:
        return f"{x:+.1f}" if abs(x) < 100 else f"{x:+.0f}"
    return f"+{number(x)}" if x > 0 else number(x)
