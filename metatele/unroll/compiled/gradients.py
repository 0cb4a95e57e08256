"""Adding up the gradient of the learned weights over the steps and chunks of a window."""

from collections.abc import Sequence

from torch import Tensor

from metatele.recurrent.cells import WeightRows
from metatele.unroll.compiled.step import Weights


class Gradients:
    """The gradient of a window's meta-loss so far.

    Args:
        weights: the learned weights.
    """

    def __init__(self, weights: Weights) -> None:
        self._trained = [p for p in weights.others.values() if p.requires_grad]
        self._sums: list[Tensor | None] = [None] * len(self._trained)
        self._cores = [WeightRows(core) for core in weights.cores]

    def add(
        self,
        others: Sequence[Tensor | None],
        slopes: Sequence[Tensor | None],
        seen: Sequence[Sequence[Tensor]],
        taps: Sequence[Sequence[Tensor]],
    ) -> None:
        """Take what a step's backward pass gave.

        Args:
            others: the gradients of the weights that are in no large core.
            slopes: those of all taps, one core after the other.
            seen, taps: of each large core what its products multiplied, and its taps.
        """
        # Not in place: weights that are added to each other may be given one tensor.
        self._sums = [b if a is None else a if b is None else a + b for a, b in zip(self._sums, others, strict=True)]
        left = iter(slopes)
        for rows, multiplied, zeros in zip(self._cores, seen, taps, strict=True):
            rows.add([next(left) for _ in zeros], multiplied, zeros)

    def total(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, its gradient), of all weights that the meta-loss depends on; no two share a tensor."""
        of_others = [(p, g.clone()) for p, g in zip(self._trained, self._sums, strict=True) if g is not None]
        return of_others + [pair for rows in self._cores for pair in rows.gradients()]
