"""Tables and figures of docs/performance.md from the raw timings of `python -m benchmarks --output results.json`.

    python -m benchmarks.performance results.json [--docs docs]

Only what stands between the markers in performance.md is written anew.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.crew import ROOT
from benchmarks.tables import ORDER, Record, Table, failures, middle, per_task, tables, training_cells
from metatele.errors import OutputError
from metatele.pictures.style import COLOURS, GREYS, save_figures
from metatele.support.files import write_atomic

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FIGURE = "performance_time"
LOOKS: dict[str, dict[str, Any]] = {
    "compiled": {
        "color": COLOURS[0],
        "marker": "o",
        "linewidth": 2.2,
        "zorder": 4,
        "label": "metatele, engine compiled",
    },
    "higher": {"color": COLOURS[4], "marker": "o", "label": "metatele, engine higher"},
    "before": {"color": COLOURS[3], "marker": "s", "label": "metatele before"},
    "JAX": {"color": COLOURS[1], "marker": "^"},
    "one at a time": {"color": COLOURS[2], "marker": "D"},
    "limit": {"color": GREYS[0], "marker": "", "linestyle": "--", "label": "limit: the matrix products alone"},
}


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return f"**{table.title[0].upper()}{table.title[1:]}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines)


def section(results: Record) -> str:
    """What goes between the markers."""
    made = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts = [f"{made['cores']} cores; {versions}.", f"![seconds per task-trajectory](figures/{FIGURE}.png)"]
    parts += [markdown(table) for table in tables(results)]
    parts += [f"{line}." for line in failures(results)]
    return "\n\n".join(parts)


def replaced(text: str, new: str) -> str:
    """The text with what stands between the markers replaced.

    Raises: OutputError if the markers are not there.
    """
    if BEGIN not in text or END not in text:
        raise OutputError(f"no place for the tables: put the lines {BEGIN} and {END} where they belong")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{new}\n\n{text[text.index(END) :]}"


def figure(results: Record) -> Figure:
    """Seconds per task-trajectory against the meta-batch, one thread, one panel per workload and order."""
    cells = [cell for cell in training_cells(results) if cell["threads"] == 1]
    panels = list(dict.fromkeys((cell["workload"], cell["order"]) for cell in cells))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.5 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for panel, key in zip(axes.flat, panels, strict=False):
        mine = [cell for cell in cells if (cell["workload"], cell["order"]) == key]
        _panel(panel, mine)
        panel.set_title(f"{key[0]}, {key[1]} order", fontsize=11)
    ticks = sorted({cell["tasks"] for cell in cells})
    axes.flat[0].set_xticks(ticks, [str(t) for t in ticks])
    for panel in axes[-1]:
        panel.set_xlabel("tasks in a meta-batch")
    for row in axes:
        row[0].set_ylabel("s per task-trajectory")
    known = {label: handle for a in axes.flat for handle, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=min(len(known), 3), frameon=False)
    return figure


def _panel(axes: Axes, cells: list[Record]) -> None:
    for name in ORDER:
        found = [(cell["tasks"], cell["contestants"][name]) for cell in cells if name in cell["contestants"]]
        found = [(tasks, record) for tasks, record in found if record.get("seconds")]
        if not found:
            continue
        x, y = [tasks for tasks, _ in found], [middle(record) for _, record in found]
        looks: dict[str, Any] = {"label": name, "markersize": 5} | LOOKS[name]
        axes.plot(x, y, **looks)
        low, high = ([pick(per_task(record)) for _, record in found] for pick in (min, max))
        axes.fill_between(x, low, high, color=looks["color"], alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="major", alpha=0.35)
    axes.grid(which="minor", axis="y", alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def save_png(figures: dict[str, Figure], folder: Path) -> None:
    """Write figures for the documentation, which shows PNG only."""
    for path in save_figures(figures, folder):
        if path.suffix != ".png":
            path.unlink()


def main() -> None:
    """Write the section and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results, page = json.loads(options.results.read_text()), options.docs / "performance.md"
    (options.docs / "figures").mkdir(exist_ok=True)
    if any(cell["threads"] == 1 for cell in training_cells(results)):
        save_png({FIGURE: figure(results)}, options.docs / "figures")
    write_atomic(page, replaced(page.read_text(), section(results)))


if __name__ == "__main__":
    main()
