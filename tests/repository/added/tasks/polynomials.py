"""Regression on random polynomials of one variable."""

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily

from .mlp import check_activation, mlp


class Polynomials(TaskFamily):
    """Fit a random polynomial on [-1, 1], of unit variance, with an MLP.

    Args:
        degree: of the polynomials; coefficients are standard normal.
        hidden: width of the one hidden layer.
        rows: data rows of one task.
        parts: fractions of the rows that are inner, meta and test rows.
        batch_size: rows in a minibatch, or None for the full batch.
        activation: by its name in `metatele.tasks.mlp`.
    """

    def __init__(
        self,
        degree: int = 3,
        hidden: int = 8,
        rows: int = 32,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = 8,
        activation: str = "leaky_relu",
    ) -> None:
        if min(degree, hidden, rows) < 1:
            raise TaskError(f"degree, hidden and rows must be at least 1, got {(degree, hidden, rows)}")
        self.degree, self.hidden, self.rows = degree, hidden, rows
        self.parts, self.batch_size, self.activation = parts, batch_size, check_activation(activation)

    def network(self) -> nn.Module:
        return mlp([1, self.hidden, 1], self.activation)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = 2 * torch.rand(self.rows, 1, generator=generator) - 1
        coefficients = torch.randn(self.degree + 1, 1, generator=generator)
        y = x ** torch.arange(self.degree + 1) @ coefficients
        return x, y / y.std().clamp_min(1e-6)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()
