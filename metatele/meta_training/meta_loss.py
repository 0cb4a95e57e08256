"""Meta-losses: one number from a window's losses, to be made small by the learned weights."""

import torch
from torch import Tensor

from metatele.errors import TaskError
from metatele.meta_training.settings import MetaLossName, MetaSettings
from metatele.task.batch import MetaBatch
from metatele.unroll.trajectory import Window

BEGINS_SOLVED = 1e-12  # an initial loss up to which a task has nothing to learn, and gives no scale
HUGE = 100.0  # of the initial loss
LAST: tuple[MetaLossName, ...] = ("final", "end")  # of the window's losses only the last one counts


def meta_loss(window: Window, meta: MetaSettings, horizon: int) -> Tensor:
    """The mean over the tasks.

    A task that has diverged counts with the loss at which it was stopped. In the window in which it diverges, each step
    that it has lost has the gradient of its last loss in order, so that the learned weights are pushed back, even if
    every task diverges. There, losses above the initial one count by their logarithm: a few that explode must not
    drown the others.

    Args:
        window: its meta-losses are [K, B]; for "end", the trajectory's last one.
        meta: says which meta-loss.
        horizon: the length of the trajectory.
    Raises: TaskError if the loss is "log" or "end" and a loss is not positive.
    """
    losses, scale, in_order = window.meta_losses, _scale(window.end.initial_loss), window.in_order
    if bool(in_order.all()):
        scores = _scores(losses, scale, meta)
    else:
        losses = torch.where(in_order, losses, window.end.bar)
        scores = _with_price(_scores(losses, scale, meta), losses, scale, in_order, meta)
    return _total(scores, window.end.step, meta, horizon).mean()


@torch.no_grad()
def task_losses(window: Window, meta: MetaSettings, horizon: int, batch: MetaBatch) -> Tensor:
    """The meta-loss of each task, [B], where it is compared and not differentiated.

    Losses above `HUGE` times the initial one count by their logarithm: a difference between two trajectories must not
    be drowned by one that explodes, nor reward it for that.

    Args:
        window, meta, horizon: see `meta_loss`.
        batch: the tasks, to measure their accuracy.
    Raises: as `meta_loss`; NotImplementedError if the loss is "error" and the family measures no accuracy.
    """
    if meta.loss == "error":
        return error_rates(window, batch)
    scale, in_order = _scale(window.end.initial_loss), window.in_order
    losses = torch.where(in_order, window.meta_losses, window.end.bar)
    if not meta.logarithmic:
        losses = _tamed(losses, HUGE * scale)
    return _total(_scores(losses, scale, meta), window.end.step, meta, horizon)


@torch.no_grad()
def error_rates(window: Window, batch: MetaBatch) -> Tensor:
    """The fraction of each task's meta rows that are predicted wrong where the window ends, [B]; 1 for a task that has
    diverged."""
    x, y = batch.rows("meta")
    right = batch.accuracies(batch.predict(batch.trained(window.end.params), x), y)
    return torch.where(window.end.alive, 1 - right, 1.0).to(window.meta_losses.dtype)


@torch.no_grad()
def trajectory_scores(window: Window, batch: MetaBatch, meta: MetaSettings) -> Tensor:
    """What validation compares, of each task, [B], from the window of a whole trajectory: the mean over its steps of
    its log losses, weighed as in the meta-loss, if that is "log", otherwise of its losses, normalised if `normalise` is
    set; if it is "end",
    the log of its last loss; if it is "error", its `error_rates`. A task that has diverged counts at every step with
    the loss at which it would have been stopped."""
    if meta.loss == "error":
        return error_rates(window, batch)
    losses = torch.where(window.end.alive, window.meta_losses, window.end.bar)
    scores = _scores(losses, _scale(window.end.initial_loss), meta)
    return _total(scores, len(scores), meta, len(scores)) if meta.logarithmic else scores.mean(0)


def _total(scores: Tensor, end: int, meta: MetaSettings, horizon: int) -> Tensor:
    """The meta-loss of each task, [B], of its scores [K, B] in the window that ends at step `end`."""
    if meta.loss in LAST:
        return scores[-1]
    if meta.loss != "log":
        return scores.sum(0)
    if meta.growth == 0:
        return scores.mean(0)
    steps = torch.arange(end - len(scores), end, dtype=torch.float64, device=scores.device)
    weights = (1 + meta.growth) * ((steps + 0.5) / horizon) ** meta.growth  # one in the mean over the trajectory
    return (weights.to(scores.dtype).unsqueeze(1) * scores).mean(0)


def _scores(losses: Tensor, scale: Tensor, meta: MetaSettings) -> Tensor:
    """What each loss counts, [K, B]."""
    if meta.logarithmic:
        floor = meta.floor * scale  # keeps the logarithm finite when a task is solved exactly
        _check_positive(losses + floor, losses)
        return (losses + floor).log()
    return losses / (scale + torch.finfo(scale.dtype).tiny) if meta.normalise else losses


def _with_price(scores: Tensor, losses: Tensor, scale: Tensor, in_order: Tensor, meta: MetaSettings) -> Tensor:
    """The scores [K, B] of which some are not in order, with the gradient of those before them."""
    if not meta.logarithmic:
        tamed = _scores(_tamed(losses, scale), scale, meta)
        scores = torch.where(in_order.all(0), scores, scores.detach() + tamed - tamed.detach())
    count = in_order.sum(0)
    last = scores.gather(0, (count - 1).clamp_min(0).unsqueeze(0))
    held = torch.where(count > 0, last - last.detach(), 0.0)
    return torch.where(in_order, scores, scores.detach() + held)


def _tamed(losses: Tensor, scale: Tensor) -> Tensor:
    """Losses of which those above the scale are logarithms."""
    above = losses > scale
    return torch.where(above, scale * (1 + (torch.where(above, losses, scale) / scale).log()), losses)


def _scale(initial: Tensor) -> Tensor:
    """What a task's losses are measured in, [B]: its initial loss; 1 for a task that begins solved."""
    return torch.where(initial.abs() > BEGINS_SOLVED, initial.abs(), 1.0)


def _check_positive(raised: Tensor, losses: Tensor) -> None:
    if not bool((raised.detach() > 0).all()):
        raise TaskError(
            f"the logarithm of a loss was asked for, but a loss is {losses.min().item():.3g}; "
            "use meta.loss sum or final, or add a constant to the family's loss"
        )
