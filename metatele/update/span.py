"""Directions of parameter tensors side by side: their inner products, and steps in what they span."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

LEAST_SIZE = 1e-8  # added to mean squares of scaled directions, so that roots and quotients stay smooth at zero
WORTH_PLACE = 2**14  # entries of all tasks from which on it pays to multiply rows where they lie
WORTH_PARTS = 512  # entries from which on it pays to leave out a quarter of products, which are symmetric, if nothing
# is to be differentiated


class Span:
    """R directions of each of T parameter tensors.

    Statistics and steps are one batched product each for a tensor, once the directions lie side by side.

    Args:
        parts: the directions of each tensor, T times [B, R, its entries].
        products: their inner products (see `inner_products`), T times [B, R, R].
        counts: how many entries each tensor has, at least 1, [T].

    Attributes:
        parts: likewise.
        products: likewise, [B, T, R, R].
        means: the same, divided by the counts.
    """

    def __init__(self, parts: Sequence[Tensor], products: Sequence[Tensor], counts: Tensor) -> None:
        self.parts, self.products = parts, torch.stack(list(products), 1)
        self.means = self.products / counts.reshape(-1, 1, 1)

    def statistics(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines between the directions, and their mean squares.

        Args:
            scale: what each direction is multiplied by before, [B, T, R].
        Returns: [B, T, R (R - 1) / 2] and [B, T, R].
        """
        squares = self.means.diagonal(dim1=2, dim2=3) * scale.square() + LEAST_SIZE
        over = scale * squares.rsqrt()
        cosines = self.means * over.unsqueeze(2) * over.unsqueeze(3)
        above = torch.tensor(above_diagonal(scale.shape[2]), device=scale.device)
        return cosines.flatten(2).index_select(2, above), squares

    def combine(self, weights: Tensor) -> list[Tensor]:
        """The sum of each tensor's first directions, weighted by [B, T, K]; T times [B, 1, its entries]."""
        many = weights.shape[2]
        pairs = zip(weights.unsqueeze(2).unbind(1), self.parts, strict=True)
        return [torch.bmm(w, x.narrow(1, 0, many)) for w, x in pairs]


def side_by_side(rows: list[Tensor], factors: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """R tensors [B, ...], some of them multiplied by factors [B, ...] first, as one [B, R, entries]."""
    # In place, autograd would copy all rows once more for each factor; and in small tensors there is nothing to save.
    in_place = rows[0].numel() >= WORTH_PLACE and not torch.is_grad_enabled()
    if not in_place:
        for some, factor in factors:
            rows[some] = [x * factor for x in rows[some]]
    out = torch.stack(rows, 1)
    if in_place:
        for some, factor in factors:
            out[:, some].mul_(factor.unsqueeze(1))
    return out.flatten(2) if out.dim() > 2 else out.unsqueeze(2)


def inner_products(x: Tensor) -> Tensor:
    """The inner products of R directions [B, R, n], [B, R, R]."""
    if x.requires_grad or x.device.type != "cpu" or x.shape[2] < WORTH_PARTS:
        return torch.bmm(x, x.mT)
    half = x.shape[1] // 2
    lower = x[:, half:]
    above = torch.bmm(x[:, :half], x.mT)
    below = torch.cat([above[:, :, half:].mT, torch.bmm(lower, lower.mT)], 2)
    return torch.cat([above, below], 1)


@lru_cache
def above_diagonal(many: int) -> tuple[int, ...]:
    """Where the entries above the diagonal of a square matrix lie, row by row."""
    return tuple(i * many + j for i in range(many) for j in range(i + 1, many))
