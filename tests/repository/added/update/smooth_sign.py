"""A smooth form of the sign of the momentum, with a step size that may be learned."""

import torch
from torch import nn

from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, within
from metatele.task.params import Params, map_params
from metatele.update.base import Update


class SmoothSign(Update):
    """m <- beta m + (1 - beta) gradient;  f = -lr * m / sqrt(m^2 + eps^2): the sign of m, smoothly.

    Args:
        lr: step size.
        beta: how much of the mean is kept.
        eps: gradients much smaller than this make proportionally smaller steps.
        learn: whether meta-training improves the step size.
    """

    def __init__(self, lr: float = 0.01, beta: float = 0.9, eps: float = 1e-3, learn: bool = True) -> None:
        super().__init__()
        above_zero(lr=lr, eps=eps)
        within(0, 1, beta=beta)
        self.lr, self.beta, self.eps, self.learn = lr, beta, eps, learn
        self.log_lr = nn.Parameter(torch.tensor(lr).log(), requires_grad=learn)

    def initialise(self) -> None:
        self.log_lr.data.fill_(self.lr).log_()

    def start(self, params: Params) -> State:
        return State(covectors=(map_params(torch.zeros_like, params),))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        mean = map_params(lambda m, g: self.beta * m + (1 - self.beta) * g, state.covectors[0], point.gradient)
        lr = self.log_lr.exp()
        return map_params(lambda m: -lr * m / (m.square() + self.eps**2).sqrt(), mean), State(covectors=(mean,))
