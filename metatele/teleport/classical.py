"""Teleports that are not learned: none, random, and the balance rule."""

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.params import Params
from metatele.point import Point, State
from metatele.symmetry import Kind, PositiveScaling, ProductGroup
from metatele.teleport.base import Teleport


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
        self.scale = scale

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        like = next(iter(point.params.values()))
        streams = [torch.Generator().manual_seed((int(s) + point.step) % 2**63) for s in state.memory[0]]
        draws = [
            torch.stack([torch.randn(shape, generator=stream, dtype=like.dtype) for stream in streams])
            for shape in group.algebra_shapes
        ]
        return group.exp([self.scale * draw.to(like.device) for draw in draws]), state


class Balance(Teleport):
    """The balance rule: equalise the incoming and outgoing norm of every neuron, in closed form.

    By default once, before the first update (`last=0`). The control that every claim about a
    learned teleport needs. Source: Neyshabur et al. 2015, arXiv:1506.02617 (path-normalised
    networks); Saul 2023 for balancing during training.
    """

    def __init__(self, first: int = 0, last: int | None = 0) -> None:
        super().__init__("scaling", first, last)

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        return group.exp([f.balancing(point.params) for f in scalings(group, self)]), state


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
