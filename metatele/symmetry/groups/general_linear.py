"""GL(h) on the hidden space between two linear layers with no activation in between."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import MatrixGL
from metatele.task.params import Params


class GeneralLinear(MatrixGL, kind="general_linear", where="(GL(h)) at no activation", automatic=1):
    """GL(h), connected to the identity by exp: h neurons with the identity as activation.

    W_in <- g W_in,  b_in <- g b_in,  W_out <- W_out g^-1;  exact, for any data.
    Source: Zhao et al. 2022, arXiv:2205.10637, section 3.

    Args:
        layer: the hidden layer.
    """

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> "GeneralLinear | None":
        return None if between else cls(layer)

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        out = self.left(self.matrix(g), params)
        out[self.layer.weight_out] = self.divide(params[self.layer.weight_out], g)
        return out

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        out = self.left(self.inverse_matrix(g).mT, gradient)
        out[self.layer.weight_out] = gradient[self.layer.weight_out] @ self.matrix(g).mT
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
        out = self.left(self.inverse_matrix(g).mT.square(), square)
        out[self.layer.weight_out] = square[self.layer.weight_out] @ self.matrix(g).mT.square()
        return out

    def core(self, covector: Mapping[str, Tensor], shared: Collection[str]) -> Params:
        """W_in is multiplied from the left, so the triangular factor of its transpose suffices."""
        out, name = dict(covector), self.layer.weight_in
        if name not in shared and out[name].shape[2] > out[name].shape[1]:
            out[name] = torch.linalg.qr(out[name].mT, mode="r")[1].mT
        return out
