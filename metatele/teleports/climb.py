"""Ascent or descent of an objective on the Lie algebra of a group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.landscape import Landscape, Objective, Place
from metatele.params import Params, map_params, per_task

Direction = Literal["ascend", "descend"]
TINY = 1e-30  # added to the length of a slope, which may be zero


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

    objective: Objective
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
        Returns: the Lie algebra elements [B, ...], one a factor, detached; the objective at the best
            T after each step, [steps + 1, B].
        """
        group, first = landscape.group, next(iter(params.values()))
        params = map_params(torch.detach, params)
        if group.exact:  # then the group carries it along, and no candidate costs a backward pass
            gradient = map_params(torch.detach, landscape.gradient(params) if gradient is None else gradient)
        else:
            gradient = None
        sign = 1.0 if self.direction == "ascend" else -1.0
        best = [first.new_zeros(len(first), *s) for s in group.algebra_shapes]
        top, slope = self._probe(landscape, params, gradient, best)
        values, rate = [top], torch.full_like(top, self.lr)
        for _ in range(self.steps):
            trial = [t + sign * per_task(rate, t) * s for t, s in zip(best, slope, strict=True)]
            value, new_slope = self._probe(landscape, params, gradient, trial)
            better = (sign * value > sign * top) & value.isfinite()
            if self.cap is not None:
                better = better & (sign * value <= sign * self.cap)
            best = _pick(better, trial, best)
            slope = _pick(better, new_slope, slope)
            top = torch.where(better, value, top)
            rate = torch.where(better, rate, rate / 2)
            values.append(top)
        return best, torch.stack(values)

    def _probe(
        self, landscape: Landscape, params: Params, gradient: Params | None, algebra: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The objective [B] at exp(T) . theta, and the direction of length 1 in which it grows."""
        group, inputs = landscape.group, landscape.inputs
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in algebra]
            element = group.exp(leaves)
            place = Place(
                landscape,
                group.act(element, params, inputs),
                None if gradient is None else lambda: group.carry(element, params, inputs, [gradient])[1][0],
            )
            value = self.objective(place)
            if not value.requires_grad:
                names = ", ".join(dict.fromkeys(type(f).__name__ for f in group.factors))
                raise SymmetryError(f"the objective does not change along the orbits of {names}, so it cannot be climbed")
            slopes = torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
        length = torch.stack([s.flatten(1).square().sum(1) for s in slopes]).sum(0).sqrt() + TINY
        return value.detach(), [s / per_task(length, s) for s in slopes]


def _pick(which: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    return [torch.where(per_task(which, n), n, o) for n, o in zip(new, old, strict=True)]
