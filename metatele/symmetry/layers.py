"""Hidden layers: which parameters a group between two neighbouring linear layers touches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metatele.errors import SymmetryError
from metatele.symmetry.action import GroupAction
from metatele.task.params import Params

LayerInput = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class HiddenLayer:
    """One hidden layer of an MLP: h neurons between two linear maps.

    Attributes:
        name: what error messages call it.
        width: h.
        weight_in: name of W_in, [B, h, d_in].
        bias_in: name of b_in, [B, h], or None.
        weight_out: name of W_out, [B, d_out, h].
        layer_input: (params, inputs [B, n, ...]) -> the layer's own input [B, n, d_in], for what
            depends on the data; None if it is not known.
        sees_data: whether the layer's own input is the network's.
    """

    name: str
    width: int
    weight_in: str
    bias_in: str | None
    weight_out: str
    layer_input: LayerInput | None = None
    sees_data: bool = False

    def columns(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The layer's own input H with data as columns, [B, d_in, n].

        Raises: SymmetryError if `layer_input` is None.
        """
        if self.layer_input is None:
            raise SymmetryError(
                f"{self.name}: what depends on the data needs the layer's own input; pass layer_input= to "
                "HiddenLayer, a function (params, inputs [B, n, ...]) -> [B, n, d_in]"
            )
        rows = self.layer_input(params, inputs)
        return rows.reshape(len(rows), -1, rows.shape[-1]).mT  # whatever stands between is more rows

    def shift(self, params: Mapping[str, Tensor]) -> Tensor | float:
        """b_in as a column, [B, h, 1], or 0."""
        return 0.0 if self.bias_in is None else params[self.bias_in].unsqueeze(2)

    def pre_activations(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Z = W_in H + b_in, [B, h, n].

        Raises: SymmetryError if `layer_input` is None.
        """
        product = torch.bmm(params[self.weight_in], self.columns(params, inputs))
        return product if self.bias_in is None else product + self.shift(params)


class AtHiddenLayer(GroupAction):
    """What all groups of one hidden layer share.

    Args:
        layer: the hidden layer.
    """

    def __init__(self, layer: HiddenLayer) -> None:
        self.layer = layer

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def touches(self) -> tuple[str, ...]:
        """Names of the parameters that the group acts on."""
        names = (self.layer.weight_in, self.layer.bias_in, self.layer.weight_out)
        return tuple(name for name in names if name is not None)

    def left(self, matrix: Tensor, values: Mapping[str, Tensor]) -> Params:
        """W_in <- M W_in,  b_in <- M b_in, for matrices M [B, h, h]; the rest is passed on."""
        layer, out = self.layer, dict(values)
        out[layer.weight_in] = torch.bmm(matrix, values[layer.weight_in])
        if layer.bias_in is not None:
            out[layer.bias_in] = (matrix @ values[layer.bias_in].unsqueeze(2)).squeeze(2)
        return out

    def scale(self, rows: Tensor, columns: Tensor, values: Mapping[str, Tensor]) -> Params:
        """W_in <- diag(r) W_in,  b_in <- r * b_in,  W_out <- W_out diag(c), for r and c [B, h]."""
        layer, out = self.layer, dict(values)
        out[layer.weight_in] = rows.unsqueeze(2) * values[layer.weight_in]
        if layer.bias_in is not None:
            out[layer.bias_in] = rows * values[layer.bias_in]
        out[layer.weight_out] = values[layer.weight_out] * columns.unsqueeze(1)
        return out

    def change(
        self, activation: nn.Module, params: Mapping[str, Tensor], moved: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        """||W_out' s(Z') - W_out s(Z)|| / ||W_out s(Z)|| for parameters and moved ones, [B]."""

        def seen(values: Mapping[str, Tensor]) -> Tensor:
            return values[self.layer.weight_out] @ activation(self.layer.pre_activations(values, inputs))

        before = seen(params)
        change, size = (seen(moved) - before).norm(dim=(1, 2)), before.norm(dim=(1, 2))
        return torch.where(change == 0, change, change / size)  # a last layer of zeros is no change
