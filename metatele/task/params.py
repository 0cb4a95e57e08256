"""Stacked parameters and small helpers on them.

Every tensor of an inner problem carries a leading task dimension B: the parameters of B copies of
one network are a mapping from the network's parameter names to tensors [B, ...].
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]


def map_params(fn: Callable[..., Tensor], *params: Mapping[str, Tensor]) -> Params:
    """Apply fn leaf by leaf: {name: fn(a[name], b[name], ...)}."""
    first = params[0]
    return {name: fn(*(p[name] for p in params)) for name in first}


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """All parameters of each task as one row, [B, n], in the mapping's order."""
    return torch.cat([p.reshape(len(p), -1) for p in params.values()], dim=1)


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The inverse of `flatten`: rows [B, n] back to the shapes of `like`."""
    sizes = [p[0].numel() for p in like.values()]
    parts = flat.split(sizes, dim=1)
    return {name: part.reshape(p.shape).to(p.dtype) for (name, p), part in zip(like.items(), parts, strict=True)}


def per_task(values: Tensor, like: Tensor) -> Tensor:
    """View [B] so that it broadcasts against a tensor [B, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def select_tasks(keep: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Params:
    """Take `new` where keep [B] is true and `old` elsewhere."""
    return map_params(lambda a, b: torch.where(per_task(keep, a), a, b), new, old)


def task_norm(params: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm over all parameters of each task, [B]."""
    squares = [p.reshape(len(p), -1).square().sum(1) for p in params.values()]
    return torch.stack(squares).sum(0).sqrt()


def smooth_norm(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-30) -> Tensor:
    """Euclidean norm over `dim` with a finite derivative at zero (eps is added under the root)."""
    return (x.square().sum(dim) + eps).sqrt()
