"""Adding up the gradient of the learned weights over the steps and chunks of a window."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metatele.compiled.step import Weights, cut
from metatele.recurrent.traced import weight_gradients


class Gradients:
    """The gradient of a window's meta-loss so far.

    Args:
        weights: the learned weights.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._trained = [p for p in weights.others.values() if p.requires_grad]
        self._sums: list[Tensor] = []
        self._slopes: list[list[Tensor]] = []  # of the large cores' taps, one list a step
        self._seen: list[list[Tensor]] = []  # what their products multiplied, likewise

    def add(self, gradients: Sequence[Tensor], seen: list[Tensor]) -> None:
        """Take what a step's backward pass gave for the weights and the taps, and what its products multiplied."""
        others, taps = cut(gradients, (len(self._trained), len(gradients) - len(self._trained)))
        # Not in place: weights that are added to each other may be given one tensor.
        self._sums = [a + b for a, b in zip(self._sums, others, strict=True)] if self._sums else others
        if taps:
            self._slopes.append(taps)
            self._seen.append(seen)

    def write(self) -> None:
        """Add the gradient to that of the weights."""
        for p, gradient in zip(self._trained, self._sums, strict=False):
            _add(p, gradient.clone())
        slopes, seen = (
            iter([torch.cat(rows) for rows in zip(*steps, strict=True)]) for steps in (self._slopes, self._seen)
        )
        if self._slopes:
            for core in self._weights.cores:
                cells = len(core.lstm_cells)
                found = weight_gradients(
                    [next(slopes) for _ in range(cells + 1)], [next(seen) for _ in range(2 * cells + 1)]
                )
                for p, gradient in zip(core.parameters(), found, strict=True):
                    if p.requires_grad:
                        _add(p, gradient)


def _add(weight: Tensor, gradient: Tensor) -> None:
    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
