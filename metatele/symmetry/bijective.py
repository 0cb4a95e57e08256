"""The paper's data-dependent GL(h) for a bijective activation."""

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from metatele.errors import SymmetryError
from metatele.support.presume import presume
from metatele.symmetry.action import OfData
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import MatrixGL, singular_as_zero, solve
from metatele.task.params import Params


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
        # The data, their version, and what was made of them.
        self._remembered: tuple[weakref.ref[Tensor], int, OfData] = weakref.ref(torch.empty(0)), 0, ()

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, dict(params)
        columns = self._columns(params, inputs)
        new_pre = leaky_relu(torch.bmm(g, self._hidden(params, inputs)), 1 / self.slope)
        if layer.bias_in is not None:
            new_pre = new_pre - layer.shift(params)
        out[layer.weight_in] = self._divide_by_data(new_pre, columns, inputs)
        out[layer.weight_out] = self.divide(params[layer.weight_out], g)
        return out

    def _columns(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """H, which has to be square."""
        columns = self.layer.columns(params, inputs)
        inside, rows = columns.shape[1:]
        if rows != inside:
            raise SymmetryError(
                f"{self.layer.name}: the data-dependent GL(h) needs as many data rows as the layer has inputs, "
                f"got rows x inputs = {(rows, inside)}; change the batch, or use symmetry 'scaling' or 'pseudo_inverse'"
            )
        return columns

    def _hidden(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return leaky_relu(self.layer.pre_activations(params, inputs), self.slope)

    def _divide_by_data(self, new_pre: Tensor, columns: Tensor, inputs: Tensor) -> Tensor:
        """new_pre H^-1. The inverse of the data themselves is made once, as long as they are the same tensor."""
        if not self.layer.sees_data or inputs.is_inference():
            return solve(singular_as_zero(columns), new_pre, False)
        inverse, *singular = self.of_data(inputs)
        product = torch.bmm(new_pre, inverse)
        return torch.where(singular[0], torch.nan, product) if singular else product

    def of_data(self, inputs: Tensor) -> OfData:
        """H^-1 (0 for tasks that have none) if H are the inputs, and, if some tasks have none, which, [B, 1, 1]."""
        if not self.layer.sees_data:
            return ()
        of, version, made = self._remembered
        if of() is not inputs or version != inputs._version:
            columns = self._columns({}, inputs)
            one = torch.eye(columns.shape[-1], dtype=torch.float64, device=columns.device).expand_as(columns)
            exact = solve(singular_as_zero(columns.detach()).double(), one, True)  # in float64, as it has to last
            with torch.inference_mode(False):  # it may have to serve outside, too
                inverse = exact.to(columns.dtype, copy=True)
                lost = inverse.isnan().any(2, keepdim=True).any(1, keepdim=True)
                inverse = torch.where(lost, 0.0, inverse)  # NaN would stain the gradient of zero
                made = (
                    (inverse,) if presume(~lost, f"the data of {self.layer.name} have an inverse") else (inverse, lost)
                )
            self.remember(inputs, made)
        return made

    def remember(self, inputs: Tensor, made: OfData) -> None:
        self._remembered = weakref.ref(inputs), inputs._version, made

    def residual(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return self.change(nn.LeakyReLU(self.slope), params, self.act(g, params, inputs), inputs)
