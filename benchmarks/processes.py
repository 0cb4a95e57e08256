"""Seconds of an iteration of meta-training by one process, by several that share its tasks, and by as many threads.

    python -m benchmarks.processes [--config configs/quickstart.yaml] [--processes 2] [--repeats 3] [-- more arguments]

Each in a run of its own, in turns; the processes of torchrun have one thread each. The median over the iterations after
the first three; validation is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.crew import ROOT
from metatele.meta_training.state import STATE, read_state

WARM_UP, ITERATIONS = 3, 15


def measure(processes: int, threads: int, arguments: list[str]) -> float:
    """Median seconds of an iteration. Raises: RuntimeError if the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
        short = [f"--meta.iterations={WARM_UP + ITERATIONS}", f"--validation.every={10**6}", f"--output={folder}/run"]
        done = subprocess.run(
            [sys.executable, *several, "-m", "metatele", "meta-train", *arguments, *short],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"metatele meta-train has failed: {done.stderr.strip()[-300:]}")
        history = read_state(Path(folder) / "run" / STATE)[0]["history"]
    # The last iteration is validated.
    return statistics.median(float(row[-1]) for row in history[WARM_UP:-1])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.processes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("more", nargs="*", help="more arguments of `metatele meta-train`, after --")
    given = parser.parse_args()
    n, arguments = given.processes, [f"--config={given.config}", *given.more]
    ways = {"1 process, 1 thread": (1, 1), f"{n} processes, 1 thread each": (n, 1), f"1 process, {n} threads": (1, n)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.repeats):
        for way, (processes, threads) in ways.items():
            seconds[way].append(measure(processes, threads, arguments))
    table = Table("way", "s an iteration", "of the first")
    first = seconds[next(iter(ways))]
    for way, own in seconds.items():
        ratios = [a / b for a, b in zip(own, first, strict=True)]
        table.add_row(way, f"{statistics.median(own):.3f}", f"{min(ratios):.2f} to {max(ratios):.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
