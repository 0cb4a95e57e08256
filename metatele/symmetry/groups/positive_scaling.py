"""Positive scaling of the neurons of a positively homogeneous layer (ReLU, LeakyReLU, identity)."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.symmetry.activations import is_homogeneous
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.base import Symmetry
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.product import ProductGroup
from metatele.task.params import Params, smooth_norm


class PositiveScaling(
    AtHiddenLayer,
    Symmetry,
    kind="scaling",
    where="(positive scaling of neurons) at ReLU, LeakyReLU or no activation",
    automatic=2,
):
    """The group R_+^h: sigma(c z) = c sigma(z) for c > 0 lets each neuron trade scale between layers.

    W_in <- diag(g) W_in,  b_in <- g * b_in,  W_out <- W_out diag(g)^-1;  exact, for any data.
    A group element is its vector of scales g = exp(T), [B, h].
    Source: Neyshabur et al. 2015, arXiv:1506.02617; Zhao et al. 2022, arXiv:2205.10637.

    Args:
        layer: the hidden layer.
    """

    @classmethod
    def at(cls, layer: HiddenLayer, between: Sequence[nn.Module]) -> "PositiveScaling | None":
        return cls(layer) if is_homogeneous(between) else None

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.layer.width,)

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
        return self.scale(g, g.reciprocal(), params)

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        return self.scale(g.reciprocal(), g, gradient)

    def dual_square(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        return self.scale(g.square().reciprocal(), g.square(), square)

    def core(self, covector: Mapping[str, Tensor], shared: Collection[str]) -> Params:
        """Rows of W_in are scaled as a whole, so their norms suffice."""
        out, name = dict(covector), self.layer.weight_in
        if name not in shared:
            out[name] = smooth_norm(out[name], 2).unsqueeze(2)
        return out

    def norms(self, params: Mapping[str, Tensor], eps: float = 1e-30) -> tuple[Tensor, Tensor]:
        """Norms of each neuron's incoming weights (with its bias) and of its outgoing weights, [B, h].

        eps is added under the roots, so that a neuron whose weights are all zero has a derivative.
        """
        layer = self.layer
        incoming = params[layer.weight_in].square().sum(2)
        if layer.bias_in is not None:
            incoming = incoming + params[layer.bias_in].square()
        return (incoming + eps).sqrt(), (params[layer.weight_out].square().sum(1) + eps).sqrt()

    def inner_products(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        """<a, b> over each neuron's incoming weights (with its bias), [B, h]."""
        layer = self.layer
        product = (a[layer.weight_in] * b[layer.weight_in]).sum(2)
        if layer.bias_in is not None:
            product = product + a[layer.bias_in] * b[layer.bias_in]
        return product

    def balancing(self, params: Mapping[str, Tensor]) -> Tensor:
        """The T whose exp equalises each neuron's incoming and outgoing norm, [B, h].

        T = (log ||W_out column|| - log ||W_in row||) / 2, and 0 where either norm is 0.
        """
        incoming, outgoing = self.norms(params)
        dead = (incoming < 1e-12) | (outgoing < 1e-12)
        return torch.where(dead, torch.zeros_like(incoming), 0.5 * (outgoing.log() - incoming.log()))


def only_scales(group: ProductGroup) -> bool:
    """Whether a group is made of positive scalings alone."""
    return all(isinstance(factor, PositiveScaling) for factor in group.factors)
