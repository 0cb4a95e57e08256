"""Means of gradients and of their squares whose spans are learned."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metatele.parts.point import Point, State
from metatele.task.params import Params, map_params

SPEED = 10.0  # of the learned spans: a meta-step of 0.001 changes how much a mean takes of a gradient by a hundredth


class Seen(NamedTuple):
    """One parameter tensor at a step, as matrices [first dimension, others]; vectors and scalars are columns.

    Attributes:
        p, g: the parameters and their gradient, [B, a, b].
        means, squares: means of gradients and of their squares, after this one, [B, 3, a, b].
        matrix: whether the tensor has two dimensions or more.
    """

    p: Tensor
    g: Tensor
    means: Tensor
    squares: Tensor
    matrix: bool

    @property
    def size(self) -> int:
        """How many entries the tensor has, at least 1."""
        return max(self.p.shape[1] * self.p.shape[2], 1)


class Accumulators(nn.Module):
    """Exponential means of the gradient and of its square, three of each: m <- m + (1 - beta) (g - m), from zero.

    The decays beta begin at `DECAYS` and are learned, 1 - beta as a logarithm. The squares are whole tensors, from
    which Adafactor's row and column means follow, since a mean of means is one; teleports can carry them along.
    """

    DECAYS = (0.9, 0.99, 0.999)

    def __init__(self) -> None:
        super().__init__()
        many = len(self.DECAYS)
        self.spans, self.square_spans = nn.Parameter(torch.zeros(many)), nn.Parameter(torch.zeros(many))

    def initialise(self) -> None:
        """Forget what was learned."""
        for p in self.parameters():
            nn.init.zeros_(p)

    def start(self, params: Params) -> State:
        """No gradient yet, for parameters {name: [B, ...]}."""
        zeros = map_params(torch.zeros_like, params)
        return State((zeros,) * len(self.DECAYS), (zeros,) * len(self.DECAYS))

    def rates(self) -> tuple[Tensor, Tensor]:
        """1 - beta of the means and of the squares, each [3], between 0 and 1."""
        fresh = [math.log(1 - beta) - math.log(beta) for beta in self.DECAYS]
        begin = torch.tensor(fresh, dtype=self.spans.dtype, device=self.spans.device)
        return torch.sigmoid(begin + SPEED * self.spans), torch.sigmoid(begin + SPEED * self.square_spans)

    def take(self, point: Point, state: State) -> tuple[dict[str, Seen], State]:
        """Each tensor with its means after the point's gradient, and the state that holds those."""
        rate, square_rate = (r.reshape(-1, 1, 1) for r in self.rates())
        seen = {}
        for name, like in point.params.items():
            shape = _matrix_shape(like.shape[1:])
            # Autograd gives transposed gradients, which cost more in every operation than a copy does.
            p, g = (x.reshape(len(x), *shape).contiguous() for x in (like, point.gradient[name]))
            means, squares = (
                torch.stack([m[name].reshape(p.shape) for m in kept], 1) for kept in (state.covectors, state.squares)
            )
            means = torch.lerp(means, g.unsqueeze(1), rate)
            squares = torch.lerp(squares, g.square().unsqueeze(1), square_rate)
            seen[name] = Seen(p, g, means, squares, like.dim() > 2)
        covectors = self._unstack({name: s.means for name, s in seen.items()}, point.params)
        return seen, State(covectors, self._unstack({name: s.squares for name, s in seen.items()}, point.params))

    def _unstack(self, stacked: Params, like: Params) -> tuple[Params, ...]:
        """Tensors [B, 3, a, b] as three sets of tensors shaped like the parameters."""
        return tuple(
            {name: stacked[name][:, k].reshape(p.shape) for name, p in like.items()} for k in range(len(self.DECAYS))
        )


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    return (shape[0] if len(shape) else 1), math.prod(shape[1:])
