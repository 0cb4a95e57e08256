"""Inner gradients recorded, and used again in place of those of the losses: what first order holds fixed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from metatele.task.params import Params, map_params
from metatele.unroll.higher.inner_step import DifferentiableInnerStep


@contextmanager
def recorded() -> Iterator[list[Params]]:
    """Inside, the inner gradient of every step that `higher` takes is noted, detached; yields the notes."""
    plain, notes = DifferentiableInnerStep.gradient, list[Params]()

    def gradient(self: DifferentiableInnerStep, losses: Tensor, second_order: bool) -> Params:
        found = plain(self, losses, second_order)
        notes.append(map_params(torch.detach, found))
        return found

    DifferentiableInnerStep.gradient = gradient  # type: ignore[method-assign]
    try:
        yield notes
    finally:
        DifferentiableInnerStep.gradient = plain  # type: ignore[method-assign]


@contextmanager
def replayed(gradients: Sequence[Params] | None) -> Iterator[None]:
    """Inside, the steps use these gradients one after the other; their own if None."""
    if gradients is None:
        yield
        return
    plain, left = DifferentiableInnerStep.gradient, iter(gradients)
    DifferentiableInnerStep.gradient = lambda self, losses, second_order: next(left)  # type: ignore[method-assign]
    try:
        yield
    finally:
        DifferentiableInnerStep.gradient = plain  # type: ignore[method-assign]
    assert next(left, None) is None, "fewer steps were taken than were recorded"
