"""Sign flips of the neurons of a layer with an odd activation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.activations import is_odd
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.layers import HiddenLayer
from metatele.task.params import Params


class SignFlips(
    AtHiddenLayer, DiscreteSymmetry, kind="sign_flips", where="sign flips at odd ones, such as Tanh", automatic=1
):
    """The group {+1, -1}^h: sigma(-z) = -sigma(z) lets each neuron change its sign.

    W_in <- diag(g) W_in,  b_in <- g * b_in,  W_out <- W_out diag(g);  exact, for any data.
    A group element is its vector of signs g, [B, h], in the dtype of the parameters.
    Source: Chen, Lu, Hecht-Nielsen 1993, "On the geometry of feedforward neural network error surfaces".

    Args:
        layer: the hidden layer.
    """

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> "SignFlips | None":
        return cls(layer) if is_odd(between) else None

    def sample(self, generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
        bits = [torch.randint(2, (self.layer.width,), generator=g, device=g.device) for g in generators]
        return 2 * torch.stack(bits).to(like) - 1

    def identity(self, like: Tensor) -> Tensor:
        return like.new_ones(len(like), self.layer.width)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g * h

    def inverse(self, g: Tensor) -> Tensor:
        return g.clone()

    def size(self, g: Tensor) -> Tensor:
        """As a rotation: each flip turns its neuron by pi."""
        return torch.pi * (g < 0).to(g).mean(1).sqrt()

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        return self.scale(g, g, params)
