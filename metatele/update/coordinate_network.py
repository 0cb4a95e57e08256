"""A tiny network that every coordinate of a tensor goes through."""

import torch
from torch import Tensor, nn

from metatele.support.seeding import seeded


class CoordinateNetwork(nn.Module):
    """y = v . tanh(W tanh(x / 3) + b + shift) for each coordinate, x its numbers.

    Args:
        inputs: how many numbers a coordinate has.
        hidden: units.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        with seeded(0):
            self.inner, self.outer = nn.Linear(inputs, hidden), nn.Linear(hidden, 1, bias=False)
        self.outer.weight.data.mul_(0.1)

    def initialise(self) -> None:
        """Draw all weights anew from torch's global generator."""
        self.inner.reset_parameters()
        self.outer.reset_parameters()
        self.outer.weight.data.mul_(0.1)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Numbers [B, inputs, n] and shifts [B, hidden] to [B, n]."""
        sums = self.inner.weight @ torch.tanh(x / 3) + (self.inner.bias + shift).unsqueeze(2)
        return (self.outer.weight @ sums.tanh()).squeeze(1)
