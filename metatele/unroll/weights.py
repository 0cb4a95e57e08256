"""Adding meta-gradients to those that the learned weights have."""

from collections.abc import Iterable

import torch
from torch import Tensor


def add_to_weights(gradients: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Add gradients, which nobody else holds, to the `grad` of their weights."""
    for weight, gradient in gradients:
        if weight.grad is not None:
            weight.grad.add_(gradient)
        elif gradient.stride() == weight.stride():
            weight.grad = gradient
        else:  # a fused Adam reads both in the order in which they lie in memory
            weight.grad = torch.empty_like(weight).copy_(gradient)
