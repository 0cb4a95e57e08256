"""The learning rate of a baseline, found on tasks of the train split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metatele.evaluation.run import final_losses
from metatele.evaluation.statistics import centre
from metatele.optimizer import InnerOptimizer
from metatele.task import MetaBatch
from metatele.update import Adam, GradientDescent, Momentum, Update

BASELINES: Mapping[str, Callable[[float], Update]] = {"GD": GradientDescent, "momentum": Momentum, "Adam": Adam}
EIGHTHS = 8  # learning rates are counted in eighths of a decade
COARSE = range(-6 * EIGHTHS, EIGHTHS + 1, EIGHTHS // 2)  # 1e-6 to 10
FINE = (2, 1)  # distances to the best one at which the grid is refined
REACH = 12  # how many half-decades the grid may grow at its edges

Finals = NDArray[np.float64]


@dataclass(frozen=True)
class Tuning:
    """How a learning rate was found.

    Attributes:
        lr: the best learning rate.
        scores: each learning rate of the grid with its score, the mean of the tasks' final losses
            on the meta part (geometric if all losses are positive); infinite if a task diverged.
        diverged: each learning rate with the number of tasks that diverged.
        tasks, steps: the tasks and steps that it was tuned on.
    """

    lr: float
    scores: dict[float, float]
    diverged: dict[float, int]
    tasks: int
    steps: int


def tune(make: Callable[[float], Update], batch: MetaBatch, steps: int) -> Tuning:
    """Find the learning rate with the lowest score after `steps` steps (see `Tuning.scores`).

    A grid of half-decades, which grows while its best entry is at an edge, then is refined about
    the best entry to quarters and eighths of a decade. If tasks diverge at every learning rate, the
    fewest diverged tasks count first, then the mean over the others; at a tie the smaller learning
    rate wins.

    Args:
        make: the update with a given learning rate.
        batch: the tasks to tune on. The tuner sees no others, so hand it tasks of the train split.
        steps: length of the trajectory.
    """
    finals: dict[int, Finals] = {}

    def try_out(k: int) -> None:
        if k not in finals:
            finals[k] = final_losses(InnerOptimizer(make(_lr(k))), batch, steps, "meta")

    for k in COARSE:
        try_out(k)
    for _ in range(REACH):
        best = _best(finals)
        if best not in (min(finals), max(finals)):
            break
        try_out(best + (-COARSE.step if best == min(finals) else COARSE.step))
    for distance in FINE:
        best = _best(finals)
        try_out(best - distance)
        try_out(best + distance)
    positive = _positive(finals)
    return Tuning(
        lr=_lr(_best(finals)),
        scores={_lr(k): centre(finals[k], positive) for k in sorted(finals)},
        diverged={_lr(k): int(np.isinf(finals[k]).sum()) for k in sorted(finals)},
        tasks=batch.tasks,
        steps=steps,
    )


def _lr(eighths: int) -> float:
    return float(f"{10 ** (eighths / EIGHTHS):.3g}")


def _positive(finals: Mapping[int, Finals]) -> bool:
    return all((f > 0).all() for f in finals.values())


def _best(finals: Mapping[int, Finals]) -> int:
    positive = _positive(finals)

    def key(k: int) -> tuple[int, float, int]:
        ran = finals[k][np.isfinite(finals[k])]
        return len(finals[k]) - len(ran), centre(ran, positive) if len(ran) else np.inf, k

    return min(finals, key=key)
