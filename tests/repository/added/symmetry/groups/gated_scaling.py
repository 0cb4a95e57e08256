"""Scaling of the ungated half of a gated linear unit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.base import Symmetry
from metatele.symmetry.layers import HiddenLayer
from metatele.task.params import Params
from metatele.task.stack import is_plain


class GatedScaling(AtHiddenLayer, Symmetry, kind="gated", where="(scaling of the linear half) at GLU", automatic=3):
    """The group R_+^h: GLU(a, b) = a * sigmoid(b) is linear in a.

    The first h rows of W_in and b_in <- diag(g) theirs,  W_out <- W_out diag(g)^-1;  exact, for any data.
    A group element is its vector of scales g = exp(T), [B, h], for a layer of width 2 h.

    Args:
        layer: the hidden layer.
    """

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> "GatedScaling | None":
        gated = len(between) == 1 and is_plain(between[0], nn.GLU) and between[0].dim == -1 and layer.width % 2 == 0
        return cls(layer) if gated else None

    @classmethod
    def example(cls) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.GLU(), nn.Linear(2, 2))

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.layer.width // 2,)

    def exp(self, algebra: Tensor) -> Tensor:
        return algebra.exp()

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g * h

    def inverse(self, g: Tensor) -> Tensor:
        return g.reciprocal()

    def size(self, g: Tensor) -> Tensor:
        """The root mean square log-scale."""
        return g.detach().log().square().mean(1).sqrt()

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        return self.scale(torch.cat([g, torch.ones_like(g)], dim=1), g.reciprocal(), params)
