"""The base of all updates: which way to step and how far."""

import abc

from metatele.parts.base import OptimizerPart
from metatele.parts.point import Point, State
from metatele.task.params import Params


class Update(OptimizerPart, abc.ABC):
    """Proposes the step f that is added to the parameters: theta <- theta + f.

    To be written: `start` and `propose`, which must be differentiable in the learned weights and leave their arguments
    as they are; and a constructor that keeps every argument as an attribute of its name. What the update remembers goes
    into a `State`: means of gradients into `covectors` and means of squared gradients into `squares`, which teleports
    carry along, and anything else into `memory`. A learned weight that is not in a `RecurrentCore` is an `nn.Parameter`
    that `initialise` draws anew, so that meta-training from another seed begins elsewhere. `check_update` checks it.

    An update of metatele's own is a file in `metatele/update/`, and nothing else.
    """

    @abc.abstractmethod
    def start(self, params: Params) -> State:
        """The state before the first step, for parameters {name: [B, ...]}."""

    @abc.abstractmethod
    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        """The step f (same shapes as the parameters) and the next state."""
