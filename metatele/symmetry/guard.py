"""Finding the layer at which an action goes wrong."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from metatele.errors import SymmetryError
from metatele.support.presume import presume
from metatele.symmetry.base import Symmetry
from metatele.symmetry.product import Element, ProductGroup
from metatele.task.params import Params


def movable(group: ProductGroup, network: nn.Module, params: Collection[str]) -> ProductGroup:
    """The factors that move none of a network's parameters but these.

    Raises: SymmetryError if none is left, or if a group that depends on the data would have to look through layers with
        frozen parameters or buffers, which are not known to it.
    """
    frozen = [name for name, _ in network.named_parameters() if name not in params]
    kept = tuple(f for f in group.factors if not set(getattr(f, "touches", ())) & set(frozen))
    if group.factors and not kept:
        raise SymmetryError(
            f"every symmetry of the network would move a parameter that is frozen (requires_grad=False): "
            f"{', '.join(map(repr, frozen[:3]))}; train it, or leave the teleport out"
        )
    inside = [*frozen, *(name for name, _ in network.named_buffers())]
    unknown = next((f for f in kept if not f.exact), None)
    if inside and unknown is not None:
        raise SymmetryError(
            f"{unknown.name}: a symmetry that depends on the data knows trained parameters only, and the network has "
            f"{inside[0]!r}; use symmetry 'auto' or 'scaling'"
        )
    return group if len(kept) == len(group.factors) else ProductGroup(kept)


def check_finite(group: ProductGroup, element: Element, params: Mapping[str, Tensor], inputs: Tensor) -> None:
    """Check that acting with an element gives finite parameters.

    Raises: SymmetryError that names the first factor whose action made finite parameters of a
        task non-finite; tasks whose parameters are not finite to begin with do not count.
    """
    for factor, g, here in _path(group, element, params, inputs):
        lost = _finite(here) & ~_finite(factor.act(g, here, inputs))
        if bool(lost.any()):
            raise SymmetryError(
                f"the group element of {factor.name} is singular or its data are, in {int(lost.sum())} of "
                f"{len(lost)} tasks: the teleported parameters are not finite; teleport less far, or on other data"
            )


def check_residual(
    group: ProductGroup, element: Element, params: Mapping[str, Tensor], inputs: Tensor, tolerance: float
) -> dict[str, Tensor]:
    """Check that each factor's action changes what layers see on the data by no more than a tolerance.

    Returns: the residual [B] (see `Symmetry.residual`) of each data-dependent factor, by its name.
    Raises: SymmetryError that names the first factor above the tolerance; NaN counts as above.
    """
    residuals = {}
    for factor, g, here in _path(group, element, params, inputs):
        if factor.exact:
            continue
        residual = residuals[factor.name] = factor.residual(g, here, inputs).detach()
        if not presume(residual <= tolerance, f"the action on {factor.name} is exact enough on the data"):
            if factor.too_many(inputs):
                why = f"it is exact on at most {factor.exact_rows} rows: use fewer (a smaller batch)"
            else:
                why = "its matrices are ill-conditioned there: use float64"
            raise SymmetryError(
                f"the action on {factor.name} changes what the next layer sees by {float(residual.max()):.3g} "
                f"(relative), more than the tolerance {tolerance:.3g}, on {inputs.shape[1]} data rows; {why}, teleport "
                "less far, or allow a larger tolerance"
            )
    return residuals


@torch.no_grad()
def _path(
    group: ProductGroup, element: Element, params: Mapping[str, Tensor], inputs: Tensor
) -> Iterator[tuple[Symmetry, Tensor, Params]]:
    """Each factor with its element and the parameters it acts on."""
    here = dict(params)
    for factor, g in zip(group.factors, element, strict=True):
        yield factor, g, here
        here = factor.act(g, here, inputs)


def _finite(params: Mapping[str, Tensor]) -> Tensor:
    """Which tasks have finite parameters only, [B]."""
    return torch.stack([p.detach().reshape(len(p), -1).isfinite().all(1) for p in params.values()]).all(0)
