"""What inner steps see recorded, and seen again in place of the losses' own: what first order holds fixed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from metatele.task.params import Params, map_params
from metatele.unroll.higher.inner_step import DifferentiableInnerStep

Seen = tuple[Params, Tensor]  # a step's gradient, and its losses [B]


@contextmanager
def recorded() -> Iterator[list[Seen]]:
    """Inside, what every step that `higher` takes sees is noted, detached; yields the notes."""
    plain, shown, notes = DifferentiableInnerStep.gradient, DifferentiableInnerStep.shown, list[Seen]()

    def gradient(self: DifferentiableInnerStep, losses: Tensor, second_order: bool) -> Params:
        found = plain(self, losses, second_order)
        notes.append((map_params(torch.detach, found), shown(self, losses, False)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DifferentiableInnerStep, "gradient", gradient)
        yield notes


@contextmanager
def replayed(notes: Sequence[Seen] | None) -> Iterator[None]:
    """Inside, the steps see what was noted, one note after the other; their own if None."""
    if notes is None:
        yield
        return
    gradients, losses = (iter(part) for part in zip(*notes, strict=True))

    def next_of(left: Iterator[Any]) -> Any:
        return lambda self, losses, second_order: next(left)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DifferentiableInnerStep, "gradient", next_of(gradients))
        patch.setattr(DifferentiableInnerStep, "shown", next_of(losses))
        yield
    assert next(gradients, None) is None, "fewer steps were taken than were recorded"
