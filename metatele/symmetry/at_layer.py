"""What groups that act between two neighbouring linear layers share."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.action import GroupAction
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.sequential import hidden_layers
from metatele.task.params import Params


class AtHiddenLayer(GroupAction):
    """What all groups of one hidden layer share.

    Args:
        layer: the hidden layer.
    """

    def __init__(self, layer: HiddenLayer) -> None:
        self.layer = layer

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> GroupAction | None:
        """The group of a hidden layer with these modules between its two linear maps; None if it has none."""
        return None

    @classmethod
    def find(cls, network: nn.Module) -> Iterator[GroupAction]:
        """The groups of a network's hidden layers, in their order."""
        return filter(None, (cls.at(*found) for found in hidden_layers(network)))

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
        return torch.where(change == 0, change, change / size)  # 0, not 0 / 0, if W_out is zero
