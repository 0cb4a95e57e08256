"""tanh and the logistic function for compiled code, in which a polynomial becomes a processor's vector instructions."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# x P(x^2) / Q(x^2) of degree 13 and 6, from the highest power down, scaled so that Q(0) = 1: the minimax approximation
# that Eigen, and with it JAX and TensorFlow, use for tanh in single precision (MathFunctionsImpl.h, ptanh_float).
LAST = 4.89352518554385e-03
NUMERATOR = (
    -2.76076847742355e-16 / LAST,
    2.00018790482477e-13 / LAST,
    -8.60467152213735e-11 / LAST,
    5.12229709037114e-08 / LAST,
    1.48572235717979e-05 / LAST,
    6.37261928875436e-04 / LAST,
    4.89352455891786e-03 / LAST,
)
DENOMINATOR = (1.19825839466702e-06 / LAST, 1.18534705686654e-04 / LAST, 2.26843463243900e-03 / LAST, 1.0)
EDGE = 7.90531110763549805  # beyond it tanh is 1 to rounding


def tanh(x: Tensor) -> Tensor:
    """tanh(x), differentiable once."""
    return _Tanh.apply(x)


def gates(i: Tensor, f: Tensor, candidate: Tensor, o: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An LSTM's gates, squashed: sigmoid(i), sigmoid(f), tanh(candidate), sigmoid(o); differentiable once."""
    return _Gates.apply(i, f, candidate, o)


def tanh_fraction(x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(x) as a numerator and a denominator in [1, 200], to a few units in the last place of single precision."""
    x = x.clamp(-EDGE, EDGE)
    square = x * x
    return x * _polynomial(NUMERATOR, square), _polynomial(DENOMINATOR, square)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    first, *rest = coefficients
    value = first * x + rest[0]
    for coefficient in rest[1:]:
        value = value * x + coefficient
    return value


def _approximate(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


class _Tanh(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if _approximate(x):
            above, below = tanh_fraction(x)
            y = above / below
        else:
            y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class _Gates(Function):
    @staticmethod
    def forward(ctx: Any, i: Tensor, f: Tensor, candidate: Tensor, o: Tensor) -> tuple[Tensor, ...]:
        if _approximate(i):
            # sigmoid(x) = (1 + tanh(x / 2)) / 2. One division makes all four reciprocals (Montgomery's trick): a
            # processor takes longer for a division than for a polynomial.
            halves = (0.5 * i, 0.5 * f, candidate, 0.5 * o)
            (a, p), (b, q), (c, r), (d, s) = (tanh_fraction(x) for x in halves)
            pq, rs = p * q, r * s
            one = 1 / (pq * rs)
            first, second = one * rs, one * pq  # 1 / (p q), 1 / (r s)
            y = (
                0.5 * (a * (q * first)) + 0.5,
                0.5 * (b * (p * first)) + 0.5,
                c * (s * second),
                0.5 * (d * (r * second)) + 0.5,
            )
        else:
            y = (i.sigmoid(), f.sigmoid(), candidate.tanh(), o.sigmoid())
        ctx.save_for_backward(*y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        i, f, candidate, o = ctx.saved_tensors
        of_i, of_f, of_candidate, of_o = gradients
        slopes = (i * (1 - i), f * (1 - f), 1 - candidate * candidate, o * (1 - o))
        return of_i * slopes[0], of_f * slopes[1], of_candidate * slopes[2], of_o * slopes[3]
