"""The base of teleports that need no group: a guarded search on a batch."""

import abc
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.landscape import Landscape, Objective, find_objective
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least, one_of
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, flatten, map_params, select_tasks, unflatten
from metatele.teleports.base import Teleport
from metatele.teleports.climb import Direction
from metatele.teleports.moved import LEAST_DIVISOR, Moved, Spot, View
from metatele.teleports.optimised import landscape_of, rows_of

ARMIJO = 1e-4  # the fraction of the gain promised by the slope that a step must achieve (Armijo)
NOISE = 1e-3  # a relative difference of two losses at one point that rounding does not explain

Aim = Callable[[Spot, Tensor], tuple[Tensor, Tensor]]


class GrouplessTeleport(Teleport):
    """A search for a better objective at the same loss on a batch; no symmetry need be known.

    The loss is kept on the rows looked at only. Off them it may change a lot, the more the fewer they
    are: a teleport on a few of many rows may well double the loss on all of them.
    `last_report` says what became of it on the step's own batch.

    The loss must be a deterministic function of the parameters that can be differentiated twice:
    dropout must be off (`network.eval()`), and batch norm in training mode works for a single task only.

    Args:
        objective: see `OptimisedTeleport`.
        steps: trial points; each costs a gradient of the objective (a Hessian-vector product for the
            gradient norm).
        lr: length of a step, as a fraction of the norm of all parameters at the start (of 1 where they
            are all zero). Halved for a task whenever a step fails.
        direction: "ascend" or "descend".
        tolerance: largest change of a task's loss that is accepted, relative to the size of the loss.
        rows: rows drawn from all inner rows for each teleport. The loss is then kept on these rows only,
            neither on the step's own batch nor on all rows. None for the step's own batch.
        first, last, every: see `Teleport`; by default once, before the first update.
    Attributes:
        last_report: how far the latest `move` went, detached; None before the first. It is a record
            only: not part of the state, of `arguments` or of a checkpoint.
    """

    def __init__(
        self,
        objective: str | Objective,
        steps: int,
        lr: float,
        direction: Direction,
        tolerance: float,
        rows: int | None,
        first: int,
        last: int | None,
        every: int,
    ) -> None:
        super().__init__(first, last, every)
        at_least(1, steps=steps, **({} if rows is None else {"rows": rows}))
        above_zero(lr=lr, tolerance=tolerance)
        one_of(get_args(Direction), direction=direction)
        self.objective, self.steps, self.lr, self.direction = objective, steps, lr, direction
        self.tolerance, self.rows = tolerance, rows
        self._found = find_objective(objective)
        self.last_report: Moved | None = None

    @property
    def leeway(self) -> float:
        """How far the loss may stray on the way, relative to its size."""
        return self.tolerance

    @abc.abstractmethod
    def aim(self, landscape: Landscape, params: Params) -> Aim:
        """The directions that a search from these parameters follows: a function of a spot and its excess loss [B].

        It gives the direction of ascent [B, n], whose length is what a unit step is worth, and the
        step back to the level set [B, n].
        """

    def settle(self, view: View, start: Spot, end: Spot) -> Spot:
        """The end of a search, brought back to the start's loss; by default as it is."""
        return end

    def search(self, landscape: Landscape, params: Params) -> tuple[Params, Moved]:
        """Look for a better place with the same loss; each task on its own, all at once.

        Args:
            landscape: the losses, on the rows on which they are to stay the same.
            params: where to start, {name: [B, ...]}; left alone.
        Returns: the parameters found, detached; a report. Tasks that are `undone` have those of the start.
        Raises: ConfigError if the forward pass is random.
        """
        params = map_params(torch.detach, params)
        view = View(landscape, params, self._found, 1.0 if self.direction == "ascend" else -1.0)
        start = view.at(flatten(params))
        check_deterministic(type(self).__name__, start.loss, view.loss(start.flat))
        end = self.settle(view, start, self._climb(view, start, self.aim(landscape, params)))
        near = (end.loss - start.loss).abs() <= self.tolerance * start.loss.abs()
        kept = near & (end.gain >= start.gain) & start.finite & end.finite
        end = end.or_else(kept, start)
        report = Moved(start.loss, end.loss, view.sign * start.gain, view.sign * end.gain, ~kept)
        return select_tasks(kept, unflatten(end.flat, params), params), report

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def move(
        self,
        point: Point,
        group: ProductGroup,
        state: State,
        moments: State,
        alive: Tensor | None = None,
        onto: Params | None = None,
    ) -> tuple[Point, State, State]:
        here = landscape_of(point.landscape, self)
        seen = (
            here
            if self.rows is None
            else rows_of(landscape_of(point.whole, self), self.rows, state.memory[0], point.step)
        )
        found, report = self.search(seen, point.params)
        moves = ~report.undone if alive is None else alive & ~report.undone
        # A shift by a constant: no gradient passes through the search, but it does through its start.
        shifted = map_params(lambda p, f: p + (f - p).detach(), point.params, found)
        params = select_tasks(moves, shifted, point.params)
        with torch.no_grad():
            self.last_report = report.in_step(moves, here.loss(point.params), here.loss(params))
        differentiable = any(g.requires_grad for g in point.gradient.values())
        gradient = select_tasks(moves, here.gradient(params, create_graph=differentiable), point.gradient)
        return point.at(params, gradient), state, moments

    def _climb(self, view: View, start: Spot, aim: Aim) -> Spot:
        """Ascent of the merit gain - 2 |price| |loss - level|, whose maxima on the level set are the gain's."""
        size = start.flat.norm(dim=1)
        rate = self.lr * torch.where(size > 0, size, torch.ones_like(size))
        room, here = self.leeway * start.loss.abs(), start
        for _ in range(self.steps):
            excess = here.loss - start.loss
            direction, back = aim(here, excess)
            length = direction.norm(dim=1)
            there = view.at(here.flat + direction * (rate / (length + LEAST_DIVISOR)).unsqueeze(1) + back)
            off = (there.loss - start.loss).abs()
            gained = there.gain - here.gain - 2 * here.price.abs() * (off - excess.abs())
            promised = rate * length + here.price.abs() * excess.abs()
            good = (gained > ARMIJO * promised) & (off <= room) & there.finite
            here = there.or_else(good, here)
            rate = torch.where(good, rate, rate / 2)
        return here


def check_deterministic(name: str, first: Tensor, again: Tensor) -> None:
    """Compare the losses [B] of two forward passes. Raises: ConfigError, with this name, if they differ."""
    if bool(((again - first).abs() > NOISE * first.abs()).any()):
        raise ConfigError(
            f"{name} needs a deterministic loss, and two forward passes with the same parameters "
            f"gave {first.tolist()} and {again.tolist()}; call network.eval(), or set the dropout to 0"
        )
