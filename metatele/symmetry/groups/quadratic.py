"""The rotations that keep a quadratic form."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.symmetry.base import Symmetry
from metatele.symmetry.matrices import matrix_size
from metatele.task.params import Params


class QuadraticOrthogonal(Symmetry):
    """The group A^{-1/2} SO(n) A^{1/2}, which keeps w^T A w: rotations in the coordinates A^{1/2} w.

    w <- A^{-1/2} O A^{1/2} w;  exact. T [B, n (n - 1) / 2] is the strictly lower triangle of a skew
    matrix S, row by row, and g = O = exp(S), [B, n, n].
    Source: Zhao et al. 2024, arXiv:2305.13404, quadratic functions.

    Args:
        matrix: A, [n, n], n at least 2, symmetric and positive definite.
        parameter: name of w, [B, n].
        name: what errors call the group.
    Raises: SymmetryError if A is not such a matrix.
    """

    def __init__(self, matrix: Tensor, parameter: str = "w", name: str | None = None) -> None:
        self.parameter, self._name = parameter, name or f"the quadratic form of '{parameter}'"
        matrix = matrix.detach().double()
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
            raise SymmetryError(f"{self.name}: A must be [n, n] with n at least 2, got {tuple(matrix.shape)}")
        off = float((matrix - matrix.mT).abs().max())
        if not off <= 1e-6 * float(matrix.abs().max()):  # written so that a NaN fails
            raise SymmetryError(
                f"{self.name}: A must be symmetric, but A and A^T differ by {off:.3g}; use (A + A^T) / 2"
            )
        self.matrix = (matrix + matrix.mT) / 2
        values, vectors = torch.linalg.eigh(self.matrix)
        if not float(values.min()) > 0:
            raise SymmetryError(
                f"{self.name}: A must be positive definite, but its smallest eigenvalue is {float(values.min()):.3g}"
            )
        self.root = vectors * values.sqrt() @ vectors.mT
        self.inverse_root = vectors / values.sqrt() @ vectors.mT

    @property
    def name(self) -> str:
        return self._name

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        n = len(self.root)
        return (n * (n - 1) // 2,)

    def exp(self, algebra: Tensor) -> Tensor:
        n = len(self.root)
        row, column = torch.tril_indices(n, n, -1, device=algebra.device)
        places = (row * n + column).expand(len(algebra), -1)
        lower = algebra.new_zeros(len(algebra), n * n).scatter(1, places, algebra).reshape(-1, n, n)
        return torch.linalg.matrix_exp(lower - lower.mT)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def inverse(self, g: Tensor) -> Tensor:
        return g.mT

    def size(self, g: Tensor) -> Tensor:
        """The root mean square angle of the rotation."""
        return matrix_size(g)

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        return self._multiply(self.inverse_root, g, self.root, params)

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        return self._multiply(self.root, g, self.inverse_root, gradient)  # (A^{-1/2} O A^{1/2})^{-T}

    def dual_square(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        v = square[self.parameter]
        matrix = self.root.to(v) @ g @ self.inverse_root.to(v)
        return {**square, self.parameter: (matrix.square() @ v.unsqueeze(2)).squeeze(2)}

    def _multiply(self, left: Tensor, g: Tensor, right: Tensor, values: Mapping[str, Tensor]) -> Params:
        """w <- left g right w."""
        w = values[self.parameter]
        return {**values, self.parameter: (left.to(w) @ g @ right.to(w) @ w.unsqueeze(2)).squeeze(2)}
