"""Adjoints that are kept from exploding on the way back through a window."""

from typing import Any

import torch
from torch import Tensor

from metatele.optimizer import InnerState
from metatele.task.params import Params, per_task


def clip_adjoints(new: Params, state: InnerState, old: Params, most: float) -> tuple[Params, InnerState]:
    """The same parameters and state, through which a backward pass lets at most so much of each task.

    Of each parameter tensor k of a task, |lambda_k| |step_k| bounds what a relative change of its step would change in
    the meta-loss, where lambda_k is the adjoint: the gradient of the meta-loss with respect to the tensor after the
    step. Where the norm of these numbers over the tensors is above `most`, all adjoints of the task, those of the state
    too, are scaled down by one factor. Without that, the adjoints of a trajectory that is chaotic grow exponentially
    (Metz et al. 2021, arXiv:2111.05803), and one task drowns all others of its meta-batch.

    Args:
        new, state: what a step gave, [B, ...]; of the state, tensors [B * n, ...] belong to tasks.
        old: the parameters before it.
        most: above zero.
    """
    moving = [k for k, p in new.items() if p.requires_grad]
    tensors = [*(new[k] for k in moving), *(t for t in state.tensors() if t.requires_grad)]
    if not moving:
        return new, state
    with torch.no_grad():
        moved = torch.stack([_norms(new[k] - old[k], len(new[k])) for k in moving])
    left = iter(_Clipped.apply(most, moved, *tensors))
    new = {k: next(left) if k in moving else p for k, p in new.items()}
    return new, state.map(lambda t: next(left) if t.requires_grad else t)


class _Clipped(torch.autograd.Function):
    """The identity; see `clip_adjoints`. It cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, most: float, moved: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """moved: how far each of the first K tensors was moved, [K, B]."""
        ctx.most = most
        ctx.save_for_backward(moved)
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        (moved,) = ctx.saved_tensors
        tasks = moved.shape[1]
        own = [(a, m) for a, m in zip(adjoints, moved.unbind(), strict=False) if a is not None]
        if not own:
            return None, None, *adjoints
        effect = torch.stack([_norms(a, tasks) * m for a, m in own]).square().sum(0).sqrt()
        finite = effect.isfinite()
        factor = ctx.most / effect.clamp(min=ctx.most)

        def clipped(adjoint: Tensor | None) -> Tensor | None:
            if adjoint is None or adjoint.dim() == 0 or len(adjoint) % tasks:
                return adjoint  # of all tasks
            rows = adjoint.reshape(tasks, -1)
            return torch.where(per_task(finite, rows), rows * per_task(factor, rows), 0).reshape(adjoint.shape)

        return None, None, *map(clipped, adjoints)


def _norms(tensor: Tensor, tasks: int) -> Tensor:
    """The norm of what belongs to each task, [B]."""
    return tensor.reshape(tasks, -1).square().sum(1).sqrt()
