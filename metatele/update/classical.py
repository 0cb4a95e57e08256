"""Hand-designed updates, differentiable and stacked: gradient descent, momentum, Adam."""

import torch
from torch import nn

from metatele.errors import ConfigError
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, within
from metatele.task.params import Params, map_params
from metatele.update.base import Update


class GradientDescent(Update):
    """f = -lr * gradient.

    Args:
        lr: step size.
        learn: whether meta-training improves the step size (its logarithm is then the one
            meta-parameter: gradient descent with a step size tuned by meta-gradient).
    """

    def __init__(self, lr: float = 0.01, learn: bool = False) -> None:
        super().__init__()
        above_zero(lr=lr)
        self.lr, self.learn = lr, learn
        self.log_lr = nn.Parameter(torch.tensor(lr).log(), requires_grad=learn)

    def initialise(self) -> None:
        self.log_lr.data.fill_(self.lr).log_()

    def start(self, params: Params) -> State:
        return State()

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        lr = self.log_lr.exp()
        return map_params(lambda g: -lr * g, point.gradient), state


class Momentum(Update):
    """m <- momentum * m + gradient;  f = -lr * m  (heavy ball, as torch.optim.SGD).

    With nesterov, f = -lr * (gradient + momentum * m).
    """

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, nesterov: bool = False) -> None:
        super().__init__()
        above_zero(lr=lr)
        within(0, 1, momentum=momentum)
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov

    def start(self, params: Params) -> State:
        return State(covectors=(map_params(torch.zeros_like, params),))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        mean = map_params(lambda m, g: self.momentum * m + g, state.covectors[0], point.gradient)
        ahead = map_params(lambda m, g: g + self.momentum * m, mean, point.gradient) if self.nesterov else mean
        return map_params(lambda m: -self.lr * m, ahead), State(covectors=(mean,))


def adam_moments(
    gradient: Params, state: State, step: int, betas: tuple[float, float]
) -> tuple[Params, Params, Params, Params]:
    """Adam's moments after this gradient, raw and corrected for their zero start.

    Returns: mean, square, corrected mean, corrected square (Kingma and Ba 2015, algorithm 1).
    """
    b1, b2 = betas
    mean = map_params(lambda m, g: b1 * m + (1 - b1) * g, state.covectors[0], gradient)
    square = map_params(lambda v, g: b2 * v + (1 - b2) * g.square(), state.squares[0], gradient)
    c1, c2 = 1 - b1 ** (step + 1), 1 - b2 ** (step + 1)
    return mean, square, map_params(lambda m: m / c1, mean), map_params(lambda v: v / c2, square)


class Adam(Update):
    """f = -lr * m / (sqrt(v) + eps) with bias-corrected moments (Kingma and Ba 2015)."""

    def __init__(self, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        above_zero(lr=lr)
        if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
            raise ConfigError(f"betas must be two numbers, got {betas!r}")
        within(0, 1, first_beta=betas[0], second_beta=betas[1])
        within(0, 1, eps=eps)
        self.lr, self.betas, self.eps = lr, betas, eps

    def start(self, params: Params) -> State:
        zeros = map_params(torch.zeros_like, params)
        return State(covectors=(zeros,), squares=(zeros,))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        mean, square, m, v = adam_moments(point.gradient, state, point.step, self.betas)
        # 1e-30 under the root keeps its derivative finite where a gradient is exactly zero.
        step = map_params(lambda a, b: -self.lr * a / ((b + 1e-30).sqrt() + self.eps), m, v)
        return step, State(covectors=(mean,), squares=(square,))
