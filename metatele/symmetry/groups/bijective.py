"""The paper's data-dependent GL(h) for a bijective activation."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from metatele.errors import SymmetryError
from metatele.support.presume import presume
from metatele.symmetry.action import OfData
from metatele.symmetry.activations import bijective_slope
from metatele.symmetry.base import Symmetry
from metatele.symmetry.groups.general_linear import GeneralLinear
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import MatrixGL, singular_as_zero, solve, version
from metatele.task.params import Params


@dataclass
class _Data:
    """Inputs, their version, and what was computed from them; None until it is asked for."""

    inputs: Tensor | None = None
    version: int = 0
    made: OfData | None = None


class BijectiveGL(
    MatrixGL,
    kind="data_dependent",
    where="(GL(h) on as many data rows as the layer has inputs) at LeakyReLU with slope > 0 or no activation",
):
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
        self._data = _Data()

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> Symmetry | None:
        if not between:
            return GeneralLinear(layer)  # the same on the data, and exact on any
        slope = bijective_slope(between)
        return None if slope is None else cls(layer, slope)

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, dict(params)
        columns = self._columns(params, inputs)
        new_pre = leaky_relu(torch.bmm(self.matrix(g), self._hidden(params, inputs)), 1 / self.slope)
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
        """new_pre H^-1."""
        if not self.layer.sees_data:
            return solve(singular_as_zero(columns), new_pre, False)
        inverse, *singular = self.of_data(inputs)
        product = torch.bmm(new_pre, inverse)
        return torch.where(singular[0], torch.nan, product) if singular else product

    def of_data(self, inputs: Tensor) -> OfData:
        """If H is the network's inputs: H^-1, 0 for tasks without one, and, if there are such tasks, a mask of them,
        [B, 1, 1]. Otherwise nothing."""
        if not self.layer.sees_data:
            return ()
        if not self._is_on(inputs):
            return self._made_of(inputs)
        if self._data.made is None:
            self._data.made = self._made_of(inputs)
        return self._data.made

    def _made_of(self, inputs: Tensor) -> OfData:
        """What `of_data` returns, computed from these inputs."""
        columns = self._columns({}, inputs)
        one = torch.eye(columns.shape[-1], dtype=torch.float64, device=columns.device).expand_as(columns)
        exact = solve(singular_as_zero(columns.detach()).double(), one, True)  # in float64, as many steps reuse it
        with torch.inference_mode(False):  # it may also be used outside inference mode
            inverse = exact.to(columns.dtype, copy=True)
            lost = inverse.isnan().any(2, keepdim=True).any(1, keepdim=True)
            inverse = torch.where(lost, 0.0, inverse)  # NaN would stain the gradient of zero
            if presume(~lost, f"the data of {self.layer.name} have an inverse"):
                return (inverse,)
            return inverse, lost

    def on(self, inputs: Tensor, made: OfData | None = None) -> "BijectiveGL":
        if not self.layer.sees_data or (made is None and self._is_on(inputs)):
            return self
        bound = copy.copy(self)
        bound._data = _Data(inputs, version(inputs), made)
        return bound

    def _is_on(self, inputs: Tensor) -> bool:
        """Whether the group keeps what belongs to these inputs, and they have not changed since."""
        return self._data.inputs is inputs and self._data.version == version(inputs)

    def residual(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return self.change(nn.LeakyReLU(self.slope), params, self.act(g, params, inputs), inputs)
