"""Teleports along the orbit of a group: the group element is chosen, and acts."""

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from metatele.parts.point import Point, State
from metatele.support.checks import one_of
from metatele.support.presume import known
from metatele.symmetry import Kind, ProductGroup, check_residual, group_of
from metatele.symmetry.kinds import kinds
from metatele.task.params import Params
from metatele.teleports.base import Teleport

Observer = Callable[[int, ProductGroup, list[Tensor]], None]  # told of the step, the group and the element
Recorder = Callable[[int, list[Tensor], Tensor | None], None]  # told of the step, T and which tasks are alive


class OrbitTeleport(Teleport):
    """A teleport along the orbit of a group: chooses the group element g at each step.

    A data-dependent group is checked: if there are more rows than it can be exact on, an action that
    changes what a layer sees by more than `residual` is refused.

    Args:
        symmetry: which of a network's groups to use (see `metatele.symmetry.symmetries_of`).
        first, last, every: see `Teleport`.

    Attributes:
        residual: the largest such change (see `Symmetry.residual`), relative.
        observer: told of every teleport: the step, the group, and the element that acts, which is the
            identity for tasks that are not alive. Copies of the teleport do not have it.
    """

    residual: float = 1e-3
    observer: Observer | None = None

    def __init__(self, symmetry: Kind = "auto", first: int = 0, last: int | None = None, every: int = 1) -> None:
        super().__init__(first, last, every)
        one_of(kinds(), symmetry=symmetry)
        self.symmetry = symmetry

    def group(self, network: nn.Module) -> ProductGroup:
        return group_of(network, self.symmetry)

    @abc.abstractmethod
    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        """One group element for each factor of the group, and the next state."""

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "observer"}

    @property
    def has_listener(self) -> bool:
        return self.observer is not None

    @contextmanager
    def observed_by(self, observer: Observer) -> Iterator[None]:
        """Inside, one more observer is told."""
        before = self.observer

        def both(step: int, group: ProductGroup, element: list[Tensor]) -> None:
            if before is not None:
                before(step, group, element)
            observer(step, group, element)

        self.observer = both
        try:
            yield
        finally:
            self.observer = before

    def look(self, point: Point, state: State) -> Point:
        """The point with the batch that the teleport looks at: by default the step's own one."""
        return point

    def move(
        self,
        point: Point,
        group: ProductGroup,
        state: State,
        moments: State,
        alive: Tensor | None = None,
        onto: Params | None = None,
    ) -> tuple[Point, State, State]:
        if alive is not None and known(~alive):
            return point.at(dict(point.params if onto is None else onto), point.gradient), state, moments
        seen = self.look(point, state)
        group = group.on(seen.inputs)
        element, state = self.element(seen, group, state)
        element = standing_still(element, group, alive)
        if self.observer is not None:
            self.observer(point.step, group, element)
        if any(factor.too_many(seen.inputs) for factor in group.factors):
            check_residual(group, element, point.params, seen.inputs, self.residual)
        # The gradient is not needed if the element moves other parameters.
        own = [point.gradient] if onto is None else []
        params, covectors, squares = group.carry(
            element, point.params if onto is None else onto, seen.inputs, [*own, *moments.covectors], moments.squares
        )
        gradient = covectors.pop(0) if own else point.gradient
        if own and seen.inputs is not point.inputs and not group.exact and point.landscape is not None:
            gradient = point.landscape.gradient(params)  # what the group carries is right on its own data only
        return point.at(params, gradient), state, State(tuple(covectors), tuple(squares), moments.memory)


class AlgebraTeleport(OrbitTeleport):
    """A teleport that chooses g = exp(T) by its Lie algebra element T: learned, optimised, drawn or played.

    Args:
        symmetry, first, last, every: see `OrbitTeleport`.

    Attributes:
        recorder: told of every teleport, before it: the step, T, and which tasks are alive, [B] or None
            for all (see `Recording`). Copies of the teleport do not have it.
    """

    recorder: Recorder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "recorder"}

    @property
    def has_listener(self) -> bool:
        return self.recorder is not None or super().has_listener

    @abc.abstractmethod
    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        """One Lie algebra element [B, *algebra_shape] for each factor of the group, and the next state."""

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        algebra, state = self.choose(point, group, state)
        return group.exp(algebra), state

    def move(
        self,
        point: Point,
        group: ProductGroup,
        state: State,
        moments: State,
        alive: Tensor | None = None,
        onto: Params | None = None,
    ) -> tuple[Point, State, State]:
        if self.recorder is not None and (alive is None or bool(alive.any())):
            # `choose` is pure, so a second call gives the same T.
            self.recorder(point.step, self.choose(self.look(point, state), group, state)[0], alive)
        return super().move(point, group, state, moments, alive, onto)


def standing_still(element: list[Tensor], group: ProductGroup, alive: Tensor | None) -> list[Tensor]:
    """The element with the identity for the tasks that are not alive [B].

    Their parameters stand still, so a teleport would scale their moments further at every step, until
    they overflow.
    """
    if alive is None or known(alive):
        return element
    return [f.select(alive, g, f.identity(g)) for f, g in zip(group.factors, element, strict=True)]
