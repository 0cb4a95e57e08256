"""A continuous symmetry: a Lie group that acts on the parameters of a network."""

import abc
from typing import ClassVar

from torch import Tensor

from metatele.symmetry.action import GroupAction


class Symmetry(GroupAction):
    """A Lie group G with loss(g . theta) == loss(theta) for every g in G, on stacked parameters.

    A Lie algebra element T is [B, *algebra_shape], B tasks; g = exp(T) is a tensor [B, ...]. All
    maps are differentiable in T and in the parameters, and none changes its arguments.

    To be written:
        algebra_shape: shape of one task's T.
        exp(T): the group element, a tensor [B, ...] of any layout; exp(0) is the identity.
        compose(g, h): the product gh, that is first h, then g; inverse(g): the element that undoes g.
        act(g, params, inputs): the moved parameters {name: [B, ...]}, all of them, in their order; what the group does
            not touch is passed on. `inputs` [B, n, ...] are the network's, for groups that depend on the data.

    The rest has general versions (see `GroupAction`): `name`; `size`, which a group whose composition is not +
    overrides; `dual` and `dual_square`, which a group with a closed form overrides; `residual`, `of_data` and `on`,
    which a group that depends on the data overrides. `check_symmetry` checks all of it.

    To be found in networks, a group is put into `metatele/symmetry/groups/`, names its kind (see `GroupAction`), and
    says by `at` (see `AtHiddenLayer`) or `find` at which layers it is. If that takes other layers than linear ones and
    common activations, its `example` gives a network for the conformance tests. One that acts on other parameters than
    W_in, b_in and W_out says so by `touches`.
    """

    kinds: ClassVar[dict[str, type[GroupAction]]] = {}

    @property
    @abc.abstractmethod
    def algebra_shape(self) -> tuple[int, ...]:
        """Shape of one task's Lie algebra element."""

    @abc.abstractmethod
    def exp(self, algebra: Tensor) -> Tensor:
        """The group element exp(T); exp(0) is the identity."""

    def identity(self, like: Tensor) -> Tensor:
        return self.exp(like.new_zeros(len(like), *self.algebra_shape))
