"""Seconds and memory of meta-training, of metatele and of others on the same problems, in one run on one machine.

    python -m benchmarks [--threads 1,all] [--batches 1,8,32,128] [--before DIR] [--output results.json]

Workloads: those of `benchmarks.workloads`. A task-trajectory is one trajectory of 100 steps of one task, meta-updates
included. Contestants: metatele with each of its engines (higher, compiled), the same in JAX, in plain torch one task at
a time, the matrix products alone (limit), and metatele of another checkout (before). Each runs in a process of its own
(with one thread: on one core), where nothing is compiled yet; they are warmed up, compilation included, then timed in
turns. Shown are the median and the largest deviation from it; ratios are paired by turn.
"""

import argparse
import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.cells import Plan, run
from benchmarks.crew import Record, cores
from benchmarks.tables import Table, failures, tables
from benchmarks.worker import MODULES
from benchmarks.workloads import WORKLOADS
from metatele.support.files import write_atomic

T = TypeVar("T")


def several(one: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A parser of comma-separated lists, each entry parsed by `one`."""

    def parse(text: str) -> list[T]:
        return list(dict.fromkeys(one(word.strip()) for word in text.split(",")))

    return parse


def among(*allowed: str) -> Callable[[str], str]:
    """A check that accepts only these words."""

    def check(word: str) -> str:
        if word not in allowed:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(allowed)}, got {word!r}")
        return word

    return check


def number(word: str) -> int:
    """A whole number of at least 1."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1, got {word!r}")
    return int(word)


def thread_count(word: str) -> int:
    """A number of threads; "all" for as many as there are cores."""
    return cores() if word == "all" else number(word)


def change(word: str) -> tuple[str, int]:
    """A size to be changed, as name=number."""
    name, _, value = word.partition("=")
    return name, number(value)


def parser() -> argparse.ArgumentParser:
    """The options."""
    plan = Plan()
    out = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("--workloads", type=several(among(*WORKLOADS)), default=plan.workloads, help=",".join(WORKLOADS))
    add("--orders", type=several(among("first", "second")), default=plan.orders, help="first,second")
    add("--batches", type=several(number), default=plan.batches, help="sizes of the meta-batch: 1,8,32,128")
    add("--threads", type=several(thread_count), default=plan.threads, help="e.g. 1,all")
    add("--contestants", type=several(among(*MODULES)), help=",".join(MODULES))
    add("--repeats", type=number, default=plan.repeats, help="rounds of a cell")
    add(
        "--budget",
        type=float,
        default=plan.budget,
        help="seconds of a cell's rounds; at least 3 rounds",
    )
    add("--steps-batch", type=int, default=plan.steps_batch, help="meta-batch of the inner steps compared; 0: none")
    add("--before", help="folder of another checkout of metatele, to compare with")
    add("--output", type=Path, help="file for all raw timings, JSON")
    add("--change", type=several(change), default=[], help=argparse.SUPPRESS)  # other sizes, for tests
    return out


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options ask for."""
    names = options.contestants or [*Plan().contestants, *(["before"] if options.before else [])]
    if "before" in names and not options.before:
        raise SystemExit("the contestant before needs --before DIR")
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Plan) if hasattr(options, f.name)}
    before = None if options.before is None else str(Path(options.before).resolve())
    return Plan(**given | {"contestants": names, "before": before, "changes": dict(options.change)})


def show(console: Console, table: Table) -> None:
    """Print a table."""
    out = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in table.header:
        out.add_column(name)
    for row in table.rows:
        out.add_row(*row)
    console.print(out)


def main() -> None:
    """Measure, and print the tables."""
    options = parser().parse_args()
    plan, progress, done = plan_of(options), Console(stderr=True), Record(cells=[])

    def keep(results: Record) -> None:
        done.update(results)
        if options.output is not None:
            write_atomic(options.output, json.dumps(results, indent=1) + "\n")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is done is shown then, too
    try:
        with progress.status("") as status:
            run(plan, lambda text: status.update(text), keep)
    except KeyboardInterrupt:
        progress.print("interrupted; what was measured follows")
    for table in tables(done):
        show(Console(), table)
    for line in failures(done):
        Console().print(line)


if __name__ == "__main__":
    main()
