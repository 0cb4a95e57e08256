"""How the loss of a task has gone, as features of order one."""

from typing import NamedTuple

import torch
from torch import Tensor

from metatele.parts.point import Point

COURSE_FEATURES, COURSE_STATE = 3, 3  # numbers that `LossCourse.after` gives, and that it keeps
FAST, SLOW = 0.9, 0.98  # of the means
LEAST, MOST = 1e-6, 1e6  # of the first loss: what is smaller, or larger, is seen alike
BEGINS_SOLVED = 1e-12  # a first loss up to which there is no scale


class LossCourse(NamedTuple):
    """The losses so far of B tasks, by their logarithms relative to the first one.

    Attributes:
        first: the first loss, [B].
        fast, slow: means of the logarithms, of two spans, [B].
    """

    first: Tensor
    fast: Tensor
    slow: Tensor

    @staticmethod
    def start(tasks: int, like: Tensor) -> "LossCourse":
        """The course before the first loss."""
        return LossCourse(*like.new_zeros(3, tasks).unbind())

    def after(self, point: Point) -> tuple["LossCourse", list[Tensor]]:
        """The course with the losses of a point.

        Returns: also the features, [B] each: where the loss stands, how it has fallen lately, and how the last one
            differs, relative to the first loss, so that its scale does not matter; zeros where it is not known.
        """
        if point.losses is None:
            return self, [torch.zeros_like(self.first)] * COURSE_FEATURES
        losses, begins = point.losses, torch.as_tensor(point.step, device=self.first.device) == 0
        first = torch.where(begins, losses, self.first)
        size = torch.where(first.abs() > BEGINS_SOLVED, first.abs(), 1)
        relative = losses / size + (1 - first / size)  # 1 at first, also where losses are negative or begin at zero
        now = (relative.clamp(0, MOST) + LEAST).log()
        fast, slow = torch.lerp(self.fast, now, 1 - FAST), torch.lerp(self.slow, now, 1 - SLOW)
        return LossCourse(first, fast, slow), [fast / 4, torch.tanh(fast - slow), torch.tanh(now - fast)]
