"""Three test functions of optimisation as networks without data, with the groups that keep them.

Each has one parameter `w` and returns its value, [1], for inputs whose values are ignored: one row
without features, [1, 0] for one task and [B, 1, 0] for a stack. The loss is then `value_loss`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.symmetry import PlaneRotation, QuadraticOrthogonal, Symmetry


def value_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The value that a test function returned; the target is ignored."""
    return prediction.sum()


class Quadratic(nn.Module):
    """L(w) = w^T A w.

    Args:
        matrix: A, [n, n], symmetric and positive definite, n at least 2.
        start: where w starts, n numbers.
    Raises: SymmetryError for another matrix; ConfigError if `start` does not have n numbers.
    Source: Zhao et al. 2024, arXiv:2305.13404.
    """

    def __init__(self, matrix: Tensor, start: Tensor | Sequence[float]) -> None:
        super().__init__()
        self.group = QuadraticOrthogonal(matrix)
        self.w = _start(start, len(matrix))

    def forward(self, inputs: Tensor) -> Tensor:
        # The group's own matrix, so that a change of dtype cannot round the two differently.
        return (self.w @ self.group.matrix.to(self.w) @ self.w).reshape(1)

    def symmetries(self) -> list[Symmetry]:
        return [self.group]


class _PlaneFunction(nn.Module):
    """L(w) = u^2 + v^2 in the coordinates of a rotation of the plane."""

    def __init__(self, group: PlaneRotation, start: Tensor | Sequence[float]) -> None:
        super().__init__()
        self.group, self.w = group, _start(start, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.group.to_uv(self.w).square().sum().reshape(1)

    def symmetries(self) -> list[Symmetry]:
        return [self.group]


class Booth(_PlaneFunction):
    """L(x, y) = (x + 2 y - 7)^2 + (2 x + y - 5)^2, with its minimum 0 at (1, 3).

    Args:
        start: where w = (x, y) starts.
    Raises: ConfigError if `start` does not have 2 numbers.
    Source: Zhao et al. 2022, arXiv:2205.10637.
    """

    def __init__(self, start: Tensor | Sequence[float]) -> None:
        super().__init__(PlaneRotation.booth(), start)


class Rosenbrock(_PlaneFunction):
    """L(x, y) = 100 (x^2 - y)^2 + (x - 1)^2, with its minimum 0 at (1, 1).

    Args:
        start: where w = (x, y) starts.
    Raises: ConfigError if `start` does not have 2 numbers.
    Source: Zhao et al. 2022, arXiv:2205.10637.
    """

    def __init__(self, start: Tensor | Sequence[float]) -> None:
        super().__init__(PlaneRotation.rosenbrock(), start)


def _start(start: Tensor | Sequence[float], size: int) -> nn.Parameter:
    values = torch.as_tensor(start).detach().clone()
    if values.shape != (size,):
        raise ConfigError(f"start must be {size} numbers, got shape {tuple(values.shape)}")
    return nn.Parameter(values if values.is_floating_point() else values.to(torch.get_default_dtype()))
