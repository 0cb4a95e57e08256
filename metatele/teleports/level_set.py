"""Teleportation along the level set of any loss, by gradients and Hessian-vector products."""

import torch
from torch import Tensor

from metatele.landscape import Landscape, Objective
from metatele.task.params import Params
from metatele.teleports.climb import Direction
from metatele.teleports.groupless import Aim, GrouplessTeleport
from metatele.teleports.moved import LEAST_DIVISOR, Spot, View

LEEWAY = 0.3  # how far the loss may stray on the way; from farther off the level set is often not reached again
CORRECTIONS = 5  # most Newton steps back to the level set at the end


class LevelSetTeleport(GrouplessTeleport):
    """Ascent (or descent) of an objective along {w: L(w) = L(w_0)}, whatever the network.

    With v the gradient of L, q that of the objective and P = I - v v^T / |v|^2, a step is

        w <- w + rho P q / |P q| - v (L(w) - L(w_0)) / |v|^2,

    along the tangent of the level set, and back to it to first order. rho is
    halved until the objective, minus a penalty for |L(w) - L(w_0)|, grows enough. At the end a few
    steps of the second kind alone restore the loss. If it is then not within the tolerance, or the
    objective got worse, the task stays where it was.

    L is the loss on the rows looked at: off them the loss is not kept (see `GrouplessTeleport`).

    Source: Mishkin, Bietti and Gower 2024, arXiv:2403.03362 (there for the logarithm of the gradient
    norm, with a step size that may also grow).

    Args:
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
        first: int = 0,
        last: int | None = 0,
        every: int = 1,
    ) -> None:
        super().__init__(objective, steps, lr, direction, tolerance, rows, first, last, every)

    @property
    def leeway(self) -> float:
        return max(LEEWAY, self.tolerance)

    def aim(self, landscape: Landscape, params: Params) -> Aim:
        def tangent(here: Spot, excess: Tensor) -> tuple[Tensor, Tensor]:
            return here.slope - here.gradient * here.price.unsqueeze(1), _back(here.gradient, excess)

        return tangent

    def settle(self, view: View, start: Spot, end: Spot) -> Spot:
        flat, gradient, excess = end.flat, end.gradient, end.loss - start.loss
        for _ in range(CORRECTIONS):
            trial = flat + _back(gradient, excess)
            left = view.loss(trial) - start.loss
            closer = left.abs() < excess.abs()
            if not bool(closer.any()):
                break
            flat, excess = torch.where(closer.unsqueeze(1), trial, flat), torch.where(closer, left, excess)
            gradient = view.gradient(flat)
        return view.at(flat)


def _back(gradient: Tensor, excess: Tensor) -> Tensor:
    """The shortest step [B, n] that takes the excess loss [B] away, to first order."""
    return -gradient * (excess / (gradient.square().sum(1) + LEAST_DIVISOR)).unsqueeze(1)
