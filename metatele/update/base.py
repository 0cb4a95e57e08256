"""The base of all updates: which way to step and how far."""

import abc

from metatele.parts.base import OptimizerPart
from metatele.parts.point import Point, State
from metatele.task.params import Params


class Update(OptimizerPart, abc.ABC):
    """Proposes the step f that is added to the parameters: theta <- theta + f."""

    @abc.abstractmethod
    def start(self, params: Params) -> State:
        """The state before the first step, for parameters {name: [B, ...]}."""

    @abc.abstractmethod
    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        """The step f (same shapes as the parameters) and the next state."""
