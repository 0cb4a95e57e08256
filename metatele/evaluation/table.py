"""The table of an evaluation, for the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from metatele.evaluation.columns import IN_TERMINAL, At, columns_named
from metatele.evaluation.entry import Entry
from metatele.evaluation.formats import ROWS, held_out
from metatele.evaluation.numbers import Numbers
from metatele.evaluation.record import Record
from metatele.task.family import Part

STYLES = {"checkpoint": "bold", "control": "", "baseline": "dim"}


def make_table(numbers: Numbers, part: Part) -> Table:
    """One line a contestant: the columns `IN_TERMINAL`; under the name its diverged tasks or what ended it.

    Args:
        numbers: what was found.
        part: whose losses to show.
    """
    record = numbers.record
    table = Table(
        title=Text(f"{record.called}: loss on {ROWS[part]}, {held_out(record.settings.tasks)}\n", "bold"),
        caption=_caption(record),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.add_column("contestant", overflow="fold", min_width=12)
    columns = columns_named(IN_TERMINAL, record, part)
    for column, step in columns:
        table.add_column(column.brief.format(step=step), justify="right", no_wrap=True)
    for entry in record.entries:
        cells = [Text(column.brief_text(At(numbers, entry, part, step))) for column, step in columns]
        table.add_row(_name(entry), *(cells if entry.runs else []))
    return table


def _name(entry: Entry) -> Text:
    trouble = [(f"\n{entry.trouble}", "bold red")] if entry.trouble else []
    return Text.assemble((entry.label, STYLES[entry.kind]), *trouble)


def _caption(record: Record) -> Text:
    """What the columns mean, for those who do not have the page before them."""
    timed = next((entry.cost.tasks for entry in record.ran if entry.cost is not None), 0)
    lines = [
        f"change: ratio of geometric means over tasks of the loss at step {record.last} to that of",
        f"{record.reference!r}, minus 1, with its 95% interval; wins: tasks with the lower loss. A task that diverged",
        f"counts with its last loss or its first, whichever is larger. ms/step: of {timed} tasks together.",
    ]
    if any(entry.control in ("off", "mean schedule", "random") for entry in record.entries):
        lines.append("'NAME, teleports off' and so on use the update of NAME, not meta-trained for it.")
    return Text("\n" + " ".join(lines), "dim")
