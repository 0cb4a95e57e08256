"""Learned updates that run on networks of any width and depth."""

import torch
from torch import Tensor

from metatele.parts.point import Point, State
from metatele.recurrent import RecurrentCore
from metatele.support.checks import above_zero
from metatele.task.params import Params, flatten, map_params, per_task, smooth_norm, unflatten
from metatele.update.base import Update
from metatele.update.classical import adam_moments

LEAST_SQUARE = 1e-20  # added to squared gradients, so that logarithms and roots stay smooth at zero


class CoordinateUpdate(Update):
    """LSTM(update), size-free: one small LSTM shared by all coordinates of all layers.

    It corrects Adam's direction u and chooses the step size of every coordinate:
    f = -lr * exp(3 tanh(o1)) * (u + 3 o0), (o0, o1) the LSTM's outputs. Sharing an LSTM between
    coordinates: Andrychowicz et al. 2016, arXiv:1606.04474.

    Args:
        hidden, layers: size of the LSTM.
        lr: the step size of a fresh LSTM.
    """

    FEATURES = 6
    BETAS = (0.9, 0.95)

    def __init__(self, hidden: int = 20, layers: int = 1, lr: float = 0.01) -> None:
        super().__init__()
        above_zero(lr=lr)
        self.hidden, self.layers, self.lr = hidden, layers, lr
        self.core = RecurrentCore(self.FEATURES, hidden, layers, 2, head_scale=0.1)

    def start(self, params: Params) -> State:
        zeros = map_params(torch.zeros_like, params)
        flat = flatten(params)
        return State((zeros,), (zeros,), self.core.start(flat.numel(), flat))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        # On all parameters as one tensor: a network has many small ones.
        gradient = {"all": flatten(point.gradient)}
        moments = State(({"all": flatten(state.covectors[0])},), ({"all": flatten(state.squares[0])},))
        mean, square, m, v = (moment["all"] for moment in adam_moments(gradient, moments, point.step, self.BETAS))
        direction, features = self._features(point, gradient["all"], m, v)
        out, memory = self.core(features, state.memory)
        correction, log_size = out.t().reshape(2, *direction.shape)
        step = -self.lr * (3 * log_size.tanh()).exp() * torch.add(direction, correction, alpha=3)
        like = point.params
        return unflatten(step, like), State((unflatten(mean, like),), (unflatten(square, like),), memory)

    def _features(self, point: Point, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adam's direction [B, n], and the LSTM's inputs [B * n, FEATURES], all of order one.

        g, m, v: gradient and Adam's corrected moments, [B, n].
        """
        root = (v + LEAST_SQUARE).sqrt()
        direction = m / root
        size = (g.square().mean(1, keepdim=True) + LEAST_SQUARE).sqrt()
        columns = [
            direction,
            g / root,
            (root / size).log() / 3,
            (size.log() / 5).expand_as(g),
            flatten(point.params) / _layer_scale(point.params),
            point.time(g),
        ]
        return direction, torch.stack(columns).flatten(1).t()


def _layer_scale(params: Params) -> Tensor:
    """Root mean square of each parameter tensor, repeated for its entries, [B, n]."""
    squares = torch.stack([p.reshape(len(p), -1).square().mean(1) for p in params.values()], 1)
    scales = (squares + LEAST_SQUARE).sqrt().split(1, dim=1)
    return torch.cat([s.expand(-1, p[0].numel()) for s, p in zip(scales, params.values(), strict=True)], 1)


class GlobalStepSize(Update):
    """LSTM(lr), size-free: an LSTM chooses the step size of gradient descent, one for each task.

    f = -lr * exp(4 tanh(o)) * gradient, o the LSTM's output; it sees the gradient's norm, the change
    of that norm, its own last output, and the time.

    Args:
        hidden, layers: size of the LSTM.
        lr: the step size of a fresh LSTM.
    """

    FEATURES = 4

    def __init__(self, hidden: int = 20, layers: int = 1, lr: float = 0.01) -> None:
        super().__init__()
        above_zero(lr=lr)
        self.hidden, self.layers, self.lr = hidden, layers, lr
        self.core = RecurrentCore(self.FEATURES, hidden, layers, 1, head_scale=0.1)

    def start(self, params: Params) -> State:
        flat = flatten(params)
        last = flat.new_zeros(len(flat), 2)  # last log-norm and last output
        return State(memory=(last, *self.core.start(len(flat), flat)))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        last, *memory = state.memory
        log_norm = smooth_norm(flatten(point.gradient), 1, LEAST_SQUARE).log()
        first = torch.as_tensor(point.step, device=log_norm.device) == 0
        change = torch.where(first, 0.0, (log_norm - last[:, 0]).tanh())
        features = torch.stack([log_norm / 5, change, last[:, 1], point.time(log_norm)], dim=1)
        out, after = self.core(features, tuple(memory))
        factor = out.squeeze(1).tanh()
        lr = self.lr * (4 * factor).exp()
        step = map_params(lambda g: -per_task(lr, g) * g, point.gradient)
        return step, State(memory=(torch.stack([log_norm, factor], dim=1), *after))
