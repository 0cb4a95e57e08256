"""A core's step as plain operations on tensors that are given to it, to be traced and compiled.

A large core's weights are not differentiated: with `taps`, zeros added to the output of each product, the gradient of
a tap is that of the product's output, and one product over all steps of a window makes the weight's gradient of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.core import RecurrentCore
from metatele.recurrent.squash import gates, tanh

SMALL = 2**18  # bytes of a cell's weights up to which they are differentiated at every step
FEW = 4  # rows up to which a processor reads a weight faster as the sums that they are than as a product of matrices
TURNED_FROM = 8  # rows from which a product is so much faster by a turned weight that turning it pays, once a window


class Factors(NamedTuple):
    """What a large core's products multiply: (W, W^T) of each, and the sums of biases, in the order of the products."""

    weights: list[Tensor]
    turned: list[Tensor]
    biases: list[Tensor]


def is_small(core: RecurrentCore) -> bool:
    """Whether the gradient of a core's weights is cheap enough to be made at every step."""
    return all(c.weight_ih.nbytes + c.weight_hh.nbytes <= SMALL for c in core.lstm_cells)


def is_turned(core: RecurrentCore, rows: int) -> bool:
    """Whether steps of so many rows are to have turned weights, with W^T contiguous in memory: elsewhere than on a CPU
    all layouts are as fast."""
    return rows >= TURNED_FROM and core.head.weight.device.type == "cpu"


def products(core: RecurrentCore) -> list[Tensor]:
    """The weights of a core's products, from the features up, without a graph."""
    cells = [w for cell in core.lstm_cells for w in (cell.weight_ih, cell.weight_hh)]
    return [w.detach() for w in (*cells, core.head.weight)]


def factors(core: RecurrentCore, turned: Sequence[Tensor]) -> Factors:
    """The factors of a large core as its weights are now; turned are those weights, turned."""
    biases = [(c.bias_ih + c.bias_hh).detach() for c in core.lstm_cells] + [core.head.bias.detach()]
    return Factors(products(core), list(turned), biases)


class TappedCells:
    """A large core.

    Args:
        factors: see there.
        taps: for each cell, and for the head, zeros [rows, outputs].

    Attributes:
        seen: what each product multiplied by its weight, [rows, columns].
    """

    def __init__(self, factors: Factors, taps: Sequence[Tensor]) -> None:
        self.factors, self.taps, self.seen = factors, taps, list[Tensor]()

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        *pairs, (last,) = self._products()
        x, after = features, []
        for i, (to_x, to_h) in enumerate(pairs):
            h, c = memory[2 * i : 2 * i + 2]
            self.seen += [x.detach(), h.detach()]
            sums = _Product.apply(x, *to_x) + _Product.apply(h, *to_h) + (self.factors.biases[i] + self.taps[i])
            x, c = advance(sums, c, 1)
            after += [x, c]
        self.seen.append(x.detach())
        return _Product.apply(x, *last) + (self.factors.biases[-1] + self.taps[-1]), tuple(after)

    def _products(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        products = list(zip(self.factors.turned, self.factors.weights, strict=True))
        for i in range(0, len(products), 2):
            yield products[i : i + 2]


class SmallCells:
    """A small core with its own weights. All is computed transposed, [columns, rows], so that each gate is contiguous.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        self.core = core

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        x, after = features.t(), []
        for i, cell in enumerate(self.core.lstm_cells):
            h, c = (m.t() for m in memory[2 * i : 2 * i + 2])
            joint = torch.cat([cell.weight_ih, cell.weight_hh, (cell.bias_ih + cell.bias_hh).unsqueeze(1)], 1)
            x, c = advance(joint @ torch.cat([x, h, torch.ones_like(h[:1])]), c, 0)
            after += [x.t(), c.t()]
        return (self.core.head.weight @ x + self.core.head.bias.unsqueeze(1)).t(), tuple(after)


def advance(sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """An LSTM cell's next h and c, from its gates before squashing along `dim`."""
    i, f, candidate, o = gates(*sums.chunk(4, dim))
    c = f * c + i * candidate
    return o * tanh(c), c


class _Product(Function):
    """x W^T, which reads W^T forward and W backward, each in the layout that is fastest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turned: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        if len(x) <= FEW and x.device.type == "cpu":
            return torch.stack([(weight * row).sum(1) for row in x.unbind()])
        return x @ turned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient @ ctx.saved_tensors[0] if ctx.needs_input_grad[0] else None, None, None


def weight_gradients(slopes: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a large core's weights, in the order of its parameters.

    Args:
        slopes: the gradient of each tap, [rows of all steps, outputs].
        seen: what each product multiplied, [rows of all steps, columns].
    """
    *cells, head = slopes
    out: list[Tensor] = []
    for i, slope in enumerate(cells):
        bias = slope.sum(0)
        out += [slope.t() @ seen[2 * i], slope.t() @ seen[2 * i + 1], bias, bias.clone()]
    return [*out, head.t() @ seen[-1], head.sum(0)]
