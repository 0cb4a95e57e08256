"""What networks see of every coordinate of a parameter tensor: momenta, second moments, Adafactor's factors."""

from typing import NamedTuple

import torch
from torch import Tensor

from metatele.parts.point import Point
from metatele.update.accumulators import Seen
from metatele.update.size_free import LEAST_SQUARE
from metatele.update.span import LEAST_SIZE

WHOLE = 16  # features that differ from coordinate to coordinate: see `coordinate_features`
FACTORS = 6  # features that a row has; as many has a column
FLOOR = 1e-5  # of a tensor's mean square, added to second moments before their roots are divided by
TIMES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


class Features(NamedTuple):
    """The features of a tensor's coordinates, those of rows and columns not repeated.

    Attributes:
        whole: [B, WHOLE, a, b].
        rows: [B, FACTORS, a, 1].
        columns: [B, FACTORS, 1, b] of a matrix; of a vector the rows again.
    """

    whole: Tensor
    rows: Tensor
    columns: Tensor


def coordinate_features(seen: Seen) -> Features:
    """The features of Metz et al. 2022, arXiv:2203.11860, without the time.

    Of the parameter p, the gradient g, its means m and the means of its squares v, with r and c the means of v over a
    row and a column: p; g; m; v and 1 / sqrt(v) of the longest span; m / sqrt(v); g and m times Adafactor's
    sqrt(mean(r) / (r c)) of each span; for rows r and 1 / sqrt(r), for columns c and 1 / sqrt(c). For vectors r and c
    are v, and the factor is 1 / sqrt(v). All are divided by a size of the gradient's, so that its scale does not matter
    when they are then divided by their root mean square (`normaliser`).
    """
    rows, columns = seen.p.shape[1:]
    unit = seen.squares.sum((2, 3), keepdim=True) / seen.size + LEAST_SQUARE
    root, v = unit.rsqrt(), seen.squares / unit
    g, m = seen.g.unsqueeze(1) * root[:, :1], seen.means * root
    r = v.sum(3, keepdim=True) / max(columns, 1)
    over_r = (r + FLOOR).rsqrt()
    c, over_c, factor = r, over_r, over_r
    if seen.matrix:
        c = v.sum(2, keepdim=True) / max(rows, 1)
        over_c = (c + FLOOR).rsqrt()
        factor = over_r * over_c  # the mean of r is 1
    slow = v[:, -1:]
    over = (slow + FLOOR).rsqrt()
    whole = torch.cat([seen.p.unsqueeze(1), g, m, slow, over, m * over, g * factor, m * factor], 1)
    return Features(whole, torch.cat([r, over_r], 1), torch.cat([c, over_c], 1))


def normaliser(x: Tensor) -> Tensor:
    """One over the root mean square of each feature [B, R, a, b] across the tensor, [B, R]."""
    return (x.square().sum((2, 3)) / max(x.shape[2] * x.shape[3], 1) + LEAST_SIZE).rsqrt()


def time_features(point: Point, like: Tensor) -> Tensor:
    """tanh(t / x) of the step t for each x of `TIMES`, with the dtype and device of `like`, [11]."""
    now = torch.as_tensor(point.step, dtype=torch.float64, device=like.device)
    return torch.tanh(now / torch.tensor(TIMES, dtype=torch.float64, device=like.device)).to(like.dtype)
