"""GL(h) as matrices: their exponentials, and how to divide by one."""

import math

import torch
from torch import Tensor

from metatele.support.presume import presume
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.base import Symmetry


def solve(matrix: Tensor, rhs: Tensor, left: bool) -> Tensor:
    """matrix^-1 rhs (left) or rhs matrix^-1, [B, ...]; NaN, without a gradient, where it is singular,
    so that a singular matrix affects its own task only and is not an error for all."""
    # Not `torch.linalg.solve`, whose second derivative in forward mode is wrong (seen in torch 2.14).
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    if presume(info <= 0, "no matrix that is divided by is singular"):
        return torch.linalg.lu_solve(factors, pivots, rhs, left=left)
    singular = (info > 0).reshape(-1, 1, 1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factors, pivots = torch.linalg.lu_factor(torch.where(singular, one, matrix))
    return torch.where(singular, torch.nan, torch.linalg.lu_solve(factors, pivots, rhs, left=left))


def singular_as_zero(matrix: Tensor) -> Tensor:
    """The matrix, or 0 where a column is, to rounding, in the span of those before it: such a matrix
    seldom has a pivot of exactly 0, and dividing by a pivot that is only rounding error moves weights at random."""
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


RADIUS = 0.25  # Frobenius norm up to which the series are exact to rounding with this many terms:
TERMS = {torch.float64: 6, torch.float32: 3}
HALVINGS = 30  # at most, enough for a T with a norm of 2e8; a larger T gives NaN


def exp_pair(algebra: Tensor) -> tuple[Tensor, Tensor]:
    """exp(T) and exp(-T) of [B, h, h], by few matrix products: much faster than `torch.linalg.matrix_exp`, especially
    in the backward pass, and with the inverse at no extra cost.

    They are cosh(T) +- sinh(T), whose Taylor series share the powers of T^2. A T with a norm above RADIUS is halved,
    and its exponentials squared, as often as its own task needs; one that is too large for that gives NaN.
    """
    norm = algebra.detach().flatten(1).norm(dim=1)
    most = 0
    if not presume(~(norm > RADIUS), f"no Lie algebra element has a Frobenius norm above {RADIUS}"):
        halvings = (norm / RADIUS).log2().ceil().clamp(min=0).nan_to_num()
        far = halvings > HALVINGS
        halvings = torch.where(far, 0, halvings)
        most = int(halvings.max())
        algebra = algebra * torch.where(far, torch.nan, 0.5**halvings).reshape(-1, 1, 1)
    terms = TERMS.get(algebra.dtype, TERMS[torch.float64])
    square = power = torch.bmm(algebra, algebra)  # `@` would add three nodes to the graph
    cosh = ratio = torch.eye(algebra.shape[-1], dtype=algebra.dtype, device=algebra.device)
    for k in range(1, terms + 1):
        cosh = torch.add(cosh, power, alpha=1 / math.factorial(2 * k))
        ratio = torch.add(ratio, power, alpha=1 / math.factorial(2 * k + 1))
        if k < terms:
            power = torch.bmm(power, square)
    sinh = torch.bmm(algebra, ratio)
    forth, back = cosh + sinh, cosh - sinh
    for done in range(most):
        further = (done < halvings).reshape(-1, 1, 1)
        forth, back = (torch.where(further, torch.bmm(g, g), g) for g in (forth, back))
    return forth, back


def version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place; always 0 for inference tensors, which do not keep count."""
    return 0 if tensor.is_inference() else tensor._version


class MatrixGL(AtHiddenLayer, Symmetry):
    """GL(h) of a hidden layer, connected to the identity by exp; subclasses define how it acts.

    A group element is the matrix g = exp(T) with its inverse exp(-T), which costs nothing extra, [B, 2, h, h]. A
    matrix alone, [B, h, h], is accepted wherever an element is; acting with a singular one gives NaN.
    """

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.layer.width, self.layer.width)

    def exp(self, algebra: Tensor) -> Tensor:
        return torch.stack(exp_pair(algebra), 1)

    def identity(self, like: Tensor) -> Tensor:
        return torch.eye(self.layer.width, dtype=like.dtype, device=like.device).repeat(len(like), 2, 1, 1)

    def select(self, keep: Tensor, g: Tensor, h: Tensor) -> Tensor:
        if g.dim() != h.dim():
            g, h = self.matrix(g), self.matrix(h)
        return super().select(keep, g, h)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        product = self.matrix(g) @ self.matrix(h)
        if g.dim() == h.dim() == 4:
            return torch.stack([product, self.inverse_matrix(h) @ self.inverse_matrix(g)], 1)
        return product

    def size(self, g: Tensor) -> Tensor:
        return matrix_size(self.matrix(g))

    def inverse(self, g: Tensor) -> Tensor:
        return g.flip(1) if g.dim() == 4 else self.inverse_matrix(g)

    def matrix(self, g: Tensor) -> Tensor:
        """An element's matrix, [B, h, h]."""
        return g.unbind(1)[0] if g.dim() == 4 else g

    def inverse_matrix(self, g: Tensor) -> Tensor:
        """The inverse of an element's matrix, [B, h, h]."""
        if g.dim() == 4:
            return g.unbind(1)[1]
        return solve(g, torch.eye(g.shape[-1], dtype=g.dtype, device=g.device).expand_as(g), True)

    def divide(self, matrix: Tensor, g: Tensor) -> Tensor:
        """matrix g^-1, [B, rows, h]."""
        return torch.bmm(matrix, self.inverse_matrix(g)) if g.dim() == 4 else solve(g, matrix, False)
