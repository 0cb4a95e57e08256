"""Carrying second moments by a linear map that is known only by what it does to vectors."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metatele.support.seeding import derive_seed
from metatele.task.params import Params, map_params

DRAWS = 8
UNDER_ROOT = 1e-30  # under the root: a derivative where a second moment is zero


def estimate_square(carry: Callable[[Params], Params], square: Mapping[str, Tensor]) -> Params:
    """sum_j J_ij^2 v_j for a linear map J on stacked parameters and second moments v {name: [B, ...]}.

    The mean over draws of the squares of J (signs * sqrt(v)), with random signs: unbiased, and exact
    for diagonal J. The signs are the same for all tasks and at every call.
    """
    total = map_params(torch.zeros_like, square)
    sizes = [v[0].numel() for v in square.values()]
    for draw in range(DRAWS):
        signs = torch.as_tensor(_signs(draw, sum(sizes))).split(sizes)
        pairs = zip(square.items(), signs, strict=True)
        root = {name: (v + UNDER_ROOT).sqrt() * s.to(v).reshape(v.shape[1:]) for (name, v), s in pairs}
        total = map_params(lambda t, c: t + c.square() / DRAWS, total, carry(root))
    return total


@cache
def _signs(draw: int, count: int) -> NDArray[np.int8]:
    """Random signs, [count]."""
    # Drawn by numpy (the same bits as torch's generator gives for this seed): if torch drew them while a step is
    # traced, the compiled step would draw new ones at every call.
    stream = np.random.RandomState(derive_seed("signs", draw) % 2**32)
    return (2 * (stream.randint(0, 2**32, count, np.uint32) % 2).astype(np.int8) - 1).astype(np.int8)
