"""Seconds of `metatele compare` with several jobs, as a fraction of those with one, in paired runs.

    python -m benchmarks.compare [--config configs/quickstart.yaml] [--jobs 2] [--repeats 1] [-- more arguments]

Both take turns, each in a process of its own and into a folder of its own, evaluation included. Also shown are the
seconds until the first line of progress (imports, trying the recipes out, and with several jobs the start of their
processes), and those of the evaluation.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.crew import ROOT, cores

STAGES = ("until the first validation", "training after that", "evaluation", "in all")


def measure(arguments: list[str]) -> list[float]:
    """The seconds of each of `STAGES` of one comparison. Raises: RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metatele", "compare", *arguments, f"--output={folder}/run"]
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            lines, heard = [], []
            for line in process.stderr:
                lines.append(line)
                if "validation loss" in line:
                    heard.append(time.perf_counter() - began)
        total = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"metatele compare has failed: {''.join(lines[-3:])}")
    return [heard[0], heard[-1] - heard[0], total - heard[-1], total]


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(
        "python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    out.add_argument("--jobs", type=int, default=2)
    out.add_argument("--repeats", type=int, default=1)
    out.add_argument("more", nargs="*", help="more arguments of `metatele compare`, after --")
    return out


def main() -> None:
    """Measure, and print the table."""
    options, console = parser().parse_args(), Console(highlight=False)
    found: dict[int, list[list[float]]] = {1: [], options.jobs: []}
    with console.status("") as status:
        for turn in range(options.repeats):
            for jobs, times in found.items():
                status.update(f"round {turn + 1} of {options.repeats}: --jobs {jobs}")
                times.append(measure([f"--config={options.config.resolve()}", f"--jobs={jobs}", *options.more]))
    table = Table("seconds, median", *(f"--jobs {jobs}" for jobs in found), "ratio, of each round")
    for i, stage in enumerate(STAGES):
        one, many = ([times[i] for times in runs] for runs in found.values())
        ratios = ", ".join(f"{b / a:.2f}" for a, b in zip(one, many, strict=True))
        table.add_row(stage, *(f"{statistics.median(seconds):.1f}" for seconds in (one, many)), ratios)
    console.print(table)
    console.print(f"{cores()} cores")


if __name__ == "__main__":
    main()
