"""Ascent or descent of an objective on the Lie algebra of a group."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.landscape import Landscape, ObjectiveFunction, Place, smooth_task_norm, value_of
from metatele.task.params import Params, map_params, per_task, task_norm

Direction = Literal["ascend", "descend"]
LEAST_SLOPE = 1e-30  # added to the length of a slope, which may be zero


@dataclass(frozen=True)
class Climb:
    """How to move an objective along an orbit.

    Attributes:
        objective: what to climb.
        steps: gradient steps on the Lie algebra.
        lr: length of a step: its Frobenius norm in the Lie algebra, over all layers together (for
            positive scaling, a distance of log-scales). Halved for a task whenever a step makes no
            progress.
        direction: "ascend" or "descend".
        cap: a bound of the objective that no step may pass; None for none.
    """

    objective: ObjectiveFunction
    steps: int
    lr: float
    direction: Direction = "ascend"
    cap: float | None = None

    def run(self, landscape: Landscape, params: Params, gradient: Params | None = None) -> tuple[list[Tensor], Tensor]:
        """Climb from T = 0; each task on its own, all at once.

        The best T visited is kept, so no task ends worse than it starts. A T at which the objective
        is not finite, or past the cap, is not taken.

        Args:
            landscape: the losses, with the group to move in.
            params: where to start, {name: [B, ...]}.
            gradient: the loss's gradient there, if it is known already.
        Returns: the Lie algebra elements [B, ...], one per factor, detached; the objective at the best
            T after each step, [steps + 1, B].
        Raises: SymmetryError if the objective is not finite for any task, or cannot be climbed.
        """
        group, first = landscape.group, next(iter(params.values()))
        orbit = Orbit(landscape, map_params(torch.detach, params), gradient)
        sign = 1.0 if self.direction == "ascend" else -1.0
        best = [first.new_zeros(len(first), *s) for s in group.algebra_shapes]
        top, slope = self._probe(orbit, best)
        # If only some tasks are not finite, or the group cannot act on the data, those tasks fail without an error.
        if not bool(top.isfinite().any()) and orbit.can_act:
            raise SymmetryError(f"the objective is not finite for any task where the climb starts: {top.tolist()}")
        values, rate = [top], torch.full_like(top, self.lr)
        for _ in range(self.steps):
            trial = [t + sign * per_task(rate, t) * s for t, s in zip(best, slope, strict=True)]
            value, new_slope = self._probe(orbit, trial)
            better = (sign * value > sign * top) & value.isfinite()
            if self.cap is not None:
                better = better & (sign * value <= sign * self.cap)
            best = _pick(better, trial, best)
            slope = _pick(better, new_slope, slope)
            top = torch.where(better, value, top)
            rate = torch.where(better, rate, rate / 2)
            values.append(top)
        return best, torch.stack(values)

    def _probe(self, orbit: "Orbit", algebra: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The objective [B] at exp(T) . theta, and the direction of length 1 in which it grows."""
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in algebra]
            value = value_of(self.objective, orbit.place(leaves))
            if not value.requires_grad:
                names = ", ".join(dict.fromkeys(type(f).__name__ for f in orbit.group.factors))
                raise SymmetryError(
                    f"the objective does not change along the orbits of {names}, or not by operations that autograd "
                    "follows, so it cannot be climbed"
                )
            slopes = torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
        length = torch.stack([s.flatten(1).square().sum(1) for s in slopes]).sum(0).sqrt() + LEAST_SLOPE
        return value.detach(), [s / per_task(length, s) for s in slopes]


class Orbit:
    """The places exp(T) . theta of a landscape.

    Under an exact group the gradient at theta is carried to each of them, without a backward pass.

    Args:
        landscape: the losses, with the group.
        params: theta, {name: [B, ...]}.
        gradient: the loss's gradient at theta, if it is known already.
    """

    def __init__(self, landscape: Landscape, params: Params, gradient: Params | None = None) -> None:
        self.landscape, self.group, self.params = landscape, landscape.group, params
        self._known = gradient

    def place(self, algebra: Sequence[Tensor]) -> Place:
        """The place exp(T) . theta, differentiable in T [B, ...]."""
        element = self.group.exp(algebra)
        if self.group.exact:
            return _OrbitPlace(self, element)
        return Place(self.landscape, self.group.act(element, self.params, self.landscape.inputs))

    @property
    def can_act(self) -> bool:
        """Whether acting with the identity gives any task finite parameters; on singular data it does not."""
        with torch.no_grad():
            here = self.group.act(self.group.identity(self.landscape.inputs), self.params, self.landscape.inputs)
        return bool(task_norm(here).isfinite().any())

    @cached_property
    def gradient(self) -> Params:
        """The gradient at theta, detached."""
        return map_params(torch.detach, self._known or self.landscape.gradient(self.params))

    @cached_property
    def core(self) -> Params | None:
        """A smaller covector that suffices to carry the gradient's norm, or None (see `GroupAction.core`)."""
        return self.group.core(self.gradient)


class _OrbitPlace(Place):
    """A place whose parameters, gradient and gradient norm are found from those at theta when asked for."""

    def __init__(self, orbit: Orbit, element: list[Tensor]) -> None:
        self.landscape, self._orbit, self._element = orbit.landscape, orbit, element

    @cached_property
    def params(self) -> Params:  # type: ignore[override]
        return self._orbit.group.act(self._element, self._orbit.params, self.landscape.inputs)

    @cached_property
    def gradient(self) -> Params:
        orbit = self._orbit
        return orbit.group.carry(self._element, orbit.params, self.landscape.inputs, [orbit.gradient])[1][0]

    @cached_property
    def gradient_norm(self) -> Tensor:
        orbit = self._orbit
        if orbit.core is None:
            return smooth_task_norm(self.gradient)
        return smooth_task_norm(orbit.group.dual(self._element, orbit.core, self.landscape.inputs))


def _pick(which: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    return [torch.where(per_task(which, n), n, o) for n, o in zip(new, old, strict=True)]
