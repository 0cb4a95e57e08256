"""GL(h) as matrices, and how to divide by one."""

import torch
from torch import Tensor

from metatele.symmetry.base import Symmetry
from metatele.symmetry.layers import AtHiddenLayer


def solve(matrix: Tensor, rhs: Tensor, left: bool) -> Tensor:
    """matrix^-1 rhs (left) or rhs matrix^-1, [B, ...]; NaN, without a gradient, where it is singular,
    so that one task's singular matrix is that task's outcome and not everybody's error."""
    solution, info = torch.linalg.solve_ex(matrix, rhs, left=left)
    if not bool((info > 0).any()):
        return solution
    singular = (info > 0).reshape(-1, 1, 1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    solution = torch.linalg.solve(torch.where(singular, one, matrix), rhs, left=left)
    return torch.where(singular, torch.nan, solution)


def singular_as_zero(matrix: Tensor) -> Tensor:
    """The matrix, or 0 where a column is, to rounding, in the span of those before it: such a matrix
    has seldom a pivot of exactly 0, and dividing by its pivot of rounding errors moves weights at random."""
    pivots = torch.linalg.lu_factor_ex(matrix.detach())[0].diagonal(dim1=1, dim2=2).abs()
    rounding = matrix.shape[1] * torch.finfo(matrix.dtype).eps
    singular = (pivots <= rounding * matrix.detach().norm(dim=1)).any(1)
    return torch.where(singular.reshape(-1, 1, 1), 0.0, matrix)


def matrix_size(matrix: Tensor) -> Tensor:
    """How far invertible matrices [B, h, h] are from the identity, [B], detached: the root mean square of
    the logarithms of their singular values and of the angles of their polar rotation, together.

    A matrix M = R P stretches by P (positive definite) and rotates by R; mean(log(sigma)^2 + angle^2)
    counts both, is 0 for the identity only, the same for M and M^-1, and |log M|^2 / h where M is normal
    and turns by less than pi. Infinite for a singular matrix, NaN for one that is not finite.
    """
    matrix = matrix.detach()
    finite = matrix.flatten(1).isfinite().all(1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    left, stretch, right = torch.linalg.svd(torch.where(finite.reshape(-1, 1, 1), matrix, one))
    angles = torch.linalg.eigvals(left @ right).angle()
    square = stretch.log().square().mean(1) + angles.square().mean(1)
    return torch.where(finite, square.sqrt(), torch.nan)


class MatrixGL(AtHiddenLayer, Symmetry):
    """GL(h) of a hidden layer, connected to the identity by exp; how it acts is left open.

    A group element is the matrix g = exp(T), [B, h, h]; acting with a singular one gives NaN.
    """

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.layer.width, self.layer.width)

    def exp(self, algebra: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(algebra)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def size(self, g: Tensor) -> Tensor:
        return matrix_size(g)

    def inverse(self, g: Tensor) -> Tensor:
        return solve(g, torch.eye(g.shape[-1], dtype=g.dtype, device=g.device).expand_as(g), True)
