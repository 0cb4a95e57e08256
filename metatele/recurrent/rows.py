"""Large LSTMs on a few rows: the time goes into reading the weights, and into writing their gradient."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.cell import Cell, Gates, add, advance, retreat
from metatele.recurrent.gather import Shares, only_once


class StackedShares(Shares):
    """The rows that each weight gradient is made of, so that one product over all steps of a window makes it.

    A product at every step would write and add up the gradient of all weights each time: the five million numbers of
    the paper's LSTMs, for as few as one row.

    Args:
        cells, head: the weights, without a graph; head is (weight [outputs, h], bias [outputs]).
        steps: how many steps to make room for at once.
    """

    def __init__(self, cells: Sequence[Cell], head: tuple[Tensor, Tensor], steps: int) -> None:
        self.cells, self.head, self.steps = cells, head, steps
        self.transposed = [(w.t(), u.t(), bias) for w, u, bias in cells]
        self.pages: list[_Page] = []

    def slot(self, features: Tensor) -> "Slot":
        """Room for the next step."""
        if not self.pages or not self.pages[-1].free or self.pages[-1].rows != len(features):
            self.pages.append(_Page(self, features))
        return self.pages[-1].free.pop()

    def clear(self) -> None:
        for page in self.pages:
            page.returned = [False] * self.steps

    def gradients(self) -> list[Tensor | None]:
        out: list[Tensor] = []
        for page in self.pages:
            new = page.gradients()
            out = [a.add_(b) for a, b in zip(out, new, strict=True)] if out else new
        return [*out] or [None] * (4 * len(self.cells) + 2)


class CellSlot(NamedTuple):
    """Room for one cell in one step: what it multiplies, its gates, tanh(c), the gradient of its gates."""

    x: Tensor
    h: Tensor
    gates: Gates
    tanh: Tensor
    d_gates: Gates


class Slot(NamedTuple):
    """Room for one step of a page."""

    step: int
    cells: list[CellSlot]
    top: Tensor
    d_outputs: Tensor


class _Page:
    """Room for so many steps, stacked: [steps, rows, columns] of each factor of a weight gradient.

    All views of it are made at once, which takes a fraction of the time that as many single ones take.
    """

    def __init__(self, shares: StackedShares, features: Tensor) -> None:
        shape = (shares.steps, len(features))
        hidden = [u.shape[1] for _, u, _ in shares.cells]
        self.inputs = [[features.new_empty(*shape, m.shape[1]) for m in cell[:2]] for cell in shares.cells]
        self.d_gates = [features.new_empty(*shape, 4 * h) for h in hidden]
        self.top = features.new_empty(*shape, hidden[-1])
        self.d_outputs = features.new_empty(*shape, len(shares.head[0]))
        cells = [
            zip(
                *(stack.unbind() for stack in inputs),
                Gates.each(torch.empty_like(d_gates), 1),
                features.new_empty(*shape, h).unbind(),
                Gates.each(d_gates, 1),
                strict=True,
            )
            for inputs, d_gates, h in zip(self.inputs, self.d_gates, hidden, strict=True)
        ]
        views = zip(zip(*cells, strict=True), self.top.unbind(), self.d_outputs.unbind(), strict=True)
        self.free = [Slot(k, [CellSlot(*c) for c in step], *rest) for k, (step, *rest) in enumerate(views)][::-1]
        self.rows = len(features)
        self.returned = [False] * shares.steps  # whether a backward pass came by

    def gradients(self) -> list[Tensor]:
        used = slice(0, len(self.returned) - len(self.free))
        for step, returned in enumerate(self.returned[used]):
            if not returned:
                for gradient in (*self.d_gates, self.d_outputs):
                    gradient[step] = 0
        out = []
        for inputs, d_gates in zip(self.inputs, self.d_gates, strict=True):
            gradient = d_gates[used].flatten(0, 1)
            bias = gradient.sum(0)
            out += [*(gradient.t() @ rows[used].flatten(0, 1) for rows in inputs), bias, bias.clone()]
        gradient = self.d_outputs[used].flatten(0, 1)
        return [*out, gradient.t() @ self.top[used].flatten(0, 1), gradient.sum(0)]


class RowsStep(Function):
    """One step of the whole core: cells and head."""

    @staticmethod
    def forward(
        ctx: Any, shares: StackedShares, token: Tensor, features: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shares, ctx.slot = shares, shares.slot(features)
        ctx.page = shares.pages[-1]
        x, after = features, []
        for i, (w_t, u_t, bias) in enumerate(shares.transposed):
            slot = ctx.slot.cells[i]
            slot.x.copy_(x)
            slot.h.copy_(memory[2 * i])
            torch.addmm(bias, slot.x, w_t, out=slot.gates.all).addmm_(slot.h, u_t)
            x, c_after, _ = advance(slot.gates, memory[2 * i + 1], tanh=slot.tanh)
            after += [x, c_after]
        ctx.slot.top.copy_(x)
        ctx.save_for_backward(*memory[1::2])
        weight, bias = shares.head
        return torch.addmm(bias, x, weight.t()), *after

    @staticmethod
    @only_once
    def backward(ctx: Any, d_out: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        shares, step, before = ctx.shares, ctx.slot, ctx.saved_tensors
        shares.enter()
        d_memory: list[Tensor | None] = [None] * len(d_after)
        ctx.page.returned[step.step] = True
        d_h = None
        if d_out is None:
            step.d_outputs.zero_()
        else:
            step.d_outputs.copy_(d_out)
            d_h = d_out @ shares.head[0]
        for i in reversed(range(len(shares.cells))):
            d_h, d_c = add(d_h, d_after[2 * i]), d_after[2 * i + 1]
            slot, (w_ih, w_hh, _) = step.cells[i], shares.cells[i]
            if d_h is None and d_c is None:
                slot.d_gates.all.zero_()
                continue
            d_memory[2 * i + 1] = retreat(slot.gates, before[i], slot.tanh, d_h, d_c, slot.d_gates)
            if ctx.needs_input_grad[3 + 2 * i]:
                d_memory[2 * i] = slot.d_gates.all @ w_hh
            d_h = slot.d_gates.all @ w_ih if i or ctx.needs_input_grad[2] else None
        return None, step.top.new_empty(0), d_h, *d_memory
