"""Permutations of the neurons of a layer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.activations import is_elementwise
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.matrices import matrix_size
from metatele.task.params import Params


class Permutations(
    AtHiddenLayer, DiscreteSymmetry, kind="permutations", where="permutations at elementwise activations", automatic=2
):
    """The symmetric group S_h: the order of a layer's neurons means nothing, for any elementwise activation.

    W_in[i] <- W_in[g(i)],  b_in[i] <- b_in[g(i)],  W_out[:, i] <- W_out[:, g(i)];  exact, for any data.
    A group element is the vector of indices g, [B, h] int64: neuron g(i) moves to place i.
    Source: Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight spaces".

    Args:
        layer: the hidden layer.
    """

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> "Permutations | None":
        return cls(layer) if is_elementwise(between) else None

    def sample(self, generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
        orders = [torch.randperm(self.layer.width, generator=g, device=g.device) for g in generators]
        return torch.stack(orders).to(like.device)

    def identity(self, like: Tensor) -> Tensor:
        return torch.arange(self.layer.width, device=like.device).expand(len(like), -1)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return h.gather(1, g)  # place i holds what h put at g(i)

    def inverse(self, g: Tensor) -> Tensor:
        return g.argsort(1)

    def size(self, g: Tensor) -> Tensor:
        """The size of the permutation matrix, as that of any orthogonal matrix (see `matrix_size`)."""
        return matrix_size(torch.eye(self.layer.width, dtype=torch.float64, device=g.device)[g])

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        layer, out = self.layer, dict(params)
        for name in filter(None, (layer.weight_in, layer.bias_in)):
            out[name] = _reorder(params[name], g)
        out[layer.weight_out] = _reorder(params[layer.weight_out].mT, g).mT
        return out


def _reorder(rows: Tensor, g: Tensor) -> Tensor:
    """Rows [B, h, ...] in a new order: row i of the result is row g(i)."""
    return rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), g]
