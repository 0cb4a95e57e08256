"""The arithmetic of one LSTM cell between its matrix products, forward and backward, without a graph."""

from typing import NamedTuple

import torch
from torch import Tensor

Cell = tuple[Tensor, Tensor, Tensor]  # W_ih [4h, in], W_hh [4h, h], b_ih + b_hh [4h]
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward


class Gates(NamedTuple):
    """The four gates of a cell, or their gradients, as one tensor and as views of it; in torch's order."""

    all: Tensor
    i_and_f: Tensor
    i: Tensor
    f: Tensor
    candidate: Tensor
    o: Tensor

    @classmethod
    def of(cls, gates: Tensor, dim: int) -> "Gates":
        """The gates along `dim`."""
        size = gates.shape[dim] // 4
        return cls(gates, gates.narrow(dim, 0, 2 * size), *gates.chunk(4, dim))

    @classmethod
    def each(cls, gates: Tensor, dim: int) -> "list[Gates]":
        """The gates along `dim` of each tensor in a stack."""
        size = gates.shape[1 + dim] // 4
        parts = (gates, gates.narrow(1 + dim, 0, 2 * size), *gates.chunk(4, 1 + dim))
        return [cls(*views) for views in zip(*(p.unbind() for p in parts), strict=True)]


def advance(
    gates: Gates, c: Tensor, h_after: Tensor | None = None, c_after: Tensor | None = None, tanh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM cell's next h and c, and tanh(c).

    Args:
        gates: before squashing; squashed in place.
        c: the cell's memory, of the shape of a gate.
        h_after, c_after, tanh: where to put the results.
    """
    gates.i_and_f.sigmoid_()
    gates.candidate.tanh_()
    gates.o.sigmoid_()
    c = torch.mul(gates.f, c, out=c_after).addcmul_(gates.i, gates.candidate)
    tanh = torch.tanh(c, out=tanh)
    return torch.mul(gates.o, tanh, out=h_after), c, tanh


def retreat(
    gates: Gates,
    c: Tensor,
    tanh: Tensor,
    d_h: Tensor | None,
    d_c: Tensor | None,
    d_gates: Gates,
    d_before: Tensor | None = None,
) -> Tensor:
    """The gradient of c before the step; into `d_gates` goes that of the cell's gates before squashing.

    Args:
        gates, tanh: as `advance` left them.
        c: the cell's memory before the step.
        d_h, d_c: gradients of h and c after the step; one of them may be None, for zeros.
        d_gates: where to put those of the gates.
        d_before: where to put the result.
    """
    if d_h is None:
        d_gates.o.zero_()
    else:
        through = _tanh_backward(d_h * gates.o, tanh)
        d_c = through if d_c is None else through.add_(d_c)
        _sigmoid_backward(torch.mul(d_h, tanh, out=d_gates.o), gates.o, grad_input=d_gates.o)
    assert d_c is not None
    torch.mul(d_c, gates.candidate, out=d_gates.i)
    torch.mul(d_c, c, out=d_gates.f)
    _sigmoid_backward(d_gates.i_and_f, gates.i_and_f, grad_input=d_gates.i_and_f)
    torch.mul(d_c, gates.i, out=d_gates.candidate)
    _tanh_backward.grad_input(d_gates.candidate, gates.candidate, grad_input=d_gates.candidate)
    return torch.mul(d_c, gates.f, out=d_before)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two gradients, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b
