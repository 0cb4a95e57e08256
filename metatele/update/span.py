"""Directions of parameter tensors side by side: their inner products, and steps in what they span."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

LEAST_SIZE = 1e-8  # added to mean squares of scaled directions, so that roots and quotients stay smooth at zero


class Span:
    """R directions of each of T parameter tensors.

    Statistics and steps are one batched product each for a tensor, once the directions lie side by side.

    Args:
        directions: of each tensor, [B, R, ...].
        sizes: how many entries each tensor has.

    Attributes:
        parts: the directions of each tensor, T times [B, R, its entries].
        products: their inner products, [B, T, R, R].
    """

    def __init__(self, directions: Sequence[Tensor], sizes: Sequence[int]) -> None:
        self.parts = [x.reshape(*x.shape[:2], size) for x, size in zip(directions, sizes, strict=True)]
        self.products = torch.stack([torch.bmm(x, x.mT) for x in self.parts], 1)

    def statistics(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines between the directions, and the logarithms of their lengths.

        Args:
            scale: what each direction is multiplied by before, [B, T, R].
        Returns: [B, T, R (R - 1) / 2] and [B, T, R].
        """
        square = self.products.diagonal(dim1=2, dim2=3) * scale.square() + LEAST_SIZE
        over = scale * square.rsqrt()
        cosines = self.products * over.unsqueeze(2) * over.unsqueeze(3)
        above = torch.tensor(_above(scale.shape[2]), device=scale.device)
        return cosines.flatten(2).index_select(2, above), square.log() / 2

    def combine(self, weights: Tensor) -> list[Tensor]:
        """The sum of each tensor's first directions, weighted by [B, T, K]; T times [B, its entries]."""
        many = weights.shape[2]
        pairs = zip(weights.unsqueeze(2).unbind(1), self.parts, strict=True)
        return [torch.bmm(w, x[:, :many]).squeeze(1) for w, x in pairs]


@lru_cache
def _above(many: int) -> tuple[int, ...]:
    """Where the entries above the diagonal of a square matrix lie, row by row."""
    return tuple(i * many + j for i in range(many) for j in range(i + 1, many))
