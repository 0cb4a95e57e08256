"""Time and memory of meta-training with the engine higher against every size of the problem, one thread.

    python -m benchmarks.scaling [--repeats 3] [--output scaling.json] [--docs docs]
    python -m benchmarks.scaling --from scaling.json      # draws the figure again

One size is varied at a time. Dotted lines show plain proportionality: of time to the arithmetic of an
iteration's matrix products, of memory to that of a window's, because the graph is that of one window.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.cells import environment
from benchmarks.crew import ROOT, Record, measure
from benchmarks.limit import flops
from benchmarks.performance import save_png
from benchmarks.variants import varied
from benchmarks.worker import Job
from benchmarks.workloads import WORKLOADS
from metatele.pictures.style import COLOURS
from metatele.support.files import write_atomic

TASKS = 8  # of a meta-batch, where it is not what varies
VARIED = {
    ("size-free", "tasks"): (1, 2, 4, 8, 16, 32),
    ("size-free", "width"): (8, 16, 32, 64, 128, 256),
    ("size-free", "depth"): (1, 2, 4, 8, 16),
    ("size-free", "window"): (5, 10, 20, 50, 100),
    ("size-free", "steps"): (50, 100, 200, 400, 800),
    ("dense", "tasks"): (1, 4, 16, 64, 256),
    ("dense", "hidden"): (75, 150, 300, 600, 1200),
}
NAMES = {
    "tasks": "tasks in a meta-batch",
    "width": "hidden neurons of the network",
    "depth": "hidden layers of the network",
    "window": "steps in a window",
    "steps": "steps of a trajectory",
    "hidden": "hidden size of the LSTMs",
}


def point(workload: str, variable: str, value: int, repeats: int) -> Record:
    """Measure meta-training with one size changed.

    Returns: what varies, the repeats' "seconds" of an iteration with "base" and "peak" memory, or an "error"; and how
        many operations an "iteration" and a "window" do.
    """
    changes = {} if variable == "tasks" else {variable: value}
    tasks = value if variable == "tasks" else TASKS
    job = Job("higher", workload, False, tasks, changes=changes)
    (record,) = measure({job.contestant: job}, repeats, float("inf"), lambda text: None).values()
    problem = varied(WORKLOADS[workload].ordered(False), changes)
    window = flops(problem, tasks)
    total = window * problem.unroll.longest / problem.unroll.window
    return {"workload": workload, "variable": variable, "value": value, "window": window, "iteration": total} | record


def figure(points: list[Record]) -> Figure:
    """One panel per variable: seconds and memory, and what proportionality would be."""
    panels = list(dict.fromkeys((p["workload"], p["variable"]) for p in points))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.3 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel, key in zip(axes.flat, panels, strict=False):
        panel.set_title(key[0], fontsize=10)
        panel.set_xlabel(NAMES[key[1]])
        _panel(panel, [p for p in points if (p["workload"], p["variable"]) == key and p.get("seconds")])
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    known = axes.flat[0].get_legend_handles_labels()
    figure.legend(*known, loc="outside lower center", ncols=4 if columns > 2 else 1, frameon=False)
    return figure


def _panel(axes: Axes, points: list[Record]) -> None:
    x = [p["value"] for p in points]
    series: list[tuple[str, str, str, Callable[[Record], float]]] = [
        ("s per iteration", COLOURS[0], "iteration", lambda p: statistics.median(p["seconds"])),
        ("memory, GiB", COLOURS[1], "window", lambda p: (p["peak"] - p["base"]) / 1024),
    ]
    for name, colour, arithmetic, value in series:
        y = [value(p) for p in points]
        axes.plot(x, y, color=colour, marker="o", markersize=4, label=name)
        if points:
            scale = y[-1] / points[-1][arithmetic]
            ideal = [scale * p[arithmetic] for p in points]
            axes.plot(x, ideal, color=colour, linestyle=":", label=f"{name}, proportional")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(x, [str(v) for v in x])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--repeats", type=int, default=3)
    out.add_argument("--variables", default=",".join(NAMES), help="which sizes to vary")
    out.add_argument("--output", type=Path, help="file for the raw timings, JSON")
    out.add_argument("--from", dest="source", type=Path, help="file of raw timings to draw, instead of measuring")
    out.add_argument("--docs", type=Path, default=ROOT / "docs")
    return out


def main() -> None:
    """Measure, and draw."""
    options, progress = parser().parse_args(), Console(stderr=True)
    points: list[Record] = [] if options.source is None else json.loads(options.source.read_text())["points"]
    wanted: list[tuple[Any, ...]] = [
        (*key, value) for key, values in VARIED.items() if key[1] in options.variables.split(",") for value in values
    ]
    for i, (workload, variable, value) in enumerate([] if options.source else wanted):
        progress.print(f"{i + 1}/{len(wanted)} {workload}: {value} {NAMES[variable]}")
        points.append(point(workload, variable, value, options.repeats))
        if options.output is not None:
            results = {"environment": environment(), "points": points}
            write_atomic(options.output, json.dumps(results, indent=1) + "\n")
    (options.docs / "figures").mkdir(parents=True, exist_ok=True)
    save_png({"scaling": figure(points)}, options.docs / "figures")


if __name__ == "__main__":
    main()
