"""The arithmetic of cells whose operations are called one by one: few calls, in place where that is possible."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward


class Eager:
    """Gates and memory in one node of autograd's graph, whose derivative cannot be differentiated."""

    def products(self, first: Tensor, turned: Tensor, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """See `Arithmetic.products`."""
        for x, weight in zip(inputs, weights, strict=True):
            first = torch.addmm(first, x, weight.t())
        return first

    def advance(self, sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """See `Arithmetic.advance`."""
        h, c = _Advance.apply(sums, c, dim)
        return h, c


def only_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that cannot be differentiated: `once_differentiable` would let it pass for a constant."""

    @wraps(backward)
    def checked(*args: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the learned weights of a window cannot be differentiated twice: leave create_graph out")
        return backward(*args)

    return checked


class _Advance(Function):
    """An LSTM cell's next h and c, from its gates before squashing, which are squashed in place."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        i, f, candidate, o = sums.chunk(4, dim)
        sums.narrow(dim, 0, 2 * c.shape[dim]).sigmoid_()
        candidate.tanh_()
        o.sigmoid_()
        after = torch.mul(f, c).addcmul_(i, candidate)
        bent = torch.tanh(after)
        ctx.save_for_backward(sums, c, bent)
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        return o * bent, after

    @staticmethod
    @only_once
    def backward(ctx: Any, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, c, bent = ctx.saved_tensors
        dim, size = ctx.dim, c.shape[ctx.dim]
        i, f, candidate, o = sums.chunk(4, dim)
        d_sums = torch.empty_like(sums)
        d_i, d_f, d_candidate, d_o = d_sums.chunk(4, dim)
        if d_h is None:
            d_o.zero_()
        else:
            through = _tanh_backward(d_h * o, bent)
            d_c = through if d_c is None else through.add_(d_c)
            _sigmoid_backward(torch.mul(d_h, bent, out=d_o), o, grad_input=d_o)
        if d_c is None:
            return None, None, None
        torch.mul(d_c, candidate, out=d_i)
        torch.mul(d_c, c, out=d_f)
        both, squashed = d_sums.narrow(dim, 0, 2 * size), sums.narrow(dim, 0, 2 * size)
        _sigmoid_backward(both, squashed, grad_input=both)
        torch.mul(d_c, i, out=d_candidate)
        _tanh_backward.grad_input(d_candidate, candidate, grad_input=d_candidate)
        return d_sums, d_c * f if ctx.needs_input_grad[1] else None, None
