"""Seconds of the default evaluation: 13 contestants, 128 tasks of the digits family, 100 steps, tuning included.

    python -m benchmarks.evaluation [--tasks 128] [--threads 2]

The contestants are the shipped checkpoints for general use, their controls and the hand-designed optimizers. The
time of each stage is that between two calls of the progress bar.
"""

import argparse
import time
from collections import defaultdict

import torch
from metatele.tasks import Digits
from rich.console import Console
from rich.table import Table

from metatele import evaluate
from metatele.evaluation import Learned


class Stopwatch:
    """Adds up the seconds of each kind of stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stage, self._begin = "preparing", time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._begin
        self._stage, self._begin = stage, now


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoints = {name: Learned.load(name) for name in ("general", "general-no-teleport")}
    watch = Stopwatch()
    evaluation = evaluate(checkpoints, Digits(), tasks=arguments.tasks, progress=watch)
    table = Table("stage", "contestant", "s")
    for stage, seconds in watch.seconds.items():
        kind, _, name = stage.partition(" ")
        table.add_row(kind, name, f"{seconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"{len(evaluation.entries)} contestants, {arguments.tasks} tasks: {evaluation.elapsed:.0f} s in all")


if __name__ == "__main__":
    main()
