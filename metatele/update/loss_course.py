"""How the loss of a task has gone, as features of order one."""

from typing import NamedTuple

import torch
from torch import Tensor

from metatele.parts.numbers import where
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

    def after(self, point: Point) -> tuple["LossCourse", Tensor]:
        """The course with the losses of a point.

        Returns: also the features, [B, COURSE_FEATURES]: where the loss stands, how it has fallen lately, and how the
            last one differs, relative to the first loss, so that its scale does not matter; zeros if it is not known.
        """
        if point.losses is None:
            return self, self.first.new_zeros(len(self.first), COURSE_FEATURES)
        losses, first = point.losses, where(point.step == 0, point.losses, self.first)
        size = torch.where(first.abs() > BEGINS_SOLVED, first.abs(), 1)
        relative = losses / size + (1 - first / size)  # 1 at first, also where losses are negative or begin at zero
        now = (relative.clamp(0, MOST) + LEAST).log()
        fast, slow = torch.lerp(self.fast, now, 1 - FAST), torch.lerp(self.slow, now, 1 - SLOW)
        changes = torch.stack([fast - slow, now - fast], 1).tanh()
        return LossCourse(first, fast, slow), torch.cat([fast.unsqueeze(1) / 4, changes], 1)
