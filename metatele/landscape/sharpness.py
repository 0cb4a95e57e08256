"""Sharpness: the mean loss at small random displacements."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from metatele.errors import ConfigError
from metatele.landscape.base import Objective, Place
from metatele.support.checks import above_zero, at_least
from metatele.support.seeding import generator
from metatele.task.params import flatten, unflatten

GRID = tuple(round(0.001 + 0.01 * i, 3) for i in range(20))  # 0.001, 0.011, ..., 0.191


class Sharpness(Objective):
    """phi(w) = mean over distances t and random unit directions d of loss(w + t d), [B].

    The directions are uniform on the unit sphere of all parameters, the same for all tasks and at
    every call. All displacements are evaluated as one batch, where the forward pass can be batched.
    Source: Zhao et al. 2024 (arXiv:2305.13404), section 5 and appendix.

    Args:
        distances: the grid of distances t.
        directions: number of directions d.
        seed: what the directions depend on.
        chunk: displacements evaluated at a time, which bounds the memory; None for all.
    """

    def __init__(
        self,
        distances: tuple[float, ...] = GRID,
        directions: int = 20,
        seed: int = 0,
        chunk: int | None = 100,
    ) -> None:
        at_least(1, directions=directions, **({} if chunk is None else {"chunk": chunk}))
        if len(distances) == 0:
            raise ConfigError(f"sharpness needs at least one distance, got {distances}")
        for t in distances:
            above_zero(distance=t)
        self.distances, self.directions, self.seed, self.chunk = tuple(distances), directions, seed, chunk

    def __call__(self, place: Place) -> Tensor:
        flat = flatten(place.params)
        stream = generator("sharpness", self.seed)
        draws = torch.randn(self.directions, flat.shape[1], generator=stream, dtype=flat.dtype).to(flat.device)
        unit = draws / draws.norm(dim=1, keepdim=True)
        distances = torch.tensor(self.distances, dtype=flat.dtype, device=flat.device)

        def displaced(direction: Tensor, distance: Tensor) -> Tensor:
            return place.landscape.loss(unflatten(flat + distance * direction, place.params))

        pairs = unit.repeat_interleave(len(distances), 0), distances.repeat(self.directions)
        return evaluate_all(displaced, *pairs, chunk=self.chunk).mean(0)


def evaluate_all(fn: Callable[..., Tensor], *rows: Tensor, chunk: int | None) -> Tensor:
    """fn of each of K rows, [K, ...]: `chunk` at a time as one batch, or one by one where vmap cannot batch fn.

    It cannot batch networks with batch norm in training mode, recurrent layers, control flow that
    depends on the data, or random numbers.
    """
    try:
        return vmap(fn, chunk_size=chunk)(*rows)
    except RuntimeError:  # which torch raises for all of these; an error of fn itself is raised again below
        pass
    return torch.stack([fn(*row) for row in zip(*rows, strict=True)])
