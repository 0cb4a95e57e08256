"""Seconds of meta-training for one task's trajectory of 100 steps, meta-updates included.

    python -m benchmarks [--repeats 3] [--threads 1]

Workloads: the paper's dense LSTM(update,tele) on its regression task (20 x 20, hidden size 300,
first order, windows of 10), and the size-free one on teacher-student tasks (second order, windows of
20). Each figure is the median of the repeats, with the smallest and the largest.
"""

import argparse
import statistics

import torch
from metatele.tasks import PaperRegression, TeacherStudent
from rich.console import Console
from rich.table import Table

from metatele import (
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    TaskFamily,
    UnrollSettings,
    ValidationSettings,
)
from metatele.meta_training.trainer import MetaTrainer

BATCHES = (1, 8, 32)


def workloads() -> dict[str, tuple[InnerOptimizer, TaskFamily, UnrollSettings]]:
    """What is timed, by name."""
    dense = InnerOptimizer(DenseUpdate(), DenseTeleport(symmetry="data_dependent"), "after")
    free = InnerOptimizer(CoordinateUpdate(), NeuronTeleport())
    return {
        "dense": (dense, PaperRegression(), UnrollSettings(100, 10, False)),
        "size-free": (free, TeacherStudent(spread=10), UnrollSettings(100, 20, True)),
    }


def measure(inner: InnerOptimizer, family: TaskFamily, unroll: UnrollSettings, tasks: int, repeats: int) -> list[float]:
    """Seconds per task-trajectory of each repeat; one more before and after them is not counted."""
    meta = MetaSettings(iterations=repeats + 2, tasks=tasks)
    trainer = MetaTrainer(inner, [family], unroll, meta, ValidationSettings(1, repeats + 2))
    trainer.initialise()
    trainer.make_adam()
    iterations = list(trainer.iterations())
    return [i.seconds / tasks for i in iterations[1:-1]]  # the last one is validated


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("workload", "meta-batch", "s / task-trajectory", "range")
    for name, (inner, family, unroll) in workloads().items():
        for tasks in BATCHES:
            seconds = measure(inner, family, unroll, tasks, arguments.repeats)
            span = f"{min(seconds):.3f} to {max(seconds):.3f}"
            table.add_row(name, str(tasks), f"{statistics.median(seconds):.3f}", span)
    Console().print(table)


if __name__ == "__main__":
    main()
