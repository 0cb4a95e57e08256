"""Teleportation by optimisation on the group: no learning, any objective."""

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from metatele.errors import ConfigError, SymmetryError
from metatele.landscape import Landscape, Objective, find_objective
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least, is_number, one_of
from metatele.support.seeding import generator
from metatele.symmetry import Kind, ProductGroup
from metatele.task.params import Params
from metatele.teleports.climb import Climb, Direction
from metatele.teleports.orbit import AlgebraTeleport


class OptimisedTeleport(AlgebraTeleport):
    """g = exp(T) with T found by gradient ascent (or descent) of an objective on the Lie algebra.

    With the gradient norm as objective this is the teleportation of Zhao et al. 2022, arXiv:2205.10637,
    algorithm 1; with sharpness or curvature that of Zhao et al. 2024, arXiv:2305.13404, section 5.
    Under an exact group a candidate's gradient is carried by the dual action, so climbing the
    gradient norm costs one backward pass in all. No gradient passes through the search for T.

    Args:
        objective: "gradient_norm", "sharpness", "curvature", or any callable from a
            `metatele.landscape.Place` to one number for each task, [B], differentiable.
        steps: gradient steps on the Lie algebra.
        lr: length of a step in the Lie algebra (for positive scaling, a distance of log-scales), halved
            whenever a step makes no progress.
        direction: "ascend" or "descend".
        cap: a bound of the objective that no step may pass; None for none.
        rows: rows drawn from all inner rows for each teleport; None for the step's own batch. A group
            that depends on the data keeps the loss on the rows drawn only.
        residual: see `OrbitTeleport`.
        symmetry, first, last, every: see `OrbitTeleport`; by default once, before the first update.
    """

    def __init__(
        self,
        objective: str | Objective = "gradient_norm",
        steps: int = 10,
        lr: float = 0.1,
        direction: Direction = "ascend",
        cap: float | None = None,
        rows: int | None = None,
        symmetry: Kind = "auto",
        first: int = 0,
        last: int | None = 0,
        every: int = 1,
        residual: float = 1e-3,
    ) -> None:
        super().__init__(symmetry, first, last, every)
        at_least(1, steps=steps, **({} if rows is None else {"rows": rows}))
        above_zero(lr=lr, residual=residual)
        one_of(get_args(Direction), direction=direction)
        if cap is not None and not is_number(cap):
            raise ConfigError(f"cap must be a number or None, got {cap!r}")
        self.objective, self.steps, self.lr, self.direction, self.cap = objective, steps, lr, direction, cap
        self.rows, self.residual = rows, residual
        self.climb = Climb(find_objective(objective), steps, lr, direction, cap)

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def look(self, point: Point, state: State) -> Point:
        if self.rows is None:
            return point
        chosen = rows_of(landscape_of(point.whole, self), self.rows, state.memory[0], point.step)
        return replace(point, landscape=chosen, inputs=chosen.inputs)

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        landscape = replace(landscape_of(point.landscape, self), group=group)
        gradient = point.gradient if self.rows is None else None
        algebra, _ = self.climb.run(landscape, point.params, gradient)
        return algebra, state


def landscape_of(landscape: Landscape | None, teleport: object) -> Landscape:
    """The landscape of a point. Raises: SymmetryError if the point has none."""
    if landscape is None:
        raise SymmetryError(f"{type(teleport).__name__} needs a point with its landscape, that is, with the loss")
    return landscape


def rows_of(landscape: Landscape, rows: int, seeds: Tensor, step: int) -> Landscape:
    """The same losses on `rows` random rows, drawn by each task's own seed; on all if there are no more than that."""
    available = landscape.inputs.shape[1]
    if rows >= available:
        return landscape
    draws = [torch.randperm(available, generator=generator("teleport rows", int(s), step))[:rows] for s in seeds]
    index = torch.stack(draws).to(landscape.inputs.device)
    task = torch.arange(len(index), device=index.device).unsqueeze(1)
    return replace(landscape, inputs=landscape.inputs[task, index], targets=landscape.targets[task, index])
