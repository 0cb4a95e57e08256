"""The paper's data-dependent GL(h) for any activation."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from metatele.symmetry.activations import is_elementwise
from metatele.symmetry.base import Symmetry
from metatele.symmetry.groups.general_linear import GeneralLinear
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import MatrixGL, singular_as_zero, solve
from metatele.task.params import Params


class PseudoInverseGL(
    MatrixGL,
    kind="pseudo_inverse",
    where="(GL(h) on at most h data rows) at any elementwise activation or none",
):
    """GL(h) acting on the pre-activations Z = W_in H + b_in [h, n] of given data, for any activation s.

    W_in <- g W_in,  b_in <- g b_in, so that Z <- g Z, and W_out makes up for it on the data:

    n <= h: W_out <- W_out A(Z) A(gZ)^-1 with A(Z) = [s(Z), K], where K [h, h - n] has fixed
    orthonormal columns. This keeps W_out s(Z), is the paper's formula for n = h, and is a true group
    action (W_out A(Z) stays the same). The paper's W_out s(Z) s(gZ)^+ alone is not one for n < h: its
    identity projects W_out onto the span of s(Z), which forgets what the layer does off the batch.
    An A(gZ) that is singular to rounding (two equal rows, a row on which all ReLUs are dead) gives NaN
    for its task.

    n > h: W_out <- W_out s(Z) s(gZ)^+, the least squares fit, no longer a group action: `residual`
    reports what is lost on the data, and the gradients that `dual` carries are off by as much.

    Source: Zhao et al. 2024 (arXiv:2305.13404), appendix on data-dependent group actions; the
    completion by K is ours.

    Args:
        layer: the hidden layer, with its `layer_input`.
        activation: s, elementwise and without parameters.
    """

    exact = False

    def __init__(self, layer: HiddenLayer, activation: nn.Module) -> None:
        super().__init__(layer)
        self.activation = activation

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> Symmetry | None:
        if not between:
            return GeneralLinear(layer)  # the same on the data, and exact on any
        return cls(layer, nn.Sequential(*between)) if is_elementwise(between) else None

    @property
    def exact_rows(self) -> int | None:
        return self.layer.width

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        pre, out = self.layer.pre_activations(params, inputs), self.left(self.matrix(g), params)
        # On a copy, because an activation may work in place.
        before, after = self.activation(pre.clone()), self.activation(self.matrix(g) @ pre)
        weight, missing = params[self.layer.weight_out], pre.shape[1] - pre.shape[2]
        if missing < 0:
            out[self.layer.weight_out] = weight @ before @ _pinv(after)
        else:
            fill = torch.as_tensor(_completion(pre.shape[1], missing), dtype=pre.dtype, device=pre.device)
            fill = fill.expand(len(pre), -1, -1)
            full, new = (torch.cat([s, fill], 2) for s in (before, after))
            out[self.layer.weight_out] = solve(singular_as_zero(new), weight @ full, False)
        return out

    def residual(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return self.change(self.activation, params, self.act(g, params, inputs), inputs)


@cache
def _completion(rows: int, columns: int) -> np.ndarray:
    """K: the same orthonormal columns in every call."""
    # In numpy, because a tensor made inside one of torch's transforms must not outlive it.
    return np.linalg.qr(np.random.default_rng(0).standard_normal((rows, columns)))[0]


def _pinv(matrix: Tensor) -> Tensor:
    """The pseudo-inverse [B, n, h] of [B, h, n]; NaN for the tasks with entries that are not finite."""
    finite = matrix.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    return torch.where(finite, torch.linalg.pinv(torch.where(finite, matrix, 0.0)), torch.nan)
