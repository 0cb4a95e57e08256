"""Hidden layers: the parameters of two neighbouring linear layers, and what the neurons between them see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metatele.errors import SymmetryError

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
                f"{self.name}: a data-dependent action or rule needs the layer's own input; pass layer_input= to "
                "HiddenLayer, a function (params, inputs [B, n, ...]) -> [B, n, d_in]"
            )
        rows = self.layer_input(params, inputs)
        return rows.reshape(len(rows), -1, rows.shape[-1]).mT  # dimensions in between count as rows

    def shift(self, params: Mapping[str, Tensor]) -> Tensor | float:
        """b_in as a column, [B, h, 1], or 0."""
        return 0.0 if self.bias_in is None else params[self.bias_in].unsqueeze(2)

    def pre_activations(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Z = W_in H + b_in, [B, h, n].

        Raises: SymmetryError if `layer_input` is None.
        """
        product = torch.bmm(params[self.weight_in], self.columns(params, inputs))
        return product if self.bias_in is None else product + self.shift(params)
