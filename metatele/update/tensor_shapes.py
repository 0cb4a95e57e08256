"""What the shape of a parameter tensor tells a learned update."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from metatele.task.params import Params

SHAPE_FEATURES = 4  # numbers that a tensor's shape gives to a network
SQUARE = 16  # vectors and scalars are measured as matrices of this size are


class TensorShapes(NamedTuple):
    """Numbers about each of T parameter tensors; a tensor with more than two dimensions is a matrix [first, others].

    Attributes:
        counts: how many entries each tensor has, at least 1, [T].
        fan_in: columns of a matrix, 1 for vectors and scalars, [T].
        step: what a step of a tensor [a, b] of root mean square 1 is measured in, 10 / sqrt(a) + 10 / sqrt(b), [T].
        begin: the root mean square that a tensor of zeros is taken to have, [T].
        features: log sizes, whether it is a matrix, its place in the network, of order one, [T, SHAPE_FEATURES].
    """

    counts: Tensor
    fan_in: Tensor
    step: Tensor
    begin: Tensor
    features: Tensor

    @staticmethod
    def of(params: Params, like: Tensor) -> "TensorShapes":
        """The numbers for stacked parameters {name: [B, ...]}, with the dtype and device of `like`."""
        table = torch.tensor(_numbers(tuple(p.shape for p in params.values())), dtype=like.dtype, device=like.device)
        counts, fan_in, step, begin = table[:, :-SHAPE_FEATURES].unbind(1)
        return TensorShapes(counts, fan_in, step, begin, table[:, -SHAPE_FEATURES:])


@lru_cache(maxsize=64)
def _numbers(shapes: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    """The columns of `TensorShapes` for each shape (B, ...).

    A step along a matrix of rank one, which a gradient nearly is, changes the spectral norm of a random matrix by
    about the same factor at every width if it is measured in rms (1 / sqrt(a) + 1 / sqrt(b)) (compare Yang et al. 2023,
    arXiv:2310.17813). The factor of 10 lets a step size mean what it means to Adam on a matrix of 16 x 16 as torch
    draws it.
    """
    rows, last = [], max(len(shapes) - 1, 1)
    for i, (_, *shape) in enumerate(shapes):
        size, matrix = math.prod(shape), len(shape) > 1
        out = max(shape[0], 1) if shape else 1
        into = max(size // out, 1) if matrix else 1
        a, b = (out, into) if matrix else (SQUARE, SQUARE)
        begin = (3 * into) ** -0.5 if matrix else 0.1
        features = [math.log(out) / 3 - 1, math.log(into) / 3 - 1, float(matrix), i / last]
        rows.append([max(size, 1), into, 10 * (a**-0.5 + b**-0.5), begin, *features])
    return rows
