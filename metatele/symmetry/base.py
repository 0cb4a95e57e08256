"""A continuous symmetry: a Lie group that acts on the parameters of a network."""

import abc

from torch import Tensor

from metatele.symmetry.action import GroupAction


class Symmetry(GroupAction):
    """A Lie group G with loss(g . theta) == loss(theta) for every g in G, on stacked parameters.

    A Lie algebra element T is [B, *algebra_shape], B tasks; g = exp(T) is a tensor [B, ...]. All
    maps are differentiable in T and in the parameters, and none changes its arguments.

    Only `algebra_shape`, `exp`, `compose`, `inverse` and `act` need to be written; the rest has
    general versions: `name`; `size`, which a group whose composition is not + overrides; `residual`, which
    a group that depends on the data overrides; `dual` and `dual_square`, which a group with a closed form
    overrides.
    """

    @property
    @abc.abstractmethod
    def algebra_shape(self) -> tuple[int, ...]:
        """Shape of one task's Lie algebra element."""

    @abc.abstractmethod
    def exp(self, algebra: Tensor) -> Tensor:
        """The group element exp(T); exp(0) is the identity."""

    def identity(self, like: Tensor) -> Tensor:
        return self.exp(like.new_zeros(len(like), *self.algebra_shape))
