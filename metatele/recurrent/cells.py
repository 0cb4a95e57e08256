"""A core's cells as operations on given tensors, in an order that is fast on a processor.

A large core's weights are not differentiated. Instead, `taps`, which are zeros, are added to the output of each
product. The gradient of a tap is that of the product's output, and one product over all steps of a window turns these
into the weight's gradient. A small core's weights are differentiated, and everything is computed transposed,
[columns, rows], so that each gate is contiguous.

The engines run cores this way, each with its own arithmetic: `compiled` with one that is traced, `higher` with one
that takes few calls (see `metatele.recurrent.traced` and `eager`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.core import RecurrentCore

OfProduct = TypeVar("OfProduct")
SMALL_CELL = 2**18  # bytes of a cell's weights up to which they are differentiated at every step


class Arithmetic(Protocol):
    """What a cell does between its inputs and its next memory."""

    def products(self, first: Tensor, turned: Tensor, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """first + the sum of x W^T over some x and W, of which W is not differentiated.

        Args:
            first: what to begin with.
            turned: the weights side by side, transposed, or no elements.
            weights, inputs: W and x.
        """

    def advance(self, sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """An LSTM cell's next h and c, from its gates before squashing along `dim`, which may be overwritten."""


class Factors(NamedTuple):
    """What a large core's products multiply.

    Attributes:
        weights: the weight of each product.
        turned: the weights of each cell side by side, transposed, [inputs + hidden, 4 hidden]; those of the head last.
            Empty tensors where `Arithmetic.products` reads the weights as they are.
        biases: the sum of each cell's biases, and the head's.
    """

    weights: list[Tensor]
    turned: list[Tensor]
    biases: list[Tensor]

    @staticmethod
    def of(core: RecurrentCore, turned: Sequence[Tensor] | None = None) -> "Factors":
        """The factors of a large core as its weights are now; turned are those weights, turned."""
        biases = [(c.bias_ih + c.bias_hh).detach() for c in core.lstm_cells] + [core.head.bias.detach()]
        turned = [core.head.weight.new_empty(0)] * len(biases) if turned is None else turned
        return Factors(products_of(core), list(turned), biases)


def is_small(core: RecurrentCore) -> bool:
    """Whether the gradient of a core's weights is cheap enough to be made at every step."""
    return all(c.weight_ih.nbytes + c.weight_hh.nbytes <= SMALL_CELL for c in core.lstm_cells)


def products_of(core: RecurrentCore) -> list[Tensor]:
    """The weights of a core's products, from the features up, without a graph."""
    cells = [w for cell in core.lstm_cells for w in (cell.weight_ih, cell.weight_hh)]
    return [w.detach() for w in (*cells, core.head.weight)]


def turn(weights: Sequence[Tensor]) -> list[Tensor]:
    """`Factors.turned` for the weights that `products_of` gives for a core."""
    return [torch.cat([w.t() for w in own]).contiguous() for own in _by_output(weights)]


def taps_of(core: RecurrentCore, rows: int) -> list[Tensor]:
    """Zeros for each cell, and for the head, [rows, outputs]."""
    widths = [4 * core.hidden] * len(core.lstm_cells) + [core.head.out_features]
    return [core.head.weight.new_zeros(1).expand(rows, width) for width in widths]


def _by_output(weights: Sequence[OfProduct]) -> Iterator[Sequence[OfProduct]]:
    """Group a list with one entry per product by cell: two entries for each cell, one for the head."""
    for i in range(0, len(weights), 2):
        yield weights[i : i + 2]


