"""The mathematics that continuous and discrete symmetries share: a group that acts on parameters."""

import abc
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from metatele.support.modules import enter
from metatele.symmetry.second_moments import estimate_square
from metatele.task.params import Params, per_task

Group = TypeVar("Group", bound="GroupAction")
AUTO = "auto"  # the kind that stands for the first group that is found at a layer
OfData = tuple[Tensor, ...]  # what an action computes from the data alone, [B, ...] each


class GroupAction(abc.ABC):
    """A group G with loss(g . theta) == loss(theta) for every g in G, on stacked parameters.

    Every tensor carries a leading task dimension B; a group element g is a tensor [B, ...] whose
    layout belongs to the group. The action is differentiable; nothing changes its arguments.

    A group that is to be found in networks names its kind, which its class gives: `class PositiveScaling(AtHiddenLayer,
    Symmetry, kind="scaling", where="at ReLU", automatic=2)`.

    Attributes:
        kinds: all groups of a base that have a kind, {kind: class}.
        where: at which layers of networks it is found, in words.
        automatic: its rank among the groups that are tried at a layer when no kind is asked for; None if it is not
            tried.
        moves_gradient: whether the action changes the gradient; a group that does not cannot help
            plain gradient descent, though it moves the parameters.
        exact: whether the action leaves the loss unchanged on any data; a group that depends on the
            data does so on that data only.
        exact_rows: the largest number of data rows on which a data-dependent group is exact; None if
            there is no such limit.
    """

    kinds: ClassVar[dict[str, "type[GroupAction]"]]
    where: ClassVar[str] = ""
    automatic: ClassVar[int | None] = None
    moves_gradient: bool = True
    exact: bool = True

    def __init_subclass__(
        cls, kind: str | None = None, where: str = "", automatic: int | None = None, **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        if kind is not None:
            if kind == AUTO:
                raise TypeError(f"the kind {AUTO!r} of {cls.__qualname__} means the first of all kinds; choose another")
            if automatic is not None and not hasattr(cls, "at"):
                raise TypeError(
                    f"{cls.__qualname__} is tried at layers (automatic={automatic}), so it must define `at`"
                )
            cls.where, cls.automatic = where, automatic
            enter(cls.kinds, kind, cls)

    @classmethod
    def find(cls, network: nn.Module) -> Iterator["GroupAction"]:
        """The groups of this kind that a network has, in the order of its layers; none in general."""
        return iter(())

    @classmethod
    def example(cls) -> nn.Module | None:
        """A small network that has the group, for the conformance tests: a `nn.Sequential` that begins with a linear
        layer. None if networks of linear layers and common activations will do."""
        return None

    @property
    def name(self) -> str:
        """The group's name in error messages."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    @property
    def exact_rows(self) -> int | None:
        return None

    def too_many(self, inputs: Tensor) -> bool:
        """Whether there are more rows than the group can be exact on."""
        return self.exact_rows is not None and inputs.shape[1] > self.exact_rows

    @abc.abstractmethod
    def identity(self, like: Tensor) -> Tensor:
        """The identity for as many tasks as `like` [B, ...] has, with its dtype and device."""

    @abc.abstractmethod
    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """The product gh: first h, then g."""

    @abc.abstractmethod
    def inverse(self, g: Tensor) -> Tensor:
        """The element with compose(g, inverse(g)) the identity."""

    def select(self, keep: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """The element g of the tasks in keep [B], h of the others."""
        return torch.where(per_task(keep, g), g, h)

    def size(self, g: Tensor) -> Tensor:
        """How far each task's element is from the identity, [B], detached, in units that groups share:
        the root mean square of log g over the directions that it acts on (log-scales, angles).

        This general version takes the root mean square of g - 1 over its coordinates: exact where
        composition is +, otherwise right for small elements only.
        """
        change = (g - self.identity(g)).detach()
        return change.flatten(1).square().mean(1).sqrt()

    @abc.abstractmethod
    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        """The moved parameters g . theta.

        Args:
            g: group element, [B, ...].
            params: all parameters of the network, {name: [B, ...]}.
            inputs: the network's inputs [B, n, ...]; only data-dependent groups look at them.
        Returns: all parameters; those not touched are passed on as they are.
        """

    def of_data(self, inputs: Tensor) -> OfData:
        """What the action computes from the network's inputs [B, n, ...] alone, whatever the parameters; nothing by
        default."""
        return ()

    def on(self: Group, inputs: Tensor, made: OfData | None = None) -> Group:
        """The same group, which keeps what it computes from these inputs, so that acting does not compute it again.

        Args:
            inputs: the network's inputs, [B, n, ...].
            made: what `of_data` returned for them, if it is known already.
        """
        return self

    def residual(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """By how much the action changes what the next layer sees on the data, relative, [B]: zeros for
        groups that are exact on any data; ||W_out' s(Z') - W_out s(Z)|| / ||W_out s(Z)|| for others.
        """
        first = next(iter(params.values()))
        return first.new_zeros(len(first))

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        """Carry a gradient at theta to the gradient at g . theta, without another backward pass.

        loss(theta) = loss(g . theta) gives grad(g . theta) = (d theta / d (g . theta))^T grad(theta): the
        vector-Jacobian product of the inverse action at the moved point, which this general version
        computes. Exact on the data on which the action leaves the loss unchanged.
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
        """Carry a mean of squared gradients (Adam's second moment) along, as for gradient entries
        that are uncorrelated: v <- sum_j J_ij^2 v_j, where J is the matrix of `dual`. Exact where
        the action is diagonal, otherwise an unbiased estimate.
        """
        return estimate_square(lambda v: self.dual(g, params, moved, v, inputs), square)

    def core(self, covector: Mapping[str, Tensor], shared: Collection[str]) -> Params | None:
        """A smaller covector whose norm changes under `dual` as that of this one does; None by default.

        A group that has one must have a `dual` that looks at nothing but g and the covector.

        Args:
            covector: a gradient {name: [B, ...]}.
            shared: parameters that other factors of a product act on too, to be left as they are.
        """
        return None
