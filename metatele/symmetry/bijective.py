"""The paper's data-dependent GL(h) for a bijective activation."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from metatele.errors import SymmetryError
from metatele.params import Params
from metatele.symmetry.base import Symmetry
from metatele.symmetry.general_linear import GeneralLinear, solve
from metatele.symmetry.layers import HiddenLayer

LayerInput = Callable[[Mapping[str, Tensor], Tensor], Tensor]


class BijectiveGL(Symmetry):
    """GL(h) acting on the hidden activations sigma(W_in H) of given data, sigma a LeakyReLU.

    W_in <- sigma^-1(g sigma(Z)) H^-1 with Z = W_in H (+ b_in);  W_out <- W_out g^-1;  b_in stays.
    H [d_in, n] is the layer's own input, one column a row of data; it must be square (n = d_in) and
    invertible (singular data give NaN). Exact on that data; on other data the loss may change.
    Source: Zhao et al. 2024 (arXiv:2305.13404), appendix on data-dependent group actions; Zhao et
    al. 2022, arXiv:2205.10637, equation 8.

    Args:
        layer: the hidden layer.
        slope: negative slope of the LeakyReLU, > 0 (otherwise it has no inverse).
        layer_input: (params, inputs [B, n, ...]) -> the layer's own input [B, n, d_in].
    """

    def __init__(self, layer: HiddenLayer, slope: float, layer_input: LayerInput) -> None:
        if not slope > 0:
            raise SymmetryError(
                f"{layer.name}: LeakyReLU with negative slope {slope} is not bijective; "
                "the data-dependent GL(h) needs a slope above 0"
            )
        self.layer, self.slope, self.layer_input = layer, slope, layer_input
        self._linear = GeneralLinear(layer)

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return self._linear.algebra_shape

    def exp(self, algebra: Tensor) -> Tensor:
        return self._linear.exp(algebra)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return self._linear.compose(g, h)

    def inverse(self, g: Tensor) -> Tensor:
        return self._linear.inverse(g)

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, dict(params)
        rows = self.layer_input(params, inputs)
        if rows.dim() != 3 or rows.shape[1] != rows.shape[2]:
            raise SymmetryError(
                f"{layer.name}: the data-dependent GL(h) needs as many data rows as the layer has inputs, "
                f"got rows x inputs = {tuple(rows.shape[1:])}; change the batch, or use symmetry 'scaling'"
            )
        columns = rows.mT
        pre = params[layer.weight_in] @ columns
        shift = 0.0 if layer.bias_in is None else params[layer.bias_in].unsqueeze(2)
        hidden = g @ leaky_relu(pre + shift, self.slope)
        new_pre = leaky_relu(hidden, 1 / self.slope) - shift
        out[layer.weight_in] = solve(columns, new_pre, False)
        out[layer.weight_out] = solve(g, params[layer.weight_out], False)
        return out


def bijective_slope(activation: torch.nn.Module) -> float | None:
    """The slope of a LeakyReLU that has an inverse, else None."""
    if isinstance(activation, torch.nn.LeakyReLU) and activation.negative_slope > 0:
        return activation.negative_slope
    return None
