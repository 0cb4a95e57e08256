"""Learned updates that run on networks of any width and depth."""

import math

import torch
from torch import Tensor

from metatele.checks import above_zero
from metatele.params import Params, flatten, map_params, per_task, smooth_norm, unflatten
from metatele.point import Point, State
from metatele.recurrent import RecurrentCore
from metatele.update.base import Update
from metatele.update.classical import adam_moments

TINY = 1e-20  # added to squared gradients, so that logarithms and roots stay smooth at zero


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
        mean, square, m, v = adam_moments(point.gradient, state, point.step, self.BETAS)
        direction, features = self._features(point, m, v)
        out, memory = self.core(features.flatten(0, 1), state.memory)
        out = out.reshape(*direction.shape, 2)
        step = -self.lr * (3 * out[..., 1].tanh()).exp() * (direction + 3 * out[..., 0])
        return unflatten(step, point.params), State((mean,), (square,), memory)

    def _features(self, point: Point, mean: Params, square: Params) -> tuple[Tensor, Tensor]:
        """Adam's direction [B, n] and the LSTM's inputs [B, n, FEATURES], all of order one."""
        g, m, v = flatten(point.gradient), flatten(mean), flatten(square)
        w = flatten(point.params)
        root = (v + TINY).sqrt()
        direction = m / root
        size = (g.square().mean(1, keepdim=True) + TINY).sqrt()
        scale = _layer_scale(point.params)
        columns = [
            direction,
            g / root,
            (root / size).log() / 3,
            (size.log() / 5).expand_as(g),
            w / scale,
            torch.full_like(g, math.log1p(point.step) / 3),
        ]
        return direction, torch.stack(columns, dim=2)


def _layer_scale(params: Params) -> Tensor:
    """Root mean square of each parameter tensor, repeated for its entries, [B, n]."""
    scales = map_params(lambda p: per_task((p.flatten(1).square().mean(1) + TINY).sqrt(), p).expand_as(p), params)
    return flatten(scales)


class GlobalStepSize(Update):
    """LSTM(lr), size-free: one LSTM a task chooses the step size of gradient descent.

    f = -lr * exp(4 tanh(o)) * gradient, o the LSTM's output; it sees the gradient's norm, how that
    changed, and the time.

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
        log_norm = smooth_norm(flatten(point.gradient), 1, TINY).log()
        change = (log_norm - last[:, 0]).tanh() if point.step else torch.zeros_like(log_norm)
        time = torch.full_like(log_norm, math.log1p(point.step) / 3)
        features = torch.stack([log_norm / 5, change, last[:, 1], time], dim=1)
        out, after = self.core(features, tuple(memory))
        factor = out.squeeze(1).tanh()
        lr = self.lr * (4 * factor).exp()
        step = map_params(lambda g: -per_task(lr, g) * g, point.gradient)
        return step, State(memory=(torch.stack([log_norm, factor], dim=1), *after))
