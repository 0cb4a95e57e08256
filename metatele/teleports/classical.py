"""Teleports that do not look at the loss: no teleport, and random ones."""

import torch
from torch import Tensor

from metatele.parts.point import Point, State
from metatele.support.checks import above_zero
from metatele.support.seeding import generator
from metatele.symmetry import Kind, ProductGroup
from metatele.task.params import Params
from metatele.teleports.base import Teleport
from metatele.teleports.orbit import AlgebraTeleport


class Stay(Teleport):
    """No teleport: every step starts where the last one ended."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def moves(self) -> bool:
        return False

    def active(self, step: int) -> bool:
        return False

    def move(
        self,
        point: Point,
        group: ProductGroup,
        state: State,
        moments: State,
        alive: Tensor | None = None,
        onto: Params | None = None,
    ) -> tuple[Point, State, State]:
        return point, state, moments


class RandomTeleport(AlgebraTeleport):
    """T drawn anew at every step, normal with standard deviation `scale` in every coordinate.

    Each task draws from a stream of its own, seeded by the task, whatever the meta-batch.
    """

    def __init__(
        self, scale: float = 0.1, symmetry: Kind = "auto", first: int = 0, last: int | None = None, every: int = 1
    ) -> None:
        super().__init__(symmetry, first, last, every)
        above_zero(scale=scale)
        self.scale = scale

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        return [self.scale * draw for draw in normal_draws(point, group, state.memory[0])], state


def normal_draws(point: Point, group: ProductGroup, seeds: Tensor) -> list[Tensor]:
    """A standard normal T [B, *algebra_shape] for each factor, from each task's own stream (seeds [B]),
    anew at every step, whatever the meta-batch."""
    like = next(iter(point.params.values()))
    streams = [generator("random teleport", int(s), point.step) for s in seeds]
    draws = (
        torch.stack([torch.randn(shape, generator=stream, dtype=like.dtype) for stream in streams])
        for shape in group.algebra_shapes
    )
    return [draw.to(like.device) for draw in draws]
