"""The product of the groups of several layers, acting one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.symmetry.action import OfData
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.base import Symmetry
from metatele.task.params import Params

Element = Sequence[Tensor]


def as_group(symmetries: object) -> "ProductGroup":
    """The product of a list of symmetries. Raises: ConfigError for anything else."""
    if isinstance(symmetries, (list, tuple)) and all(isinstance(s, Symmetry) for s in symmetries):
        return ProductGroup(tuple(symmetries))
    raise ConfigError(f"a group must be a list of symmetries, as symmetries_of(network) gives, got {symmetries!r}")


@dataclass(frozen=True)
class ProductGroup:
    """Groups of a network's layers, applied in order; an element is one group element per factor."""

    factors: tuple[Symmetry, ...] = ()

    @property
    def algebra_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(f.algebra_shape for f in self.factors)

    @property
    def exact(self) -> bool:
        """Whether the action leaves the loss unchanged on any data."""
        return all(f.exact for f in self.factors)

    def exp(self, algebra: Sequence[Tensor]) -> list[Tensor]:
        return [f.exp(t) for f, t in zip(self.factors, algebra, strict=True)]

    def identity(self, like: Tensor) -> list[Tensor]:
        """The identity for as many tasks as `like` [B, ...] has, with its dtype and device."""
        return [f.identity(like) for f in self.factors]

    def sizes(self, element: Element) -> Tensor:
        """How far each factor's element is from the identity, [factors, B] (see `GroupAction.size`)."""
        sizes = [f.size(g) for f, g in zip(self.factors, element, strict=True)]
        return torch.stack(sizes) if sizes else torch.empty(0, 0)

    def act(self, element: Element, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        moved = dict(params)
        for factor, g in zip(self.factors, element, strict=True):
            moved = factor.act(g, moved, inputs)
        return moved

    def of_data(self, inputs: Tensor) -> list[OfData]:
        """What each factor computes from the data alone (see `GroupAction.of_data`)."""
        return [f.of_data(inputs) for f in self.factors]

    def on(self, inputs: Tensor, made: Sequence[OfData] | None = None) -> "ProductGroup":
        """The same group, which keeps what each factor computes from these inputs (see `GroupAction.on`)."""
        each = [None] * len(self.factors) if made is None else made
        factors = tuple(f.on(inputs, own) for f, own in zip(self.factors, each, strict=True))
        return self if all(a is b for a, b in zip(factors, self.factors, strict=True)) else ProductGroup(factors)

    def carry(
        self,
        element: Element,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        gradients: Sequence[Params],
        squares: Sequence[Params] = (),
    ) -> tuple[Params, list[Params], list[Params]]:
        """Move the parameters, and carry gradients and squared gradients at theta along.

        Returns: g . theta, the gradients there, the squared gradients there.
        """
        here, gradients, squares = dict(params), list(gradients), list(squares)
        for factor, g in zip(self.factors, element, strict=True):
            there = factor.act(g, here, inputs)
            gradients = [factor.dual(g, here, there, v, inputs) for v in gradients]
            squares = [factor.dual_square(g, here, there, v, inputs) for v in squares]
            here = there
        return here, gradients, squares

    def core(self, covector: Mapping[str, Tensor]) -> Params | None:
        """A smaller covector whose norm changes under `dual` as this one's does, or None (see `GroupAction.core`)."""
        out: Params | None = dict(covector)
        for factor in self.factors:
            others = [f for f in self.factors if f is not factor]
            if out is None or not all(isinstance(f, AtHiddenLayer) for f in self.factors):
                return None
            out = factor.core(out, {name for f in others if isinstance(f, AtHiddenLayer) for name in f.touches})
        return out

    def dual(self, element: Element, core: Mapping[str, Tensor], inputs: Tensor) -> Params:
        """Carry a covector that is a `core`: the parameters themselves do not matter."""
        for factor, g in zip(self.factors, element, strict=True):
            core = factor.dual(g, {}, {}, core, inputs)
        return dict(core)
