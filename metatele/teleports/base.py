"""The base of all teleports: where to go without a change of the loss."""

import abc

from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.parts.base import OptimizerPart
from metatele.parts.point import Point, State
from metatele.support.checks import at_least
from metatele.symmetry import ProductGroup
from metatele.task.params import Params


class Teleport(OptimizerPart, abc.ABC):
    """Moves the parameters inside a level set of the loss at some steps of the inner loop.

    Most teleports act by a group: derive them from `AlgebraTeleport` and write `choose`, or from `OrbitTeleport` and
    write `element`. One without a group writes `move`. What was said of learned weights and of the constructor at
    `Update` holds here too. `check_teleport` checks it. A teleport of metatele's own is a file in
    `metatele/teleports/`, and nothing else.

    Args:
        first: the first step at which to teleport.
        last: the last one, or None for no end.
        every: teleport at each step that is a multiple of this after the first one.
    """

    def __init__(self, first: int = 0, last: int | None = None, every: int = 1) -> None:
        super().__init__()
        at_least(0, first=first, **({} if last is None else {"last": last}))
        at_least(1, every=every)
        if last is not None and last < first:
            raise ConfigError(
                f"the first step with teleports must not come after the last, got first={first}, last={last}"
            )
        self.first, self.last, self.every = first, last, every

    tolerance: float = 0.0  # the relative change of the loss that a teleport may cause, apart from rounding

    @property
    def moves(self) -> bool:
        """Whether the teleport ever leaves the current point."""
        return True

    @property
    def has_listener(self) -> bool:
        """Whether an observer is told of every teleport."""
        return False

    def active(self, step: int) -> bool:
        """Whether the teleport acts at this step."""
        inside = self.first <= step and (self.last is None or step <= self.last)
        return inside and (step - self.first) % self.every == 0

    def group(self, network: nn.Module) -> ProductGroup:
        """The group that the teleport uses on a network; empty for teleports that need none.

        Raises: SymmetryError if it needs one and the network has none.
        """
        return ProductGroup()

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        """The state before the first step; seeds [B] int64 are for the tasks' random draws."""
        return State()

    @abc.abstractmethod
    def move(
        self,
        point: Point,
        group: ProductGroup,
        state: State,
        moments: State,
        alive: Tensor | None = None,
        onto: Params | None = None,
    ) -> tuple[Point, State, State]:
        """Teleport all tasks.

        Args:
            point: where the inner loop stands.
            group: what `group` gave.
            state: the teleport's own state.
            moments: an update's state, to be carried along; empty where it is not wanted.
            alive: which tasks to move, [B]; the others stay. All when None.
            onto: parameters to move instead of the point's, by the element chosen at the point.
        Returns: the point moved to, with the gradient there (unless `onto` is given); the teleport's next
            state; the moments there.
        """
