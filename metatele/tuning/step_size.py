"""The step size and schedule of a hand-designed optimizer, found on tasks of the train split."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metatele.errors import ConfigError
from metatele.optimizer import InnerOptimizer
from metatele.task.batch import MetaBatch
from metatele.task.family import judged_part
from metatele.teleports import Stay, Teleport
from metatele.tuning.search import Cell, RateSearch
from metatele.unroll.higher.unroll import Unroll
from metatele.update import HandDesigned
from metatele.update.hand_designed import SCHEDULES, StepSizeSchedule, UpdateRule

EIGHTHS = 8  # step sizes are counted in eighths of a decade
COARSE = range(-6 * EIGHTHS, EIGHTHS + 1, EIGHTHS // 2)  # 1e-6 to 10
FINE = (2, 1)  # distances to the best one at which the grid is refined
REACH = 12  # how many half-decades the grid may grow at its edges
WINDOW = 10  # steps between two looks at whether every task has diverged

Finals = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One cell of the grid.

    Attributes:
        schedule, lr: what was tried.
        score: the mean of the tasks' final losses on the part that is judged (see `judged_part`), geometric if all
            losses of the grid are positive; infinite if a task diverged.
        diverged: how many tasks did.
    """

    schedule: StepSizeSchedule
    lr: float
    score: float
    diverged: int


@dataclass(frozen=True)
class Tuning:
    """How a step size and its schedule were found.

    Attributes:
        schedule, lr, score: the best ones, and their score.
        trials: the whole grid.
        tasks, steps: the train-split tasks and the steps that it was tuned on.
        geometric: whether scores are geometric means. Where a loss of exactly 0 is in reach, a step size that
            overfits half of the tasks and ruins the others would have the lowest.
        mean: the arithmetic mean in the best cell, to compare rules whose scores differ in kind.
    """

    schedule: StepSizeSchedule
    lr: float
    score: float
    trials: tuple[Trial, ...]
    tasks: int
    steps: int
    geometric: bool = True
    mean: float = float("nan")


def tune(rule: UpdateRule, batch: MetaBatch, steps: int, teleport: Teleport | None = None, chunk: int = 256) -> Tuning:
    """Find the step size and schedule with the lowest score after `steps` steps (see `Trial.score`).

    The score is the loss on the rows that an evaluation judges by, but on tasks of the train split, so no test task
    leaks into it. Both schedules are tried on a grid of half-decades, which grows while its best cell is at an edge
    and is then refined around the best cell to quarters and eighths of a decade. If tasks diverge in every cell,
    the fewest diverged tasks count first, then the mean over the others; at a tie the smaller step
    size wins, then the constant schedule. All cells and tasks of a round run as one stack.

    Args:
        rule: the hand-designed rule.
        batch: the tasks to tune on, of the train split.
        steps: length of the trajectory.
        teleport: what the rule is composed with.
        chunk: how many tasks to play together.
    Raises: ConfigError for tasks of another split: tuning on evaluation tasks is refused.
    """
    if batch.split != "train":
        raise ConfigError(f"tuning sees tasks of the train split only, got tasks of the {batch.split} split")
    search: RateSearch[Finals] = RateSearch(SCHEDULES, COARSE, lambda k: 10 ** (k / EIGHTHS), _best, REACH, FINE)
    while wanted := search.wanted():
        rates = [search.rate(cell) for cell in wanted]
        cosine = [schedule == "cosine" for schedule, _ in wanted]
        finals = _finals(rule, rates, cosine, batch, steps, teleport or Stay(), chunk)
        for cell, losses in zip(wanted, finals, strict=True):
            search.add(cell, losses)
    geometric = _positive(search.found)
    trials = tuple(_trial(search, cell, geometric) for cell in sorted(search.found))
    best = _trial(search, search.best, geometric)
    mean = _centre(search.found[search.best], False)
    return Tuning(best.schedule, best.lr, best.score, trials, batch.tasks, steps, geometric, mean)


def _trial(search: RateSearch[Finals], cell: Cell, geometric: bool) -> Trial:
    finals = search.found[cell]
    schedule = cast(StepSizeSchedule, cell[0])
    return Trial(schedule, search.rate(cell), _centre(finals, geometric), int(np.isinf(finals).sum()))


def _finals(
    rule: UpdateRule,
    rates: Sequence[float],
    cosine: Sequence[bool],
    batch: MetaBatch,
    steps: int,
    teleport: Teleport,
    chunk: int,
) -> Finals:
    """Each task's final loss on the judged part with every step size and schedule, [rates, B]; infinite for a task that
    diverged."""
    stack = [(cell, task) for cell in range(len(rates)) for task in range(batch.tasks)]
    out = []
    for begin in range(0, len(stack), chunk):
        part = stack[begin : begin + chunk]
        update = HandDesigned(rule, steps=steps)
        update.vary(torch.tensor([rates[c] for c, _ in part]), torch.tensor([cosine[c] for c, _ in part]))
        tasks = batch.take([task for _, task in part])
        out.append(final_losses(InnerOptimizer(update, copy.deepcopy(teleport)), tasks, steps))
    return np.concatenate(out).reshape(len(rates), batch.tasks)


def final_losses(inner: InnerOptimizer, batch: MetaBatch, steps: int) -> Finals:
    """Each task's loss on the judged part after `steps` steps, [B]; infinite for a task that diverged."""
    unroll = Unroll(inner, batch, steps)
    position = unroll.start()
    while position.step < steps and bool(position.alive.any()):
        position = unroll.window(position, min(WINDOW, steps - position.step), differentiable=False).end
    loss = unroll.evaluate(position.params, judged_part(batch.own_parts))
    loss = torch.where(position.alive & loss.isfinite(), loss, torch.inf)
    return loss.double().cpu().numpy()


def _positive(finals: Mapping[Cell, Finals]) -> bool:
    return all((f > 0).all() for f in finals.values())


def _centre(losses: Finals, geometric: bool) -> float:
    return float(np.exp(np.log(losses).mean()) if geometric else losses.mean())


def _best(finals: Mapping[Cell, Finals]) -> Cell:
    """The cell with the fewest diverged tasks, then the lowest score, the smaller step size, the constant schedule."""
    geometric = _positive(finals)

    def key(cell: Cell) -> tuple[int, float, int, bool]:
        schedule, k = cell
        ran = finals[cell][np.isfinite(finals[cell])]
        score = _centre(ran, geometric) if len(ran) else np.inf
        return len(finals[cell]) - len(ran), score, k, schedule != "constant"

    return min(finals, key=key)
