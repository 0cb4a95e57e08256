"""Numbers of a step, which are Python's, or tensors without dimensions while a step is traced."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log(x: float | Tensor) -> float | Tensor:
    """The logarithm of a number."""
    return x.log() if isinstance(x, Tensor) else math.log(x)


def where(condition: bool | Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x if the condition holds, else y, of the same shape."""
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    return x if condition else y


def row(numbers: Sequence[float | Tensor], like: Tensor) -> Tensor:
    """K numbers as a tensor [K] with the dtype and device of `like`.

    What is computed of numbers in Python costs a fraction of what operations on tensors do.
    """
    if not any(isinstance(x, Tensor) for x in numbers):
        return torch.tensor(numbers, dtype=like.dtype, device=like.device)
    traced = [torch.as_tensor(x, dtype=torch.float64, device=like.device) for x in numbers]
    return torch.stack(traced).to(like.dtype)
