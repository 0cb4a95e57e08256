"""What tuned hand-designed optimizers reach on the validation tasks, to compare validation scores with."""

from collections.abc import Sequence

import torch

from metatele.meta_training.meta_loss import trajectory_score
from metatele.meta_training.settings import MetaSettings
from metatele.optimizer import InnerOptimizer
from metatele.task.batch import MetaBatch
from metatele.tuning import tune
from metatele.unroll import Unroll
from metatele.update import HandDesigned
from metatele.update.hand_designed import UpdateRule


def reference_scores(
    rules: Sequence[UpdateRule], train: MetaBatch, validation: MetaBatch, steps: int, meta: MetaSettings
) -> list[float]:
    """The mean `trajectory_score` over the validation tasks that each rule reaches, with a step size and a schedule
    tuned on tasks of the train split.

    Args:
        rules: hand-designed updates.
        train, validation: tasks of one family.
        steps: length of the trajectories.
        meta: says which meta-loss.
    """
    return [_score(rule, train, validation, steps, meta) for rule in rules]


def _score(rule: UpdateRule, train: MetaBatch, validation: MetaBatch, steps: int, meta: MetaSettings) -> float:
    found = tune(rule, train, steps)
    play = Unroll(InnerOptimizer(HandDesigned(rule, found.lr, found.schedule, steps)), validation, steps)
    window = play.window(play.start(), steps, differentiable=False)
    losses = torch.where(window.in_order, window.meta_losses, window.end.bar)
    return float(trajectory_score(losses, window.end.initial_loss, meta.loss, meta.normalise).mean())
