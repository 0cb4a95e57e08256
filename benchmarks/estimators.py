"""Validation loss against seconds of meta-training, by the estimator of the meta-gradient; memory against horizon.

    python -m benchmarks.estimators [--budget 120] [--seeds 3] [--horizons 100 2000] [--estimators bptt es pes nres]
    python -m benchmarks.estimators --memory

On one thread, in seconds of processor time, validation not counted. For each estimator and horizon the best of four
recipes is used, by a run of a third of the budget from a seed of its own: two step sizes of meta-training with two
lengths of window (bptt) or two sizes of perturbation (the others). Horizon 100: the optimizer and the tasks of
configs/quickstart.yaml. Horizon 2000: an LSTM that chooses the step size, minibatches of 4 of 64 rows.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from metatele.tasks import TeacherStudent
from rich import box
from rich.console import Console
from rich.table import Table

from metatele import (
    CoordinateUpdate,
    GlobalStepSize,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    UnrollSettings,
    ValidationSettings,
)
from metatele.meta_training.settings import EstimatorName
from metatele.meta_training.trainer import MetaTrainer
from metatele.support.files import write_atomic

LRS, SIGMAS, BPTT_WINDOWS = (3e-3, 1e-2), (0.01, 0.03), {100: (20, 50), 2000: (20, 100)}
TUNING_SEED, IN_FLIGHT = 1000, 8
POINTS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)  # fractions of the budget at which a run is validated
ENDLESS = 10**6
ES_WINDOWS = {100: 20, 2000: 50}


class Recipe(NamedTuple):
    """How an estimator is used."""

    lr: float
    window: int
    sigma: float = 0.01

    def __str__(self) -> str:
        return f"lr {self.lr:g}, window {self.window}, sigma {self.sigma:g}"


def recipes(estimator: EstimatorName, horizon: int) -> list[Recipe]:
    """What is tried for an estimator, four each."""
    if estimator == "bptt":
        return [Recipe(lr, window) for lr in LRS for window in BPTT_WINDOWS[horizon]]
    return [Recipe(lr, ES_WINDOWS[horizon], sigma) for lr in LRS for sigma in SIGMAS]


def trainer_of(
    estimator: EstimatorName, horizon: int, recipe: Recipe, seed: int, in_flight: int = IN_FLIGHT
) -> MetaTrainer:
    """Meta-training with an estimator on trajectories of this length."""
    if horizon <= 100:
        family, inner = TeacherStudent(spread=10), InnerOptimizer(CoordinateUpdate(), NeuronTeleport())
    else:
        family, inner = TeacherStudent(rows=64, hidden=16, batch_size=4), InnerOptimizer(GlobalStepSize(hidden=8))
    unroll = UnrollSettings(horizon, recipe.window, second_order=estimator == "bptt", in_flight=in_flight)
    meta = MetaSettings(ENDLESS, lr=recipe.lr, schedule="constant", estimator=estimator, sigma=recipe.sigma)
    trainer = MetaTrainer(inner, [family], unroll, meta, ValidationSettings(16, ENDLESS), seed)
    trainer.initialise()
    trainer.enter()
    return trainer


def course(
    trainer: MetaTrainer, budget: float, points: Sequence[float] = POINTS
) -> Iterator[tuple[float, float, int, int]]:
    """(seconds spent, validation loss, diverged tasks, meta-updates) at these fractions of the budget."""
    updates, spent, left = 0, 0.0, list(points)
    while left:
        if spent >= left[0] * budget:
            left.pop(0)
            score, diverged = trainer.validate()
            yield spent, score, diverged, updates
            continue
        began = time.process_time()
        trainer.play_next()
        updates += 1
        spent += time.process_time() - began


def tuned(estimator: EstimatorName, horizon: int, budget: float) -> Recipe:
    """The recipe whose run ends with the lowest validation loss."""
    ends = {}
    for recipe in recipes(estimator, horizon):
        ((_, score, lost, _),) = course(trainer_of(estimator, horizon, recipe, TUNING_SEED), budget, [1.0])
        ends[recipe] = lost, score
    return min(ends, key=lambda recipe: ends[recipe])


def compare(
    horizons: list[int], estimators: list[EstimatorName], budget: float, seeds: int, output: Path | None
) -> None:
    """Run all, print a table, and keep the numbers."""
    found: list[dict[str, Any]] = []
    for horizon in horizons:
        table = Table("estimator", "recipe", *(f"{p * budget:g} s" for p in POINTS), "best", "updates", box=box.SIMPLE)
        for estimator in estimators:
            recipe = tuned(estimator, horizon, budget / 3)
            runs = [list(course(trainer_of(estimator, horizon, recipe, seed), budget)) for seed in range(seeds)]
            found.append({"horizon": horizon, "estimator": estimator, "recipe": str(recipe), "runs": runs})
            if output is not None:
                write_atomic(output, json.dumps(found))
            cells = []
            for point in zip(*runs, strict=True):
                lost = sum(diverged for _, _, diverged, _ in point)
                cells.append(spread([score for _, score, _, _ in point]) + (f" ({lost} diverged)" if lost else ""))
            cells.append(spread([min(score for _, score, _, _ in run) for run in runs]))
            table.add_row(estimator, str(recipe), *cells, f"{statistics.mean(r[-1][3] for r in runs):.0f}")
        print(f"\nHorizon {horizon}: mean log-loss of 16 validation tasks over the trajectory, mean [range] of seeds")
        Console(width=200).print(table)


def spread(scores: list[float]) -> str:
    """Mean [range] of some seeds."""
    return f"{statistics.mean(scores):.2f} [{min(scores):.2f}, {max(scores):.2f}]"


def memory(estimator: EstimatorName, horizon: int, window: int) -> float:
    """Mebibytes that this process has needed beyond its start, for one trajectory."""
    trainer = trainer_of(estimator, horizon, Recipe(1e-3, window), 0, in_flight=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flight = trainer.begin(0)
    assert flight.horizon == horizon
    while not flight.done:
        trainer.advance(flight)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def compare_memory() -> None:
    """Print the memory of a trajectory, each in a process of its own."""
    table = Table("estimator", "window", "horizon", "MiB", box=box.SIMPLE)
    for estimator, whole in (("bptt", True), ("bptt", False), ("es", False), ("pes", False), ("nres", False)):
        for horizon in (200, 1000, 5000):
            window = horizon if whole else 20
            if not (whole and horizon > 1000):
                arguments = [estimator, str(horizon), str(window)]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.estimators", "--measure", *arguments],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                table.add_row(estimator, str(window), str(horizon), done.stdout.strip())
    Console().print(table)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--horizons", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--estimators", nargs="+", default=["bptt", "es", "pes", "nres"])
    parser.add_argument("--output", type=Path, help="a file for the numbers of each run")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.measure:
        print(f"{memory(given.measure[0], *map(int, given.measure[1:])):.0f}")
    elif given.memory:
        compare_memory()
    else:
        compare(given.horizons, given.estimators, given.budget, given.seeds, given.output)


if __name__ == "__main__":
    main()
