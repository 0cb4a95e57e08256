"""An inner optimizer: a teleport composed with an update, theta <- g . (theta + f)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.parts.point import Point, State
from metatele.support.checks import one_of
from metatele.support.seeding import seeded
from metatele.symmetry import ProductGroup, movable
from metatele.task.params import Params, map_params
from metatele.teleports import OrbitTeleport, Stay, Teleport
from metatele.update import Update

Order = Literal["before", "after"]
Moments = Literal["transform", "keep", "reset"]
FREE: tuple[tuple[Order, Moments], ...] = (
    ("before", "keep"),
    ("before", "reset"),
)  # what a teleport without a group allows


@dataclass(frozen=True)
class InnerState:
    """What an inner optimizer carries from step to step.

    Attributes:
        update, teleport: the states of its two parts.
        since: the step at which the update's state began.
    """

    update: State
    teleport: State
    since: int = 0

    def map(self, fn: Callable[[Tensor], Tensor]) -> "InnerState":
        """Apply fn to every tensor."""
        return replace(self, update=self.update.map(fn), teleport=self.teleport.map(fn))

    def detach(self) -> "InnerState":
        return self.map(torch.detach)

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return [*self.update.tensors(), *self.teleport.tensors()]


class InnerOptimizer(nn.Module):
    """An update and a teleport, composed.

    after (the paper's order): theta <- g . (theta + f). before: theta <- g . theta + f, where f is
    proposed at the point teleported to, with the gradient carried along by the group's dual action.

    Args:
        update: which way to step and how far.
        teleport: where to move without changing the loss; by default the parameters stay.
        order: whether the teleport comes before or after the update.
        moments: what becomes of the update's state at a teleport. "transform" carries it along with
            the parameters, so that the teleport is all that changes; "keep" leaves it as it was, in
            the old coordinates; "reset" starts it anew (as the code of arXiv:2305.13404 does), which
            by itself can change a trajectory a lot (that of AdaGrad, for example). By default "transform",
            and "reset" for teleports without a group, which have nothing to transform it with.
    Raises: ConfigError for parts that do not go together.
    """

    def __init__(
        self,
        update: Update,
        teleport: Teleport | None = None,
        order: Order = "before",
        moments: Moments | None = None,
    ) -> None:
        super().__init__()
        teleport = Stay() if teleport is None else teleport
        one_of(get_args(Order), order=order)
        for part, kind in ((update, Update), (teleport, Teleport)):
            if not isinstance(part, kind):
                # A module's repr has several lines.
                got = f"{type(part).__name__}(...)" if isinstance(part, nn.Module) else repr(part)
                raise ConfigError(f"expected an instance of {kind.__name__}, got {got}")
        groupless = teleport.moves and not isinstance(teleport, OrbitTeleport)
        if moments is None:
            moments = "reset" if groupless else "transform"
        one_of(get_args(Moments), moments=moments)
        if groupless and (order, moments) not in FREE:
            raise ConfigError(
                f"{type(teleport).__name__} uses no group, so it goes before the update and cannot transform its "
                f"state, got order={order!r}, moments={moments!r}; set order 'before' and moments 'reset' or 'keep'"
            )
        self.update, self.teleport, self.order, self.moments = update, teleport, order, moments

    @property
    def learned(self) -> bool:
        """Whether there is anything to meta-train."""
        return self.update.learned or self.teleport.learned

    def initialise(self, seed: int) -> None:
        """Draw all learned weights anew, the same ones on every device."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        self.cpu()
        with seeded(seed):
            self.update.initialise()
            self.teleport.initialise()
        self.to(device)

    def bind(self, network: nn.Module, params: Params) -> ProductGroup:
        """Fit both parts to a network and find the group that the teleport uses.

        Args:
            network: the network of one task.
            params: its stacked parameters {name: [B, ...]}, of which only names, shapes and device are used. Those that
                are not among them are frozen: factors of the group that would move one are left out.
        Raises: SymmetryError if the teleport needs a symmetry and the network has none that moves no frozen parameter;
            CheckpointError if a part was made for a network of another size.
        """
        group = movable(self.teleport.group(network), network, params)
        for part in (self.update, self.teleport):
            part.bind(params, group)
            part.to(next(iter(params.values())).device)
        return group

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> InnerState:
        """The state before the first step."""
        return InnerState(self.update.start(params), self.teleport.start(params, group, seeds))

    def step(
        self,
        point: Point,
        group: ProductGroup,
        state: InnerState,
        alive: Tensor | None = None,
        active: bool | None = None,
    ) -> tuple[Params, InnerState]:
        """One inner step: the next parameters and state.

        Args:
            point, group, state: where the inner loop stands.
            alive: which tasks to teleport, [B]; all when None.
            active: whether the teleport acts; None to ask it.
        """
        if active is None:
            active = self.teleport.active(point.step)
        if not active:
            return self._update(point, state)
        if self.order == "before":
            there, state = self._teleport(point, group, state, alive)
            return self._update(there, state)
        params, state = self._update(point, state)
        # The element is chosen where the gradient is known, and acts on what the update gave.
        there, state = self._teleport(point, group, state, alive, params)
        return there.params, state

    def _update(self, point: Point, state: InnerState) -> tuple[Params, InnerState]:
        f, update = self.update.propose(point.counted_from(state.since), state.update)
        return map_params(torch.add, point.params, f), replace(state, update=update)

    def _teleport(
        self, point: Point, group: ProductGroup, state: InnerState, alive: Tensor | None, onto: Params | None = None
    ) -> tuple[Point, InnerState]:
        """Move the point, or the parameters `onto` by the element chosen at the point."""
        carried = state.update if self.moments == "transform" else State()
        there, teleport, carried = self.teleport.move(point, group, state.teleport, carried, alive, onto)
        if self.moments == "transform":
            return there, replace(state, update=carried, teleport=teleport)
        if self.moments == "keep":
            return there, replace(state, teleport=teleport)
        since = point.step if self.order == "before" else point.step + 1
        return there, InnerState(self.update.start(there.params), teleport, since)
