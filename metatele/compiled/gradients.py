"""Adding up the gradient of the learned weights over the steps and chunks of a window."""

from collections.abc import Iterator, Sequence

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

    def total(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, its gradient), of all weights that have been used; no two share a tensor."""
        return [(p, g.clone()) for p, g in zip(self._trained, self._sums, strict=False)] + list(self._of_cores())

    def _of_cores(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._slopes:
            return
        slopes, seen = (
            iter([torch.cat(rows) for rows in zip(*steps, strict=True)]) for steps in (self._slopes, self._seen)
        )
        for core in self._weights.cores:
            cells = len(core.lstm_cells)
            products = [next(slopes) for _ in range(cells + 1)], [next(seen) for _ in range(2 * cells + 1)]
            for p, gradient in zip(core.parameters(), weight_gradients(*products), strict=True):
                if p.requires_grad:
                    yield p, gradient


def add_to_weights(total: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add gradients to the `grad` of their weights."""
    for weight, gradient in total:
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
