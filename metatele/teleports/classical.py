"""Teleports that are not learned: none, random, and the balance rule."""

import torch
from torch import Tensor

from metatele.checks import above_zero
from metatele.errors import SymmetryError
from metatele.params import Params
from metatele.point import Point, State
from metatele.seeding import generator
from metatele.symmetry import Kind, PositiveScaling, ProductGroup
from metatele.teleport.base import Teleport

SWEEPS = 1000  # most sweeps of the balance rule


class Stay(Teleport):
    """No teleport: g is the identity at every step."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def moves(self) -> bool:
        return False

    def active(self, step: int) -> bool:
        return False

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        ones = next(iter(point.params.values()))
        return [factor.identity(ones) for factor in group.factors], state


class RandomTeleport(Teleport):
    """T drawn anew at every step, normal with standard deviation `scale` in every coordinate.

    Each task draws from a stream of its own, seeded by the task, whatever the meta-batch.
    """

    def __init__(self, scale: float = 0.1, symmetry: Kind = "auto", first: int = 0, last: int | None = None) -> None:
        super().__init__(symmetry, first, last)
        above_zero(scale=scale)
        self.scale = scale

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        like = next(iter(point.params.values()))
        streams = [generator("random teleport", int(s), point.step) for s in state.memory[0]]
        draws = [
            torch.stack([torch.randn(shape, generator=stream, dtype=like.dtype) for stream in streams])
            for shape in group.algebra_shapes
        ]
        return group.exp([self.scale * draw.to(like.device) for draw in draws]), state


class Balance(Teleport):
    """The balance rule: equalise the incoming and outgoing norm of every neuron.

    In closed form for one hidden layer; by sweeps of it over the layers, which converge, for more.

    By default once, before the first update (`last=0`). The control that every claim about a
    learned teleport needs. Source: Neyshabur et al. 2015, arXiv:1506.02617 (path-normalised
    networks); Saul 2023 for balancing during training.
    """

    def __init__(self, first: int = 0, last: int | None = 0) -> None:
        super().__init__("scaling", first, last)

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        factors, params = scalings(group, self), point.params
        total = [torch.zeros_like(f.balancing(params)) for f in factors]
        # What leaves one hidden layer enters the next: with several, sweep until all are balanced.
        for _ in range(SWEEPS):
            largest = 0.0
            for i, factor in enumerate(factors):
                algebra = factor.balancing(params)
                params = factor.act(factor.exp(algebra), params, point.inputs)
                total[i] = total[i] + algebra
                largest = max(largest, float(algebra.detach().abs().max()))
            if len(factors) == 1 or largest < 100 * torch.finfo(total[0].dtype).eps:
                break
        return group.exp(total), state


def scalings(group: ProductGroup, teleport: Teleport) -> list[PositiveScaling]:
    """The factors of a group, all of which must be positive scalings.

    Raises: SymmetryError if one is not.
    """
    out = []
    for factor in group.factors:
        if not isinstance(factor, PositiveScaling):
            raise SymmetryError(
                f"{type(teleport).__name__} needs positive scaling at every hidden layer, got "
                f"{type(factor).__name__}; set its symmetry to 'scaling'"
            )
        out.append(factor)
    return out
