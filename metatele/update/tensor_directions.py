"""What `TensorUpdate` makes of one parameter tensor, coordinate by coordinate."""

from typing import NamedTuple

import torch
from torch import Tensor

from metatele.update.size_free import LEAST_SQUARE
from metatele.update.span import inner_products, side_by_side

GRADIENT, PARAMS, LAST = 5, 6, 7  # places among the directions; what comes before PARAMS is made of gradients
MOMENTA, SQUARES = (0.9, 0.99), (0.999, 0.95)  # of the moments (fast, slow) and (long, short)


class Moments(NamedTuple):
    """Means of a tensor's gradients and of their squares, not corrected for their zero start, shaped like it."""

    fast: Tensor
    slow: Tensor
    long: Tensor
    short: Tensor


class Directions(NamedTuple):
    """R directions of one tensor: fast / root of long, fast / root of short, gradient / root of short, slow / root of
    long, fast, gradient, parameters and, if it is remembered, the last step.

    Attributes:
        moments: after the gradient.
        metric: the long second moment, above zero: what makes covectors of steps.
        rows: [B, R, its entries].
        products: their inner products, [B, R, R].
    """

    moments: Moments
    metric: Tensor
    rows: Tensor
    products: Tensor

    @staticmethod
    def of(params: Tensor, gradient: Tensor, before: Moments, last: Tensor | None) -> "Directions":
        """Those of a tensor [B, ...].

        Args:
            before: the moments before the gradient.
            last: the last step times its `metric`, which is what teleports carry along; None if it is not remembered.
        """
        # Autograd gives transposed gradients, which cost more in every operation than a copy does.
        g = gradient.contiguous()
        fast, slow, long, short = before
        square, (a, b), (c, d) = g.square(), MOMENTA, SQUARES
        # In this order, what is made is used while the processor has it close at hand.
        short = torch.lerp(short, square, 1 - d)
        lately = (short + LEAST_SQUARE).rsqrt_()
        remembered = [] if last is None else [last / (long + LEAST_SQUARE)]
        long = torch.lerp(long, square, 1 - c)
        metric = long + LEAST_SQUARE
        over = metric.rsqrt()
        slow, fast = torch.lerp(slow, g, 1 - b), torch.lerp(fast, g, 1 - a)
        made = [fast, fast, g, slow, fast, g, params, *remembered]
        rows = side_by_side(made, [(slice(0, 4, 3), over), (slice(1, 3), lately)])
        return Directions(Moments(fast, slow, long, short), metric, rows, inner_products(rows))
