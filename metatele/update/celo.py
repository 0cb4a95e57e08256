"""Celo: a learned rule for every coordinate, and an LSTM for each tensor that chooses the step size."""

import torch
from torch import Tensor

from metatele.parts.point import PROGRESS, Point, State
from metatele.recurrent import RecurrentCore
from metatele.support.checks import above_zero, at_least, yes_or_no
from metatele.task.params import Params
from metatele.update.accumulators import Accumulators, Seen
from metatele.update.base import Update
from metatele.update.coordinate_features import coordinate_features
from metatele.update.feature_network import FeatureNetwork
from metatele.update.size_free import LEAST_SQUARE
from metatele.update.span import LEAST_SIZE
from metatele.update.tensor_shapes import SHAPE_FEATURES, TensorShapes

SPANS = len(Accumulators.DECAYS)
STATISTICS = SPANS + (SPANS - 1) + 2  # what the scheduler sees of a tensor besides its shape: see `_features`


class CeloUpdate(Update):
    """Celo: f = -lr * exp(s) * rms(theta) * u / rms(u), with a learned rule u and a learned schedule s.

    u = d * exp(exponent * m) for each coordinate, d and m the outputs of a small network that sees momenta, second
    moments and Adafactor's factors (see `coordinate_features`). Since it is normalised for each tensor, it chooses the
    direction, and the scheduler how far: an LSTM whose rows are the tensors of all tasks, which sees how large the
    momenta are beside the gradients, how the gradient's size has changed, the parameters' size, the tensor's shape, the
    mean of what all tensors see, the time, and the horizon where it is known. A fresh scheduler takes steps of about
    `lr` of a tensor's size, and a fresh rule random directions.

    From the paper it differs in these: the scheduler does not see the loss, and sees the gradient's size relative to
    what it was at first, so that the loss's scale does not matter; s is between -5 and 5; a tensor is never taken to be
    smaller than a tenth of what torch draws, so that zeros can grow; clipped copies of the gradient are left out of the
    features, 28 remain. Meta-training in two stages, the rule first, is not part of the update.

    Source: Moudgil et al. 2025, arXiv:2501.12670; a scheduler for each tensor: Metz et al. 2022, arXiv:2211.09760.

    Args:
        hidden: size of the scheduler's LSTM.
        units: of a layer of the rule.
        lr: the step size of a fresh scheduler, relative to the tensor's root mean square.
        exponent: factor on the rule's magnitudes.
        horizon: whether the scheduler sees the horizon, where that is known.
    Raises: ConfigError for an argument out of range.
    """

    SMALLEST = 0.1  # of what torch draws: the smallest root mean square that a tensor is taken to have

    def __init__(
        self, hidden: int = 32, units: int = 8, lr: float = 0.01, exponent: float = 0.001, horizon: bool = True
    ) -> None:
        super().__init__()
        at_least(1, units=units)
        above_zero(lr=lr, exponent=exponent)
        yes_or_no(horizon=horizon)
        self.hidden, self.units, self.lr, self.exponent, self.horizon = hidden, units, lr, exponent, horizon
        self.accumulators, self.network = Accumulators(), FeatureNetwork(units)
        inputs = 2 * (STATISTICS + SHAPE_FEATURES) + 1 + PROGRESS * horizon
        self.core = RecurrentCore(inputs, hidden, 1, 1, head_scale=0.1)

    def initialise(self) -> None:
        super().initialise()
        self.accumulators.initialise()
        self.network.initialise()

    def start(self, params: Params) -> State:
        first = next(iter(params.values()))
        before, rows = self.accumulators.start(params), len(first) * len(params)
        size = first.new_zeros(len(first), len(params))  # the log root mean square of the first gradient, [B, T]
        return State(before.covectors, before.squares, (size, *self.core.start(rows, first)))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        params, shapes = point.params, TensorShapes.of(point.params, next(iter(point.params.values())))
        seen, kept = self.accumulators.take(point, state)
        first, *memory = state.memory
        sizes = torch.stack([_mean_squares(s) for s in seen.values()], 1)
        features, first, unit = self._features(point, sizes, first, shapes)
        out, after = self.core(features.flatten(0, 1), tuple(memory))
        far = -self.lr * (5 * torch.tanh(out.reshape(unit.shape) / 5)).exp() * unit
        step = {}
        for t, (name, p) in enumerate(params.items()):
            direction, magnitude = self.network(coordinate_features(seen[name]))
            rule = _normalised(direction * (self.exponent * magnitude).exp())
            step[name] = (far[:, t].reshape(-1, 1, 1) * rule).reshape(p.shape)
        return step, State(kept.covectors, kept.squares, (first, *after))

    def _features(
        self, point: Point, sizes: Tensor, first: Tensor, shapes: TensorShapes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the scheduler sees, all of order one.

        Args:
            sizes: what `_mean_squares` gives for each tensor, [B, T, 2 + 2 SPANS].
            first: the log root mean square of the first gradient, [B, T]; counts after the first step.
        Returns: [B, T, inputs]; `first` after this step; the size that a tensor is taken to have, [B, T].
        """
        now = torch.as_tensor(point.step, dtype=torch.float64, device=sizes.device)
        p, g, means, squares = sizes.split([1, 1, SPANS, SPANS], 2)
        # What the means have of the numbers that they began without, by which they are corrected.
        mean_has, square_has = (1 - (1 - rate).pow((now + 1).to(rate.dtype)) for rate in self.accumulators.rates())
        squares = squares / square_has + LEAST_SQUARE
        means = means / (mean_has.square() * squares)
        size = (g + LEAST_SQUARE).log()[..., 0] / 2
        first = torch.where(now == 0, size, first)
        unit = (p[..., 0] + (self.SMALLEST * shapes.begin).square()).sqrt()
        columns = [
            (means + LEAST_SIZE).log() / 6,
            (squares[..., :-1] / squares[..., -1:]).log() / 6,
            ((size - first) / 3).unsqueeze(2),
            (unit / shapes.begin).log().unsqueeze(2),
            shapes.features.expand(len(sizes), -1, -1),
        ]
        own = torch.cat(columns, 2)
        shared = [point.time(size[:, 0]).unsqueeze(1)]
        if self.horizon:
            shared.append(point.progress(size).expand(len(size), -1))
        mean = torch.cat([own.mean(1), *shared], 1)
        return torch.cat([own, mean.unsqueeze(1).expand(-1, own.shape[1], -1)], 2), first, unit


def _mean_squares(seen: Seen) -> Tensor:
    """Mean squares over a tensor of its entries, gradient and means, and the means of its squares, [B, 2 + 2 SPANS]."""
    every = torch.cat([seen.p.unsqueeze(1), seen.g.unsqueeze(1), seen.means], 1).square()
    return torch.cat([every, seen.squares], 1).sum((2, 3)) / seen.size


def _normalised(u: Tensor) -> Tensor:
    """u [B, a, b] with root mean square one across each tensor."""
    square = u.square().sum((1, 2), keepdim=True) / max(u.shape[1] * u.shape[2], 1)
    return u * (square + LEAST_SIZE).rsqrt()
