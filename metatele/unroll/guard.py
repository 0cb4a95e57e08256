"""Whether a network's group leaves its loss alone, tried once a meta-batch."""

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.support.seeding import generator
from metatele.symmetry import ProductGroup
from metatele.task.batch import MetaBatch
from metatele.task.family import Part

SCALE = 0.1  # standard deviation of the Lie algebra element's coordinates
ALLOWED = 1e-3  # relative change of the loss that rounding may explain


@torch.no_grad()
def check_group(group: ProductGroup, batch: MetaBatch, index: Tensor | None) -> None:
    """Act on the initial parameters with a random element, and compare the losses.

    A symmetry is read off a network's layers. Forward hooks, a forward that is written over, or a symmetry that a
    network declares by mistake may make the network another one than its layers say.

    Args:
        group: the group; nothing is checked if it is empty.
        batch: the tasks.
        index: row numbers [B, rows] of the first minibatch; None for all inner rows.
    Raises: SymmetryError if a loss moves; for a group that depends on the data, whose matrices may be ill-conditioned,
        if most losses do. Tasks of which one loss is not finite do not count.
    """
    part: Part = "inner"
    x, y = batch.rows(part, index)
    if not group.factors or any(factor.too_many(x) for factor in group.factors):  # what else is checked at each move
        return
    like = next(iter(batch.params.values()))
    stream = generator("group", *group.algebra_shapes)
    algebra = [
        # A random matrix of side h has a spectral norm of about 2 sqrt(h).
        (SCALE * max(shape[1:], default=1) ** -0.5 * torch.randn(len(like), *shape, generator=stream, dtype=like.dtype))
        for shape in group.algebra_shapes
    ]
    moved = group.act(group.exp([t.to(like.device) for t in algebra]), batch.trained(batch.params), x)
    before, after = (batch.losses(batch.predict(params, x), y) for params in (batch.params, moved))
    known = before.isfinite() & after.isfinite()
    if not bool(known.any()):
        return
    before, after = before[known], after[known]
    allowed = ALLOWED * (before.abs() + 0.1 * before.abs().max())
    off = (after - before).abs() > allowed
    if bool(off.any()) if group.exact else float(off.float().mean()) > 0.5:
        worst = int(((after - before).abs() / allowed.clamp_min(1e-30)).argmax())
        raise SymmetryError(
            f"{type(batch.family).__name__}: the symmetries of the network change its loss, from "
            f"{float(before[worst]):.6g} to {float(after[worst]):.6g}: it is not what its layers say (a forward hook? "
            "a forward of its own?), or declares symmetries that it has not; train without a teleport, or with "
            "LevelSetTeleport"
        )
