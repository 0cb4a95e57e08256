"""The table of a report: every contestant, with text to read and numbers to sort by."""

from dataclasses import dataclass

import numpy as np

from metatele.evaluation import Entry
from metatele.evaluation.table import NONE, has_accuracy, milliseconds, number
from metatele.report.figures.changes import interval_text
from metatele.report.rows import NAN, Numbers, worst_loss_change
from metatele.report.text import clean
from metatele.task.family import Part


@dataclass(frozen=True)
class Heading:
    """A column: its name, what it means, and whether it is shown only when more columns are asked for."""

    text: str
    meaning: str
    more: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and the number that sorts it (empty for none: such cells come last)."""

    text: str
    sort: str = ""


@dataclass(frozen=True)
class Line:
    """A contestant's row.

    Attributes:
        name, label, kind, note: of the contestant.
        index: its number among all contestants.
        reference: whether differences are taken from it.
        trouble: how it failed or how many tasks diverged, in words; empty if all is well.
        failed: whether it has no numbers at all.
        cells: one for each column after the name.
    """

    name: str
    label: str
    kind: str
    note: str
    index: int
    reference: bool
    trouble: str
    failed: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sheet:
    """A table: whose losses it shows, its columns, its lines."""

    part: Part
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]


def sheet(numbers: Numbers, part: Part) -> Sheet:
    """The table of the losses on a part."""
    e = numbers.evaluation
    lines = [
        Line(
            name=clean(entry.name),
            label=clean(entry.label),
            kind=entry.kind,
            note=clean(entry.note),
            index=i,
            reference=entry.name == e.reference,
            trouble=trouble(entry),
            failed=not entry.runs,
            cells=tuple(_cells(numbers, entry, part)),
        )
        for i, entry in enumerate(e.entries)
    ]
    return Sheet(part, tuple(_headings(numbers, part)), tuple(lines))


def trouble(entry: Entry) -> str:
    """What went wrong with a contestant, in words; empty if nothing did."""
    if entry.failure is not None:
        return f"failed: {clean(entry.failure)}"
    played = sum(run.tasks for run in entry.runs)
    return f"{entry.diverged} of {played} diverged" if entry.diverged else ""


def _headings(numbers: Numbers, part: Part) -> list[Heading]:
    s = numbers.evaluation.settings
    found = [
        Heading(
            f"change @{s.steps}", "ratio of geometric means to the reference's, minus 1, with its own 95% interval"
        ),
        Heading("wins", "tasks with a lower loss than the reference"),
        *(Heading(f"mean @{step}", f"mean loss over tasks at step {step}") for step in s.report_steps),
    ]
    if has_accuracy(numbers.evaluation, part):
        found.append(
            Heading(
                f"accuracy @{s.steps}",
                "mean over tasks; one that diverged counts with its last or its first, whichever is lower",
            )
        )
    return [
        *found,
        Heading("ms/step", "wall-clock of one step of the tasks that were timed together, in milliseconds"),
        Heading("diverged", "tasks, over all meta-seeds, that did not run all steps"),
        Heading(f"geo. mean @{s.steps}", f"geometric mean of the loss at step {s.steps}", more=True),
        Heading(f"median @{s.steps}", f"median loss at step {s.steps}", more=True),
        Heading(f"IQM @{s.steps}", f"interquartile mean of the loss at step {s.steps}", more=True),
        Heading("log area", "mean of the log loss over the whole trajectory: lower is faster", more=True),
        Heading("reached", "tasks that reach the best baseline's final loss", more=True),
        Heading("steps to it", "median steps until then", more=True),
        Heading("seconds to it", "median wall-clock until then", more=True),
        Heading("memory", "by how much the process grew, at most", more=True),
        Heading("loss moved", "largest relative change of a loss by a teleport", more=True),
        Heading("step size", "tuned, of a baseline", more=True),
        Heading("schedule", "tuned, of a baseline", more=True),
    ]


def _cells(numbers: Numbers, entry: Entry, part: Part) -> list[Cell]:
    e = numbers.evaluation
    s = e.settings
    means = [entry.summary(part, step).mean for step in s.report_steps]
    last = entry.summary(part, s.steps)
    cells = _compared(numbers, entry, part)
    cells += map(_number, means)
    if has_accuracy(e, part):
        cells.append(_percent(numbers.accuracy(entry, part, s.steps), 1))
    cost, tuning = entry.cost, entry.tuning
    cells.append(_number(milliseconds(entry) if entry.runs else NAN, 2))
    cells.append(Cell(str(entry.diverged), str(entry.diverged)) if entry.runs else Cell(NONE))
    cells += [_number(x) for x in (last.geometric_mean, last.median, last.iqm)]
    m = numbers.measures.get(part, {}).get(entry.name)
    cells += [_number(NAN if m is None else m.log_area), _percent(NAN if m is None else m.reached, 0)]
    cells += [_reached(x) for x in ((m.steps_to_target, m.seconds_to_target) if m else (NAN, NAN))]
    cells.append(_memory(None if cost is None else cost.memory))
    cells.append(_number(worst_loss_change(entry), 2))
    cells.append(_number(tuning.lr if tuning else NAN))
    cells.append(Cell(tuning.schedule, tuning.schedule) if tuning else Cell(NONE))
    return cells


def _compared(numbers: Numbers, entry: Entry, part: Part) -> list[Cell]:
    if entry.name == numbers.evaluation.reference:
        return [Cell("reference", "0"), Cell(NONE)]
    paired = numbers.paired(entry, part)
    if paired is None:
        return [Cell(NONE), Cell(NONE)]
    relative = bool(np.isfinite(paired.change.value))
    change = paired.change if relative else paired.difference
    return [Cell(interval_text(change, relative), _sort(change.value)), _percent(paired.win_rate, 0)]


def _number(x: float, digits: int = 3) -> Cell:
    return Cell(number(x, digits), _sort(x))


def _percent(x: float, places: int) -> Cell:
    return Cell(f"{100 * x:.{places}f}%" if np.isfinite(x) else NONE, _sort(x))


def _reached(x: float) -> Cell:
    return Cell("never", "inf") if np.isinf(x) else _number(x)


def _memory(size: int | None) -> Cell:
    return Cell(NONE) if size is None else Cell(f"{size / 2**20:.1f} MB", str(size))


def _sort(x: float) -> str:
    return "" if np.isnan(x) else repr(float(x))
