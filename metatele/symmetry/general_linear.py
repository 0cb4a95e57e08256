"""GL(h) on the hidden space between two linear layers with no activation in between."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.params import Params
from metatele.symmetry.base import Symmetry
from metatele.symmetry.layers import HiddenLayer


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


class GeneralLinear(Symmetry):
    """GL(h), connected to the identity by exp: h neurons with the identity as activation.

    W_in <- g W_in,  b_in <- g b_in,  W_out <- W_out g^-1;  exact, for any data.
    A group element is the matrix g = exp(T), [B, h, h]; acting with a singular one gives NaN.
    Source: Zhao et al. 2022, arXiv:2205.10637, section 3.
    """

    def __init__(self, layer: HiddenLayer) -> None:
        self.layer = layer

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.layer.width, self.layer.width)

    def exp(self, algebra: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(algebra)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def inverse(self, g: Tensor) -> Tensor:
        return solve(g, torch.eye(g.shape[-1], dtype=g.dtype, device=g.device).expand_as(g), True)

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, self._left(g, params)
        out[layer.weight_out] = solve(g, params[layer.weight_out], False)
        return out

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        out = self._left(self.inverse(g).mT, gradient)
        out[self.layer.weight_out] = gradient[self.layer.weight_out] @ g.mT
        return out

    def dual_square(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        """The diagonal of the second moment for gradient entries that are uncorrelated: each matrix
        that carries the gradient acts with its squared entries. Exact for diagonal g."""
        out = self._left(self.inverse(g).mT.square(), square)
        out[self.layer.weight_out] = square[self.layer.weight_out] @ g.mT.square()
        return out

    def _left(self, matrix: Tensor, values: Mapping[str, Tensor]) -> Params:
        layer, out = self.layer, dict(values)
        out[layer.weight_in] = matrix @ values[layer.weight_in]
        if layer.bias_in is not None:
            out[layer.bias_in] = (matrix @ values[layer.bias_in].unsqueeze(2)).squeeze(2)
        return out
