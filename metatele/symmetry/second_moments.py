"""Carrying second moments by a linear map that is known only by what it does to vectors."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metatele.params import Params, map_params
from metatele.seeding import generator

DRAWS = 8
TINY = 1e-30  # under the root: a derivative where a second moment is zero


def estimate_square(carry: Callable[[Params], Params], square: Mapping[str, Tensor]) -> Params:
    """sum_j J_ij^2 v_j for a linear map J on stacked parameters and second moments v {name: [B, ...]}.

    The mean over draws of the squares of J (signs * sqrt(v)), with random signs: unbiased, and exact
    for diagonal J. The signs are the same for all tasks and at every call.
    """
    total = map_params(torch.zeros_like, square)
    for draw in range(DRAWS):
        stream = generator("signs", draw)
        root = {name: (v + TINY).sqrt() * _signs(v, stream) for name, v in square.items()}
        total = map_params(lambda t, c: t + c.square() / DRAWS, total, carry(root))
    return total


def _signs(like: Tensor, stream: torch.Generator) -> Tensor:
    """Random signs in the shape of one task's tensor."""
    return (2 * torch.randint(2, like.shape[1:], generator=stream) - 1).to(like)
