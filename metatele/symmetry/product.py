"""The product of the groups of several layers, acting one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.params import Params
from metatele.symmetry.base import Symmetry
from metatele.symmetry.layers import AtHiddenLayer

Element = Sequence[Tensor]


@dataclass(frozen=True)
class ProductGroup:
    """Groups of a network's layers, applied in order; an element is one group element a factor."""

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

    def act(self, element: Element, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        moved = dict(params)
        for factor, g in zip(self.factors, element, strict=True):
            moved = factor.act(g, moved, inputs)
        return moved

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
        """A smaller covector whose norm `dual` changes as it changes this one's, or None (see `GroupAction.core`)."""
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

    def check_finite(self, element: Element, params: Mapping[str, Tensor], inputs: Tensor) -> None:
        """Find who fails if acting with an element gives numbers that are not finite.

        Raises: SymmetryError that names the first factor whose action made finite parameters of a
            task non-finite; tasks whose parameters are not finite to begin with do not count.
        """
        for factor, g, here in self._path(element, params, inputs):
            lost = _finite(here) & ~_finite(factor.act(g, here, inputs))
            if bool(lost.any()):
                raise SymmetryError(
                    f"the group element of {factor.name} is singular or its data are, in {int(lost.sum())} of "
                    f"{len(lost)} tasks: the teleported parameters are not finite; teleport less far, or on other data"
                )

    def check_residual(
        self, element: Element, params: Mapping[str, Tensor], inputs: Tensor, tolerance: float
    ) -> dict[str, Tensor]:
        """Hold what each factor's action changes on the data (see `Symmetry.residual`) to a tolerance.

        Returns: the residual [B] of each factor that is not exact on any data, by its name.
        Raises: SymmetryError that names the first factor above it; a residual of NaN is.
        """
        residuals = {}
        for factor, g, here in self._path(element, params, inputs):
            if factor.exact:
                continue
            residual = residuals[factor.name] = factor.residual(g, here, inputs).detach()
            if not bool((residual <= tolerance).all()):
                exact = "" if factor.exact_rows is None else f"; it is exact on at most {factor.exact_rows} rows"
                raise SymmetryError(
                    f"the action on {factor.name} changes what the next layer sees by {float(residual.max()):.3g} "
                    f"(relative), more than the tolerance {tolerance:.3g}, on {inputs.shape[1]} data rows{exact}: use "
                    "fewer rows (a smaller batch), teleport less far, or allow a larger tolerance"
                )
        return residuals

    @torch.no_grad()
    def _path(
        self, element: Element, params: Mapping[str, Tensor], inputs: Tensor
    ) -> Iterator[tuple[Symmetry, Tensor, Params]]:
        """Each factor with its element and the parameters it acts on."""
        here = dict(params)
        for factor, g in zip(self.factors, element, strict=True):
            yield factor, g, here
            here = factor.act(g, here, inputs)


def _finite(params: Mapping[str, Tensor]) -> Tensor:
    """Which tasks have finite parameters only, [B]."""
    return torch.stack([p.detach().flatten(1).isfinite().all(1) for p in params.values()]).all(0)
