"""Adding up the gradient of the learned weights over the steps and chunks of a window."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metatele.recurrent.traced import weight_gradients
from metatele.unroll.compiled.programs import Step
from metatele.unroll.compiled.step import Weights, cut


class Rows(NamedTuple):
    """What a large core's weight gradients are made of, of one step: the gradients of its taps, and what its products
    multiplied."""

    slopes: list[Tensor]
    seen: list[Tensor]


class Gradients:
    """The gradient of a window's meta-loss so far.

    Args:
        weights: the learned weights.
    """

    def __init__(self, weights: Weights) -> None:
        self._cores = weights.cores
        self._trained = [p for p in weights.others.values() if p.requires_grad]
        self._sums: list[Tensor | None] = [None] * len(self._trained)
        self._rows: list[list[Rows]] = [[] for _ in self._cores]

    def add(self, step: Step, gradients: Sequence[Tensor | None], seen: list[Tensor]) -> None:
        """Take what a step's backward pass gave for the weights and the taps, and what its products multiplied."""
        taps = [len(core.lstm_cells) + 1 for core in self._cores]
        others, *slopes = cut(gradients, [len(self._trained), *taps])
        # Not in place: weights that are added to each other may be given one tensor.
        self._sums = [b if a is None else a if b is None else a + b for a, b in zip(self._sums, others, strict=True)]
        called = step.function.called
        inputs = cut(seen, [n * here for n, here in zip(taps, called, strict=True)])
        for rows, zeros, ours, multiplied in zip(self._rows, cut(step.taps, taps), slopes, inputs, strict=True):
            if any(slope is not None for slope in ours):
                filled = [zero if slope is None else slope for slope, zero in zip(ours, zeros, strict=True)]
                rows.append(Rows(filled, multiplied))

    def total(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, its gradient), of all weights that the meta-loss depends on; no two share a tensor."""
        of_others = [(p, g.clone()) for p, g in zip(self._trained, self._sums, strict=True) if g is not None]
        return of_others + list(self._of_cores())

    def _of_cores(self) -> Iterator[tuple[Tensor, Tensor]]:
        for core, steps in zip(self._cores, self._rows, strict=True):
            if steps:
                slopes, seen = (
                    [torch.cat(rows) for rows in zip(*kind, strict=True)] for kind in zip(*steps, strict=True)
                )
                for p, gradient in zip(core.parameters(), weight_gradients(slopes, seen), strict=True):
                    if p.requires_grad:
                        yield p, gradient


def add_to_weights(total: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add gradients to the `grad` of their weights."""
    for weight, gradient in total:
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
