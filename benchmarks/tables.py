"""Tables of the speed benchmark's results, as rows of text: for the terminal and for the documentation."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.crew import OUT_OF_MEMORY

NOTHING = "-"
ORDER = ("compiled", "higher", "before", "JAX", "one at a time", "limit")
BASES = {  # what ratios are relative to: the first that is there
    "compiled": "metatele with compiled steps",
    "higher": "metatele with the engine higher",
}
Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it says.
        header: names of the columns.
        rows: its cells.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def per_task(record: Record) -> list[float]:
    """Seconds per task-trajectory, one for each repeat."""
    return [s / record["tasks"] for s in record["seconds"]]


def middle(record: Record) -> float:
    """Their median."""
    return statistics.median(per_task(record))


def ratios(record: Record, other: Record) -> list[float]:
    """How many times as long one takes as the other, one ratio for each round."""
    return [a / b for a, b in zip(per_task(record), per_task(other), strict=False)]


def spread(values: list[float], form: str = "{:.3g}") -> str:
    """The median, and how far the farthest value is from it."""
    at = statistics.median(values)
    return f"{form.format(at)} ±{max(abs(v / at - 1) for v in values):.0%}"


def training_cells(results: Record) -> Iterator[Record]:
    """The cells that time meta-training."""
    return (cell for cell in results["cells"] if cell["kind"] == "training")


def contestants(cells: list[Record]) -> list[str]:
    """Who is there, in one order for all tables."""
    present = {name for cell in cells for name in cell["contestants"]}
    return [name for name in ORDER if name in present]


def tables(results: Record) -> list[Table]:
    """All tables that the results fill."""
    cells = list(training_cells(results))
    groups: dict[tuple[str, str], list[Record]] = {}
    for cell in cells:
        groups.setdefault((cell["workload"], cell["order"]), []).append(cell)
    out = [times(*key, group) for key, group in groups.items()]
    if any(base in contestants(cells) for base in BASES):
        out.append(speeds(cells))
    out += [first_iterations(cells), memory(cells)] if cells else []
    steps = [cell for cell in results["cells"] if cell["kind"] == "inner steps"]
    return [*out, inner_steps(steps)] if steps else out


def times(workload: str, order: str, cells: list[Record]) -> Table:
    """Seconds per task-trajectory of everybody."""
    names = contestants(cells)
    rows = []
    for cell in cells:
        found = [_cell(cell["contestants"].get(name), lambda r: spread(per_task(r))) for name in names]
        rows.append([str(cell["tasks"]), str(cell["threads"]), *found])
    return Table(f"{workload}, {order} order: seconds per task-trajectory", ["tasks", "threads", *names], rows)


def speeds(cells: list[Record]) -> Table:
    """metatele against everybody else."""
    base = next(name for name in BASES if name in contestants(cells))
    names = [name for name in contestants(cells) if name not in (base, "limit")]
    rows = []
    for cell in cells:
        entries, own = cell["contestants"], cell["contestants"].get(base, {})
        row = [cell["workload"], cell["order"], str(cell["tasks"]), str(cell["threads"])]
        for name in [*names, "limit"]:
            both = own.get("seconds") and entries.get(name, {}).get("seconds")
            form = "{:.0%}" if name == "limit" else "{:.2f}x"
            row.append(spread(ratios(entries[name], own), form) if both else NOTHING)
        rows.append(row)
    header = ["workload", "order", "tasks", "threads", *[f"{name} / {base}" for name in names], "of the limit"]
    return Table(f"how many times as long as {BASES[base]}, and the limit's share of its time", header, rows)


def first_iterations(cells: list[Record]) -> Table:
    """How long it takes from the imports to the end of the first iteration."""

    def text(record: Record) -> str:
        return f"{record['prepare_seconds'] + record['warm_seconds']:.1f}"

    return _per_contestant("seconds until the first iteration is done (compilation included)", cells, text)


def memory(cells: list[Record]) -> Table:
    """What each process's memory grew by at most, and all that it held then."""

    def text(record: Record) -> str:
        if record.get("peak") is None:
            return NOTHING
        return f"{record['peak'] - record['base']:.0f} ({record['peak']:.0f})"

    return _per_contestant("peak memory in MiB: growth since the imports (whole process)", cells, text)


def inner_steps(cells: list[Record]) -> Table:
    """Milliseconds of an inner step of the whole meta-batch."""
    rows = []
    for cell in cells:
        for name, record in cell["contestants"].items():
            text = _cell(record, lambda r: spread([1e3 * s / r["steps"] for s in r["seconds"]]))
            rows.append([cell["workload"], cell["order"], str(cell["tasks"]), name, text])
    return Table("milliseconds per inner step, one thread", ["workload", "order", "tasks", "what", "ms / step"], rows)


def failures(results: Record) -> list[str]:
    """Who failed where, and why, a line each."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in results["cells"]:
        for name, record in cell["contestants"].items():
            if "error" in record:
                where = f"{cell['workload']} {cell['order']} {cell['tasks']}"
                found.setdefault((name, record["error"]), []).append(where)
    return [f"{name} failed at {', '.join(dict.fromkeys(where))}: {why}" for (name, why), where in found.items()]


def _per_contestant(title: str, cells: list[Record], text: Callable[[Record], str]) -> Table:
    """One row per cell, one column per contestant."""
    names = contestants(cells)
    rows = [
        [cell["workload"], cell["order"], str(cell["tasks"]), str(cell["threads"])]
        + [_cell(cell["contestants"].get(name), text) for name in names]
        for cell in cells
    ]
    return Table(title, ["workload", "order", "tasks", "threads", *names], rows)


def _cell(record: Record | None, text: Callable[[Record], str]) -> str:
    """A record as text."""
    if record is None:
        return NOTHING
    if "error" in record:
        return "memory" if record["error"] == OUT_OF_MEMORY else "failed"
    return text(record) if record.get("seconds") else NOTHING
