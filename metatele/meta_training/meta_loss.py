"""Meta-losses: one number from a window's losses, to be made small by the learned weights."""

import torch
from torch import Tensor

from metatele.errors import TaskError
from metatele.meta_training.settings import MetaLossName
from metatele.unroll.trajectory import Window

BEGINS_SOLVED = 1e-12  # an initial loss up to which a task has nothing to learn, and gives no scale
SOLVED = 1e-8  # of the initial loss; keeps the logarithm finite when a task is solved exactly


def meta_loss(window: Window, name: MetaLossName, normalise: bool) -> Tensor:
    """The mean over the tasks.

    A task that has diverged counts with the loss at which it was stopped. In the window in which it diverges, each step
    that it has lost has the gradient of its last loss in order, so that the learned weights are pushed back, even if
    every task diverges. There, losses above the initial one count by their logarithm: a few that explode must not
    drown the others.

    Args:
        window: its meta-losses are [K, B].
        name, normalise: see `MetaSettings`.
    Raises: TaskError if the loss is "log" and a loss is not positive.
    """
    losses, scale, in_order = window.meta_losses, _scale(window.end.initial_loss), window.in_order
    if bool(in_order.all()):
        scores = _scores(losses, scale, name, normalise)
    else:
        losses = torch.where(in_order, losses, window.end.bar)
        scores = _with_price(_scores(losses, scale, name, normalise), losses, scale, in_order, name, normalise)
    return scores[-1].mean() if name == "final" else scores.mean() if name == "log" else scores.sum(0).mean()


def trajectory_score(losses: Tensor, initial: Tensor, name: MetaLossName, normalise: bool) -> Tensor:
    """The score that validation compares: each task's mean over the steps of a trajectory, [T, B] -> [B], of its
    log losses if the meta-loss is "log", otherwise of its losses, normalised if `normalise` is set."""
    return _scores(losses, _scale(initial), name, normalise).mean(0)


def _scores(losses: Tensor, scale: Tensor, name: MetaLossName, normalise: bool) -> Tensor:
    """What each loss counts, [K, B]."""
    if name == "log":
        _check_positive(losses, scale)
        return (losses + SOLVED * scale).log()
    return losses / (scale + torch.finfo(scale.dtype).tiny) if normalise else losses


def _with_price(
    scores: Tensor, losses: Tensor, scale: Tensor, in_order: Tensor, name: MetaLossName, normalise: bool
) -> Tensor:
    """The scores [K, B] of which some are not in order, with the gradient of those before them."""
    if name != "log":
        above = losses > scale
        logarithm = scale * (1 + (torch.where(above, losses, scale) / scale).log())
        tamed = _scores(torch.where(above, logarithm, losses), scale, name, normalise)
        scores = torch.where(in_order.all(0), scores, scores.detach() + tamed - tamed.detach())
    count = in_order.sum(0)
    last = scores.gather(0, (count - 1).clamp_min(0).unsqueeze(0))
    held = torch.where(count > 0, last - last.detach(), 0.0)
    return torch.where(in_order, scores, scores.detach() + held)


def _scale(initial: Tensor) -> Tensor:
    """What a task's losses are measured in, [B]: its initial loss; 1 for a task that begins solved."""
    return torch.where(initial.abs() > BEGINS_SOLVED, initial.abs(), 1.0)


def _check_positive(losses: Tensor, scale: Tensor) -> None:
    if not bool((losses.detach() + SOLVED * scale > 0).all()):
        raise TaskError(
            f"the logarithm of a loss was asked for, but a loss is {losses.min().item():.3g}; "
            "use meta.loss sum or final, or add a constant to the family's loss"
        )
