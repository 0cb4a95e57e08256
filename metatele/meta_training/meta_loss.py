"""Meta-losses: one number from a window's losses, to be made small by the learned weights."""

import torch
from torch import Tensor

from metatele.errors import TaskError
from metatele.meta_training.settings import MetaLossName
from metatele.unroll import Window

FLOOR = 1e-8  # of the initial loss; keeps the logarithm finite when a task is solved exactly


def meta_loss(window: Window, name: MetaLossName, normalise: bool) -> Tensor | None:
    """The mean over the tasks that have not diverged, or None if all have.

    Args:
        window: its meta-losses are [K, B].
        name, normalise: see `MetaSettings`.
    Raises: TaskError if a log is asked for of a loss that is not positive.
    """
    alive = window.end.alive
    if not bool(alive.any()):
        return None
    losses = window.meta_losses[:, alive]
    initial = window.end.initial_loss[alive].abs()
    if name == "log":
        _check_positive(losses, initial)
        return (losses + FLOOR * initial).log().mean()
    if normalise:
        losses = losses / (initial + torch.finfo(initial.dtype).tiny)
    return losses[-1].mean() if name == "final" else losses.sum(0).mean()


def log_score(losses: Tensor, initial: Tensor) -> Tensor:
    """Mean log loss of each task over steps [T, B] -> [B]; what validation compares."""
    initial = initial.abs()
    _check_positive(losses, initial)
    return (losses + FLOOR * initial).log().mean(0)


def _check_positive(losses: Tensor, initial: Tensor) -> None:
    if not bool((losses.detach() + FLOOR * initial > 0).all()):
        raise TaskError(
            f"the logarithm of a loss was asked for, but a loss is {losses.min().item():.3g}; "
            "losses must be positive: add a constant to the family's loss"
        )
