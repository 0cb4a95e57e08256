"""Teleportation in the null spaces of the layers' inputs, for networks with linear and convolutional layers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.landscape import Landscape, Objective
from metatele.support.checks import within
from metatele.task.params import Params, flatten, unflatten
from metatele.teleports.climb import Direction
from metatele.teleports.groupless import Aim, GrouplessTeleport
from metatele.teleports.layer_inputs import find_layers, free_directions, layer_inputs, span
from metatele.teleports.moved import Spot

LISTED = 4  # layers that an error names


class NullSpaceTeleport(GrouplessTeleport):
    """Ascent (or descent) of an objective by steps that change no layer's output on the batch.

    For each layer with weight W and inputs H [d, rows] on the batch, the objective's gradient G is
    projected on the null space of H^T: dW = G (I - V V^T), with V an orthonormal basis of the columns
    of H, so that dW H = 0. A bias moves with its weight, as the column of a constant input 1; a
    convolution's inputs are its patches. As no layer's output changes, no layer's input does, and
    all layers move at once. V is computed once for a teleport.

    Outputs and loss are kept only on the rows looked at. There is a null space only if these are few, so off
    them the loss may change a lot (see `GrouplessTeleport`).

    Layers are all nn.Linear, nn.Conv1d and nn.Conv2d that the network calls, anywhere in it, however
    often. All other parameters stay: those of other modules, those that several modules share, and
    those of layers that are not called as modules (the projections inside nn.MultiheadAttention).

    Source: Wu, Dong, Aloui and Tarokh 2025, arXiv:2502.11362.

    Args:
        rtol: a singular value of H counts as zero up to this fraction of the largest one. The loss moves
            about as much, so larger values give larger null spaces and less exact teleports.
        objective, steps, lr, direction, tolerance, rows, first, last, every: see `GrouplessTeleport`.
    """

    def __init__(
        self,
        objective: str | Objective = "gradient_norm",
        steps: int = 10,
        lr: float = 0.1,
        direction: Direction = "ascend",
        tolerance: float = 1e-3,
        rows: int | None = None,
        rtol: float = 1e-5,
        first: int = 0,
        last: int | None = 0,
        every: int = 1,
    ) -> None:
        super().__init__(objective, steps, lr, direction, tolerance, rows, first, last, every)
        within(0, 1, rtol=rtol)
        self.rtol = rtol

    def aim(self, landscape: Landscape, params: Params) -> Aim:
        """Raises: SymmetryError if no layer can move on this batch."""
        layers = find_layers(landscape.network, params)
        inputs, counts = layer_inputs(landscape, params, layers)
        bases = {name: span(h, self.rtol) for name, h in inputs.items()}
        if not any(bool(free_directions(v).any()) for v in bases.values()):
            raise SymmetryError(_full(type(self).__name__, inputs, counts))

        def projected(here: Spot, excess: Tensor) -> tuple[Tensor, Tensor]:
            slope = unflatten(here.slope, params)
            moves = {k: torch.zeros_like(s) for k, s in slope.items()}
            for name, basis in bases.items():
                moves.update(layers[name].project(slope, basis))
            return flatten(moves), torch.zeros_like(here.slope)

        return projected


def _full(name: str, inputs: Mapping[str, Tensor], counts: Mapping[str, int]) -> str:
    """Why no layer can move."""
    if not inputs:
        return (
            f"{name} found no nn.Linear, nn.Conv1d or nn.Conv2d that the network calls and whose parameters are its "
            "own; use LevelSetTeleport"
        )
    sizes = [f"{k or 'the network'} has {h.shape[-1]} inputs and saw {counts[k]} rows" for k, h in inputs.items()]
    more = f" and {len(sizes) - LISTED} more" if len(sizes) > LISTED else ""
    return (
        f"{name} cannot move any layer, because the inputs of each span their whole space on this batch: "
        f"{'; '.join(sizes[:LISTED])}{more} (a bias counts as an input, each position of a convolution as a row); "
        "give it fewer rows: a smaller batch, or, in an inner loop, rows=...; or use LevelSetTeleport"
    )
