"""The optimizers that a learned one is compared with, with a schedule of the step size."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least, one_of
from metatele.task.params import Params, map_params, per_task
from metatele.update.base import Update
from metatele.update.classical import Adam, GradientDescent, Momentum
from metatele.update.torch_update import TorchUpdate

UpdateRule = Literal["SGD", "momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW"]
StepSizeSchedule = Literal["constant", "cosine"]
SCHEDULES: tuple[StepSizeSchedule, ...] = get_args(StepSizeSchedule)

# Each with a step size of 1: the steps of all of them are proportional to it, AdamW's decay included.
UNITS: Mapping[UpdateRule, Callable[[], Update]] = {
    "SGD": lambda: GradientDescent(1.0),
    "momentum": lambda: Momentum(1.0),
    "Nesterov": lambda: Momentum(1.0, nesterov=True),
    "AdaGrad": lambda: TorchUpdate("Adagrad", {"lr": 1.0}),
    "RMSProp": lambda: TorchUpdate("RMSprop", {"lr": 1.0}),
    "Adam": lambda: Adam(1.0),
    "AdamW": lambda: TorchUpdate("AdamW", {"lr": 1.0}),
}


class HandDesigned(Update):
    """f = lr * s(t) * the rule's step at step size 1, with torch's default values for all else.

    The schedule s is 1 ("constant"), or falls from 1 to 0 as (1 + cos(pi t / steps)) / 2 ("cosine",
    Loshchilov and Hutter 2017, arXiv:1608.03983). A step size can be given to each task of a stack,
    so that a whole grid is tried at once (see `vary`).

    Args:
        rule: SGD, momentum, Nesterov, AdaGrad, RMSProp, Adam or AdamW.
        lr: step size.
        schedule: "constant" or "cosine".
        steps: steps t after which the cosine is at 0, where it stays.
    Raises: ConfigError.
    """

    def __init__(
        self, rule: UpdateRule = "Adam", lr: float = 0.01, schedule: StepSizeSchedule = "constant", steps: int = 100
    ) -> None:
        super().__init__()
        one_of(get_args(UpdateRule), rule=rule)
        one_of(SCHEDULES, schedule=schedule)
        above_zero(lr=lr)
        at_least(1, steps=steps)
        self.rule, self.lr, self.schedule, self.steps = rule, lr, schedule, steps
        self.unit = UNITS[rule]()
        self._varied: tuple[Tensor, Tensor] | None = None

    def vary(self, rates: Tensor, cosine: Tensor) -> None:
        """Give each task of a stack a step size, [B], and say which of them follow the cosine, [B] bool."""
        self._varied = rates, cosine

    def start(self, params: Params) -> State:
        return self.unit.start(params)

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, state = self.unit.propose(point, state)
        annealed = (1 + math.cos(math.pi * min(point.step / self.steps, 1.0))) / 2
        if self._varied is None:
            factor = self.lr * (annealed if self.schedule == "cosine" else 1.0)
            return map_params(lambda f: factor * f, step), state
        rates, cosine = (t.to(next(iter(step.values())).device) for t in self._varied)
        factors = torch.where(cosine, annealed * rates, rates)
        return map_params(lambda f: per_task(factors, f).to(f) * f, step), state
