"""tanh and the logistic function for compiled code, in which a polynomial becomes a processor's vector instructions."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# x P(x^2) / Q(x^2) of degree 13 and 6, from the highest power down: the minimax approximation that Eigen, and with it
# JAX and TensorFlow, use for tanh in single precision (Eigen, MathFunctionsImpl.h, ptanh_float).
NUMERATOR = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
EDGE = 7.90531110763549805  # beyond it tanh is 1 to rounding


def rational_tanh(x: Tensor) -> Tensor:
    """tanh(x) to a few units in the last place of single precision."""
    x = x.clamp(-EDGE, EDGE)
    square = x * x
    return x * _polynomial(NUMERATOR, square) / _polynomial(DENOMINATOR, square)


def tanh(x: Tensor) -> Tensor:
    """tanh(x), differentiable once."""
    return _Tanh.apply(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), differentiable once."""
    return _Sigmoid.apply(x)


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
        y = rational_tanh(x) if _approximate(x) else torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class _Sigmoid(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = 0.5 * rational_tanh(0.5 * x) + 0.5 if _approximate(x) else torch.sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * y * (1 - y)
