"""Measuring a torch model: sharpness, curvature, any objective."""

import torch
from torch import Tensor, nn

from metatele.landscape import Landscape, LossFunction, ObjectiveFunction, Place, find_objective, value_of
from metatele.symmetry import Kind, ProductGroup, group_of
from metatele.torch_model.arguments import check_arguments


def measure(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
    objective: str | ObjectiveFunction = "sharpness",
    symmetry: Kind | None = None,
) -> float:
    """What a teleport would climb, at a model's present parameters, which stay as they are.

        metatele.measure(model, (x, y), loss_fn, metatele.Sharpness(directions=200))

    Args:
        model, batch, loss_fn: see `metatele.teleport`.
        objective: "sharpness", "curvature", "gradient_norm", an object such as `Curvature()`, or a
            function of a `Place`.
        symmetry: the group along whose orbits to look (see `metatele.symmetries_of`); None for the
            curvature means "auto", for anything else no group.
    Raises: ConfigError for bad arguments; SymmetryError if a group is needed and none is known.
    """
    check_arguments(model, batch, loss_fn, (), 0)
    found = find_objective(objective)
    wanted = symmetry or ("auto" if getattr(found, "needs_group", False) else None)
    group = ProductGroup() if wanted is None else group_of(model, wanted)
    landscape = Landscape(model, loss_fn, batch[0].unsqueeze(0), batch[1].unsqueeze(0), group)
    params = {k: p.detach().unsqueeze(0) for k, p in model.named_parameters()}
    with torch.enable_grad():
        return float(value_of(found, Place(landscape, params)).detach())