class TappedCells:
    """A large core, computed with taps.

    Args:
        factors: what its products multiply.
        taps: see `taps_of`.
        arithmetic: how its cells compute.

    Attributes:
        seen: what each cell, and the head, multiplied by its weights, [rows, columns].
    """

    def __init__(self, factors: Factors, taps: Sequence[Tensor], arithmetic: Arithmetic) -> None:
        self.factors, self.taps, self.arithmetic, self.seen = factors, taps, arithmetic, list[Tensor]()

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        x, after = features, []
        *cells, head = self._outputs()
        for i, output in enumerate(cells):
            h, c = memory[2 * i : 2 * i + 2]
            x, c = self.arithmetic.advance(self._sums(output, x, h), c, 1)
            after += [x, c]
        return self._sums(head, x), tuple(after)

    def _outputs(self) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor, Tensor]]:
        """(weights, the same turned, bias, tap) of each cell, and of the head."""
        weights, turned, biases = self.factors
        return zip(_by_output(weights), turned, biases, self.taps, strict=True)

    def _sums(self, output: tuple[Sequence[Tensor], Tensor, Tensor, Tensor], *inputs: Tensor) -> Tensor:
        weights, turned, bias, tap = output
        self.seen.append(torch.cat(inputs, 1).detach())
        return self.arithmetic.products(bias + tap, turned, weights, inputs)


class SmallCells:
    """A small core with its own weights.

    Args:
        core: the core.
        arithmetic: of its cells.
    """

    def __init__(self, core: RecurrentCore, arithmetic: Arithmetic) -> None:
        self.core, self.arithmetic = core, arithmetic

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        x, after = features.t(), []
        for i, joint in enumerate(self.joints()):
            h, c = (m.t() for m in memory[2 * i : 2 * i + 2])
            x, c = self.arithmetic.advance(_Affine.apply(joint, x, h), c, 0)
            after += [x.t(), c.t()]
        return (self.core.head.weight @ x + self.core.head.bias.unsqueeze(1)).t(), tuple(after)

    def joints(self) -> list[Tensor]:
        """For each cell the matrix that multiplies (input, h, 1), [4 hidden, inputs + hidden + 1]."""
        return [
            torch.cat([cell.weight_ih, cell.weight_hh, (cell.bias_ih + cell.bias_hh).unsqueeze(1)], 1)
            for cell in self.core.lstm_cells
        ]


class _Affine(Function):
    """W [x; h; 1], for columns x and h. Its backward pass leaves out the ones, and makes W's gradient transposed: some
    libraries take twice as long for a product whose first factor has more rows than its second has columns."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, h: Tensor) -> Tensor:
        inputs = torch.cat([x, h, torch.ones_like(h[:1])])
        ctx.save_for_backward(weight, inputs)
        ctx.rows = len(x)
        return weight @ inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        weight, inputs = ctx.saved_tensors
        below = weight[:, :-1].t() @ gradient
        return (inputs @ gradient.t()).t(), below[: ctx.rows], below[ctx.rows :]


def weight_gradients(slopes: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a large core's weights, in the order of its parameters.

    Args:
        slopes: the gradient of each tap, [rows of all steps, outputs].
        seen: what the weights behind each tap multiplied, [rows of all steps, columns].
    """
    *cells, head = slopes
    out: list[Tensor] = []
    for slope, inputs in zip(cells, seen, strict=False):
        hidden, bias = slope.shape[1] // 4, slope.sum(0)
        out += [slope.t() @ inputs[:, :-hidden], slope.t() @ inputs[:, -hidden:], bias, bias.clone()]
    return [*out, head.t() @ seen[-1], head.sum(0)]


class WeightRows:
    """Collects what a large core's weight gradients are computed from, over the steps of a window.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        self.core = core
        self._slopes: list[list[Tensor]] = []
        self._seen: list[list[Tensor]] = []

    def add(self, slopes: Sequence[Tensor | None], seen: Sequence[Tensor], taps: Sequence[Tensor]) -> None:
        """Take a call's gradients of its taps, None for zeros, and what its products multiplied."""
        if any(slope is not None for slope in slopes):
            self._slopes.append([tap if slope is None else slope for slope, tap in zip(slopes, taps, strict=True)])
            self._seen.append(list(seen))

    def gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(weight, its gradient) of what is trained; nothing if no loss depends on the core."""
        if self._slopes:
            slopes, seen = (
                [torch.cat(rows) for rows in zip(*kind, strict=True)] for kind in (self._slopes, self._seen)
            )
            for p, gradient in zip(self.core.parameters(), weight_gradients(slopes, seen), strict=True):
                if p.requires_grad:
                    yield p, gradient
