"""The paper's data-dependent GL(h) for a bijective activation."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from metatele.errors import SymmetryError
from metatele.params import Params
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import MatrixGL, singular_as_zero, solve


class BijectiveGL(MatrixGL):
    """GL(h) acting on the hidden activations sigma(W_in H) of given data, sigma a LeakyReLU.

    W_in <- sigma^-1(g sigma(Z)) H^-1 with Z = W_in H (+ b_in);  W_out <- W_out g^-1;  b_in stays.
    H [d_in, n] is the layer's own input, one column a row of data; it must be square (n = d_in) and
    invertible (singular data give NaN). Exact on that data; on other data the loss may change.
    Source: Zhao et al. 2024 (arXiv:2305.13404), appendix on data-dependent group actions; Zhao et
    al. 2022, arXiv:2205.10637, equation 8.

    Args:
        layer: the hidden layer, with its `layer_input`.
        slope: negative slope of the LeakyReLU, > 0 (otherwise it has no inverse).
    Raises: SymmetryError for a slope that is not above 0; `act`, for data that are not square.
    """

    exact = False

    def __init__(self, layer: HiddenLayer, slope: float) -> None:
        super().__init__(layer)
        if not slope > 0:
            raise SymmetryError(
                f"{layer.name}: LeakyReLU with negative slope {slope} is not bijective; "
                "the data-dependent GL(h) needs a slope above 0"
            )
        self.slope = slope

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, dict(params)
        columns, shift = layer.columns(params, inputs), layer.shift(params)
        inside, rows = columns.shape[1:]
        if rows != inside:
            raise SymmetryError(
                f"{layer.name}: the data-dependent GL(h) needs as many data rows as the layer has inputs, "
                f"got rows x inputs = {(rows, inside)}; change the batch, or use symmetry 'scaling' or 'pseudo_inverse'"
            )
        hidden = g @ leaky_relu(params[layer.weight_in] @ columns + shift, self.slope)
        new_pre = leaky_relu(hidden, 1 / self.slope) - shift
        out[layer.weight_in] = solve(singular_as_zero(columns), new_pre, False)
        out[layer.weight_out] = solve(g, params[layer.weight_out], False)
        return out

    def residual(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return self.change(nn.LeakyReLU(self.slope), params, self.act(g, params, inputs), inputs)
