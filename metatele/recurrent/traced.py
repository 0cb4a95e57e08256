"""The arithmetic of cells that are traced and compiled."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.core import RecurrentCore
from metatele.recurrent.squash import gates, tanh

FEW = 8  # up to this many rows, sums over each row of a weight are faster on a CPU than a matrix product
ALONE = 4  # from this many rows on, such sums take two rows of the weight at a time, which share what they read


class Traced:
    """Polynomials instead of the library's functions, and products in the layout that is fastest."""

    def products(self, first: Tensor, turned: Tensor, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """See `Arithmetic.products`."""
        product: Tensor = _Products.apply(turned, *weights, *inputs)
        return product + first

    def advance(self, sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """See `Arithmetic.advance`."""
        i, f, candidate, o = gates(*sums.chunk(4, dim))
        c = f * c + i * candidate
        return o * tanh(c), c


def is_turned(core: RecurrentCore, rows: int) -> bool:
    """Whether steps of this many rows are to have turned weights, contiguous in memory. Turning them once per window
    pays on a CPU, where it makes products much faster; elsewhere all layouts are equally fast."""
    return rows > FEW and core.head.weight.device.type == "cpu"


class _Products(Function):
    """The sum of x W^T over some x and W. It reads the turned weights forward, if there are any, and W backward, each
    in the layout that is fastest."""

    @staticmethod
    def forward(ctx: Any, turned: Tensor, *both: Tensor) -> Tensor:
        weights, inputs = both[: len(both) // 2], both[len(both) // 2 :]
        ctx.save_for_backward(*weights)
        if turned.numel():
            return torch.cat(inputs, 1) @ turned
        few = len(inputs[0]) <= FEW and turned.device.type == "cpu"
        first, *rest = [(_of_few if few else torch.mm)(x, w.t()) for x, w in zip(inputs, weights, strict=True)]
        return sum(rest, first)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 + len(weights) :]
        slopes = [gradient @ w if here else None for w, here in zip(weights, wanted, strict=True)]
        return None, *(None for _ in weights), *slopes


def _of_few(x: Tensor, turned: Tensor) -> Tensor:
    """x times a turned weight, as sums over the rows of that weight."""
    blocks = turned.t().chunk(1 if len(x) < ALONE else 2)
    return torch.stack([torch.cat([(block * row).sum(1) for block in blocks]) for row in x.unbind()])
