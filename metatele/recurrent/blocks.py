"""Small LSTMs on very many rows: some rows at a time, so that their gates stay in a processor core's cache.

All is computed transposed, [columns, rows], so that each gate is contiguous. The backward pass computes the gates
anew, which is faster than to fetch them from memory, and needs a quarter of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.cell import Cell, Gates, add, advance, retreat
from metatele.recurrent.gather import Shares, only_once

CACHE = 2**20  # bytes: what a processor core has close at hand
LARGEST = 2**18  # bytes of weights that may lie there too
FEWEST = 256  # rows worth a call of their own, however large the cell


def block_size(hidden: int, like: Tensor) -> int:
    """Rows whose gates fit into a core's cache."""
    return max(CACHE // (4 * hidden * like.element_size()), FEWEST)


Pair = tuple[Tensor, Tensor]


class SummedShares(Shares):
    """The weights, each joined to act on (input, h, 1), and the sums of their gradients so far.

    Args:
        cells, head: the weights, without a graph; head is (weight [outputs, h], bias [outputs]).
    """

    def __init__(self, cells: Sequence[Cell], head: tuple[Tensor, Tensor]) -> None:
        self.cells = [torch.cat([w, u, b.unsqueeze(1)], dim=1) for w, u, b in cells]
        self.back = [(w.t(), u.t()) for w, u, _ in cells]
        self.head, self.head_bias, self.head_back = head[0], head[1].unsqueeze(1), head[0].t()
        self.hidden = head[0].shape[1]
        self._sums: list[Tensor] = []

    def sums(self) -> list[Tensor]:
        """The sums, of cells, head and its bias, to be added to."""
        self._sums = self._sums or [torch.zeros_like(w) for w in (*self.cells, self.head, self.head_bias)]
        return self._sums

    def clear(self) -> None:
        self._sums = []

    def gradients(self) -> list[Tensor | None]:
        if not self._sums:
            return [None] * (4 * len(self.cells) + 2)
        *cells, head, head_bias = self._sums
        self._sums = []
        out: list[Tensor | None] = []
        for joint, (inputs, _) in zip(cells, self.back, strict=True):
            w_ih, w_hh, bias = joint.split([len(inputs), self.hidden, 1], dim=1)
            out += [w_ih, w_hh, bias.squeeze(1), bias.squeeze(1).clone()]
        return [*out, head, head_bias.squeeze(1)]


class _Space:
    """Where the numbers of a block of rows go, and views of that: made once for all blocks of a step.

    Args:
        shares: the weights.
        rows: of a block.
        like: a tensor of the wanted type.
    """

    def __init__(self, shares: SummedShares, rows: int, like: Tensor) -> None:
        hidden = shares.hidden
        self.rows = rows
        self.joined = [like.new_ones(weight.shape[1], rows) for weight in shares.cells]  # (input, h, 1)
        self.x = [j[:-1][:-hidden] for j in self.joined]
        self.h = [j[:-1][-hidden:] for j in self.joined]
        self.gates = [Gates.of(like.new_empty(4 * hidden, rows), 0) for _ in shares.cells]
        self.d_gates = [Gates.of(torch.empty_like(g.all), 0) for g in self.gates]
        self.tanh = [like.new_empty(hidden, rows) for _ in shares.cells]
        self.h_after, self.c_after, self.d_h = (torch.empty_like(self.tanh[0]) for _ in range(3))

    def advance(self, weight: Tensor, i: int, x: Tensor, memory: Pair, after: Pair) -> Tensor:
        """Cell i's step from its (h, c), written into `after`; returns h."""
        self.x[i].copy_(x)
        self.h[i].copy_(memory[0])
        torch.mm(weight, self.joined[i], out=self.gates[i].all)
        return advance(self.gates[i], memory[1], *after, self.tanh[i])[0]


def forward(
    shares: SummedShares, features: Tensor, memory: Sequence[Tensor], block: int
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [rows, outputs] and the memory after the step, without a graph."""
    rows = len(features)
    out = features.new_empty(len(shares.head), rows)
    after = [features.new_empty(shares.hidden, rows) for _ in memory]
    for space, (x, *before), (outputs, *behind) in _blocks(
        shares, block, (features.t(), *_turned(memory)), (out, *after)
    ):
        for i, cell in enumerate(shares.cells):
            x = space.advance(cell, i, x, (before[2 * i], before[2 * i + 1]), (behind[2 * i], behind[2 * i + 1]))
        torch.addmm(shares.head_bias, shares.head, x, out=outputs)
    return out.t(), [m.t() for m in after]


class BlocksStep(Function):
    """One step of the whole core: cells and head."""

    @staticmethod
    def forward(
        ctx: Any, shares: SummedShares, block: int, token: Tensor, features: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shares, ctx.block = shares, block
        ctx.save_for_backward(features, *memory)
        out, after = forward(shares, features, memory, block)
        return out, *after

    @staticmethod
    @only_once
    def backward(ctx: Any, d_out: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.shares.enter()
        features, *memory = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        out = [t.new_empty(t.shape[::-1]) if n else None for t, n in zip((features, *memory), needed, strict=True)]
        inputs, incoming = _turned((features, *memory)), _turned((d_out, *d_after))
        for space, *block in _blocks(ctx.shares, ctx.block, inputs, incoming, out):
            _block_backward(ctx.shares, space, *block)
        return None, None, features.new_empty(0), *_turned(out)


def _block_backward(
    shares: SummedShares,
    space: _Space,
    inputs: Sequence[Tensor],
    incoming: Sequence[Tensor | None],
    out: Sequence[Tensor | None],
) -> None:
    """Write the gradients of a block's features and memory, from those of its outputs and next memory, into `out`,
    where they are wanted; the weights' are added to `shares`."""
    (x, *memory), (d_out, *d_after) = inputs, incoming
    for i, weight in enumerate(shares.cells):
        x = space.advance(weight, i, x, (memory[2 * i], memory[2 * i + 1]), (space.h_after, space.c_after))
    *sums, head, head_bias = shares.sums()
    d_h: Tensor | None = None
    if d_out is not None:
        head.addmm_(d_out, x.t())
        head_bias.add_(d_out.sum(1, keepdim=True))
        d_h = torch.mm(shares.head_back, d_out, out=space.d_h)
    for i in reversed(range(len(sums))):
        d_h, d_c = add(d_h, d_after[2 * i]), d_after[2 * i + 1]
        if d_h is None and d_c is None:
            d_h = torch.zeros_like(space.d_h)
        d_gates, (w_back, u_back) = space.d_gates[i], shares.back[i]
        retreat(space.gates[i], memory[2 * i + 1], space.tanh[i], d_h, d_c, d_gates, out[2 * i + 2])
        sums[i].addmm_(d_gates.all, space.joined[i].t())
        if out[2 * i + 1] is not None:
            torch.mm(u_back, d_gates.all, out=out[2 * i + 1])
        d_h = None
        if i or out[0] is not None:
            d_h = torch.mm(w_back, d_gates.all, out=None if i else out[0])


def _turned(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [None if t is None else t.t() for t in tensors]


def _blocks(shares: SummedShares, rows: int, *groups: Sequence[Tensor | None]) -> Iterator[tuple[Any, ...]]:
    """Space, and each group's tensors [columns, all rows] cut to some rows, for one block after the other."""
    first = groups[0][0]
    assert first is not None
    total = first.shape[1]
    space = _Space(shares, min(rows, total), first)
    # Cut all at once: a slice a block takes longer than a block's arithmetic.
    count = -(-total // rows)
    cut = [[(None,) * count if t is None else t.split(rows, dim=1) for t in group] for group in groups]
    for k, parts in enumerate(zip(*(zip(*group, strict=True) for group in cut), strict=True)):
        here = min(rows, total - k * rows)
        yield (space if here == space.rows else _Space(shares, here, first)), *parts
