"""The mathematics of a symmetry group that acts on the parameters of a network."""

import abc
from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.params import Params, map_params


class Symmetry(abc.ABC):
    """A group G with loss(g . theta) == loss(theta) for every g in G, on stacked parameters.

    Every tensor carries a leading task dimension B. A Lie algebra element T is [B, *algebra_shape];
    a group element g is a tensor [B, ...] whose layout belongs to the group. All maps are
    differentiable in T and in the parameters, and none changes its arguments.

    Only `algebra_shape`, `exp`, `compose`, `inverse` and `act` need to be written; `dual` and
    `dual_square` have general versions, which a group with a closed form overrides.
    """

    @property
    @abc.abstractmethod
    def algebra_shape(self) -> tuple[int, ...]:
        """Shape of one task's Lie algebra element."""

    @abc.abstractmethod
    def exp(self, algebra: Tensor) -> Tensor:
        """The group element exp(T); exp(0) is the identity."""

    @abc.abstractmethod
    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """The product gh: first h, then g."""

    @abc.abstractmethod
    def inverse(self, g: Tensor) -> Tensor:
        """The element with compose(g, inverse(g)) equal to the identity."""

    @abc.abstractmethod
    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        """The moved parameters g . theta.

        Args:
            g: group element, [B, ...].
            params: all parameters of the network, {name: [B, ...]}.
            inputs: the network's inputs [B, n, ...]; only data-dependent groups look at them.
        Returns: all parameters; those that the group does not touch are passed on as they are.
        """

    def identity(self, like: Tensor) -> Tensor:
        """The identity for as many tasks as `like` [B, ...] has, with its dtype and device."""
        return self.exp(like.new_zeros(len(like), *self.algebra_shape))

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        """Carry a gradient at theta to the gradient at g . theta, without another backward pass.

        loss(theta) = loss(g . theta) gives grad(g . theta) = (d theta / d (g . theta))^T grad(theta):
        the vector-Jacobian product of the inverse action at the moved point, which is what this
        general version computes. Exact on the data on which the action leaves the loss unchanged.
        """
        back = self.inverse(g)
        vjp = torch.func.vjp(lambda p: self.act(back, p, inputs), dict(moved))[1]
        (carried,) = vjp(dict(gradient))
        return carried

    def dual_square(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        """Carry a mean of squared gradients (Adam's second moment) along.

        Exact where the action is diagonal. This general version carries the root as a gradient and
        squares it; a group that mixes coordinates can do better by overriding it.
        """
        root = map_params(lambda v: (v + 1e-30).sqrt(), square)
        return map_params(torch.square, self.dual(g, params, moved, root, inputs))
