"""Meta-losses: one number from a window's losses, to be made small by the learned weights."""

import torch
from torch import Tensor

from metatele.errors import TaskError
from metatele.meta_training.settings import MetaLossName
from metatele.unroll.trajectory import Window

BEGINS_SOLVED = 1e-12  # an initial loss up to which a task has nothing to learn, and gives no scale
SOLVED = 1e-8  # of the initial loss; keeps the logarithm finite when a task is solved exactly


def meta_loss(window: Window, name: MetaLossName, normalise: bool) -> Tensor:
    """The mean over the tasks that have not diverged; NaN if all have.

    Args:
        window: its meta-losses are [K, B].
        name, normalise: see `MetaSettings`.
    Raises: TaskError if the loss is "log" and a loss is not positive.
    """
    alive = window.end.alive
    losses, initial = window.meta_losses, _scale(window.end.initial_loss)
    if not bool(alive.all()):
        losses, initial = losses[:, alive], initial[alive]
    if name == "log":
        _check_positive(losses, initial)
        return (losses + SOLVED * initial).log().mean()
    if normalise:
        losses = losses / (initial + torch.finfo(initial.dtype).tiny)
    return losses[-1].mean() if name == "final" else losses.sum(0).mean()


def trajectory_score(losses: Tensor, initial: Tensor, name: MetaLossName, normalise: bool) -> Tensor:
    """The score that validation compares: each task's mean over the steps of a trajectory, [T, B] -> [B], of its
    log losses if the meta-loss is "log", otherwise of its losses, normalised if `normalise` is set."""
    initial = _scale(initial)
    if name == "log":
        _check_positive(losses, initial)
        return (losses + SOLVED * initial).log().mean(0)
    return (losses / (initial + torch.finfo(initial.dtype).tiny) if normalise else losses).mean(0)


def _scale(initial: Tensor) -> Tensor:
    """What a task's losses are measured in, [B]: its initial loss; 1 for a task that begins solved."""
    return torch.where(initial.abs() > BEGINS_SOLVED, initial.abs(), 1.0)


def _check_positive(losses: Tensor, initial: Tensor) -> None:
    if not bool((losses.detach() + SOLVED * initial > 0).all()):
        raise TaskError(
            f"the logarithm of a loss was asked for, but a loss is {losses.min().item():.3g}; "
            "use meta.loss sum or final, or add a constant to the family's loss"
        )
