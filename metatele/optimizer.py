"""An inner optimizer: a teleport composed with an update, theta <- g . (theta + f)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metatele.checks import one_of
from metatele.errors import ConfigError
from metatele.params import Params, map_params, per_task
from metatele.point import Point, State
from metatele.seeding import seeded
from metatele.symmetry import ProductGroup, group_of
from metatele.teleport import Stay, Teleport
from metatele.update import Update

Order = Literal["before", "after"]


@dataclass(frozen=True)
class InnerState:
    """What an inner optimizer carries from step to step: the states of its two parts."""

    update: State
    teleport: State

    def detach(self) -> "InnerState":
        return InnerState(self.update.detach(), self.teleport.detach())


class InnerOptimizer(nn.Module):
    """An update and a teleport, composed.

    after (the paper's order): theta <- g . (theta + f). before: theta <- g . theta + f, where f is
    proposed at the point teleported to, with the gradient carried along by the group's dual action.
    In both orders the update's moments are carried along.

    Args:
        update: which way to step and how far.
        teleport: where to go on the orbit; none by default.
        order: whether the teleport comes before or after the update.
    """

    def __init__(self, update: Update, teleport: Teleport | None = None, order: Order = "before") -> None:
        super().__init__()
        one_of(get_args(Order), order=order)
        teleport = Stay() if teleport is None else teleport
        for part, kind in ((update, Update), (teleport, Teleport)):
            if not isinstance(part, kind):
                raise ConfigError(f"expected an object of a class of {kind.__name__}, got {part!r}")
        self.update, self.teleport, self.order = update, teleport, order

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
            params: its stacked parameters {name: [B, ...]}, whose shapes count.
        Raises: SymmetryError if the teleport needs a symmetry and the network has none;
            CheckpointError if a part was made for a network of another size.
        """
        group = group_of(network, self.teleport.symmetry) if self.teleport.moves else ProductGroup()
        for part in (self.update, self.teleport):
            part.bind(params, group)
            part.to(next(iter(params.values())).device)
        return group

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> InnerState:
        """The state before the first step."""
        return InnerState(self.update.start(params), self.teleport.start(params, group, seeds))

    def step(
        self, point: Point, group: ProductGroup, state: InnerState, alive: Tensor | None = None
    ) -> tuple[Params, InnerState]:
        """One inner step: the next parameters and state.

        A task that is not alive, [B], is not teleported: its parameters stand still, so a teleport
        would carry its moments further at every step, out of the finite numbers.
        """
        if not self.teleport.active(point.step):
            f, update = self.update.propose(point, state.update)
            return _add(point.params, f), InnerState(update, state.teleport)
        element, teleport = self.teleport.element(point, group, state.teleport)
        if alive is not None and not bool(alive.all()):
            stay = [factor.identity(g) for factor, g in zip(group.factors, element, strict=True)]
            element = [torch.where(per_task(alive, g), g, e) for g, e in zip(element, stay, strict=True)]
        if self.order == "after":
            f, update = self.update.propose(point, state.update)
            params, covectors, squares = group.carry(
                element, _add(point.params, f), point.inputs, update.covectors, update.squares
            )
            return params, InnerState(State(tuple(covectors), tuple(squares), update.memory), teleport)
        before = state.update
        params, (gradient, *covectors), squares = group.carry(
            element, point.params, point.inputs, [point.gradient, *before.covectors], before.squares
        )
        there = Point(params, gradient, point.inputs, point.step)
        f, update = self.update.propose(there, State(tuple(covectors), tuple(squares), before.memory))
        return _add(params, f), InnerState(update, teleport)


def _add(params: Params, step: Params) -> Params:
    return map_params(torch.add, params, step)
