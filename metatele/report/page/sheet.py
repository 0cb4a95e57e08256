"""The table of a report: every contestant, with text to read and numbers to sort by."""

from dataclasses import dataclass

from metatele.evaluation import Evaluation
from metatele.evaluation.columns import ON_PAGE, ON_PAGE_IF_ASKED, At, Value, columns_named
from metatele.report.text import clean
from metatele.task.family import Part


@dataclass(frozen=True)
class Heading:
    """A column: its name, what it means, and whether it is shown only when more columns are asked for."""

    text: str
    meaning: str
    more: bool = False


@dataclass(frozen=True)
class SheetCell:
    """What stands in a cell, the number that sorts it (empty for none: such cells come last), and whether its column
    is shown only when more are asked for."""

    text: str
    sort: str
    more: bool


@dataclass(frozen=True)
class ContestantRow:
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
    cells: tuple[SheetCell, ...]


@dataclass(frozen=True)
class Sheet:
    """A table: whose losses it shows, its columns, its lines."""

    part: Part
    headings: tuple[Heading, ...]
    lines: tuple[ContestantRow, ...]


def sheet(e: Evaluation, part: Part) -> Sheet:
    """The table of the losses on a part."""
    columns = [
        (column, step, more)
        for keys, more in ((ON_PAGE, False), (ON_PAGE_IF_ASKED, True))
        for column, step in columns_named(keys, e, part)
    ]
    headings = [Heading(c.heading.format(step=step), c.meaning.format(step=step), more) for c, step, more in columns]
    lines = []
    for i, entry in enumerate(e.entries):
        cells = []
        for column, step, more in columns:
            at = At(e.numbers, entry, part, step)
            cells.append(SheetCell(column.text(at), _sort(column.sort(at)), more))
        lines.append(
            ContestantRow(
                name=clean(entry.name),
                label=clean(entry.label),
                kind=entry.kind,
                note=clean(entry.note),
                index=i,
                reference=entry.name == e.reference,
                trouble=clean(entry.trouble),
                failed=not entry.runs,
                cells=tuple(cells),
            )
        )
    return Sheet(part, tuple(headings), tuple(lines))


def _sort(value: Value) -> str:
    """A value as the page's script reads it."""
    if value is None or value != value:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)
