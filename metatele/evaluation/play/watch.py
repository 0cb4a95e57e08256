"""What teleports do in an evaluation: how far they move, and what it does to loss and gradient."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metatele.optimizer import InnerOptimizer, InnerState
from metatele.parts.point import Point
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, task_norm
from metatele.teleports import OrbitTeleport

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Moves:
    """What M teleports did to B tasks; NaN where a task had diverged before.

    Attributes:
        steps: the steps of the teleports, [M].
        loss_change: change of the loss on the rows that the step sees, relative to the loss, [M, B].
        gradient_change: gradient norm after the teleport over that before it, [M, B]; NaN for teleports
            after the update, which leave no gradient to compare.
        sizes: distance of the element of each layer's group from the identity (see
            `GroupAction.size`), [M, layers, B]; no layers for teleports without a group.
    """

    steps: NDArray[np.int64]
    loss_change: Floats
    gradient_change: Floats
    sizes: Floats

    def __post_init__(self) -> None:
        if self.sizes.size == 0:  # the lists in a file do not tell how many tasks have no layers
            object.__setattr__(self, "sizes", self.sizes.reshape(len(self.steps), 0, self.loss_change.shape[-1]))
        moves, tasks = len(self.steps), self.loss_change.shape[-1]
        shapes = [self.loss_change.shape, self.gradient_change.shape, self.sizes.shape[::2]]
        if self.steps.shape != (moves,) or shapes != [(moves, tasks)] * 3 or self.sizes.ndim != 3:
            raise ValueError(f"moves need a row for each of {moves} steps and a column for each of {tasks} tasks")

    @property
    def worst_loss_change(self) -> float:
        """The largest relative change of a loss by a teleport; NaN if nothing moved."""
        known = np.abs(self.loss_change[np.isfinite(self.loss_change)])
        return float(known.max()) if len(known) else float("nan")

    def nothing(self, tasks: int) -> "Moves":
        """The moves of `tasks` other tasks, all of which diverged before the first teleport."""
        arrays = (self.loss_change, self.gradient_change, self.sizes)
        return Moves(self.steps, *(np.full((*x.shape[:-1], tasks), np.nan, np.float32) for x in arrays))

    @staticmethod
    def join(moves: Sequence["Moves"]) -> "Moves":
        """Moves of different tasks as one."""
        steps = np.array(sorted({int(s) for m in moves for s in m.steps}), np.int64)

        def spread(m: Moves, values: Floats) -> Floats:
            # A chunk in which every task has diverged teleports no more.
            out = np.full((len(steps), *values.shape[1:]), np.nan, np.float32)
            out[np.searchsorted(steps, m.steps)] = values
            return out

        return Moves(
            steps,
            *(
                np.concatenate([spread(m, getattr(m, name)) for m in moves], axis=-1)
                for name in ("loss_change", "gradient_change", "sizes")
            ),
        )


class Watched(InnerOptimizer):
    """An inner optimizer that notes what its teleports do. It shares the parts of the one it is made from."""

    def __init__(self, inner: InnerOptimizer) -> None:
        super().__init__(inner.update, inner.teleport, inner.order, inner.moments)
        self._rows: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def moves(self) -> Moves | None:
        """What the teleports did so far; None if there were none."""
        if not self._rows:
            return None
        steps, *columns = zip(*self._rows, strict=True)
        return Moves(np.array(steps, np.int64), *(torch.stack(list(c)).float().cpu().numpy() for c in columns))

    def _teleport(
        self, point: Point, group: ProductGroup, state: InnerState, alive: Tensor | None, onto: Params | None = None
    ) -> tuple[Point, InnerState]:
        """Teleport as the optimizer itself would, and note from where to where."""
        sizes: list[Tensor] = []
        with ExitStack() as stack:
            if isinstance(self.teleport, OrbitTeleport):
                observer = self.teleport.observed_by(lambda step, group, element: sizes.append(group.sizes(element)))
                stack.enter_context(observer)
            there, state = super()._teleport(point, group, state, alive, onto)
        if alive is None or bool(alive.any()):
            self._rows.append((point.step, *self._compare(point, there, alive, onto, sizes)))
        return there, state

    @torch.no_grad()
    def _compare(
        self, point: Point, there: Point, alive: Tensor | None, onto: Params | None, sizes: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change of the loss [B], of the gradient norm [B], sizes [layers, B]."""
        assert point.landscape is not None  # the unroll always says it
        before = point.landscape.loss(point.params if onto is None else onto)
        change = (point.landscape.loss(there.params) - before) / before.abs().clamp_min(1e-12)
        ratio = torch.full_like(change, torch.nan)
        if onto is None:
            ratio = task_norm(there.gradient) / task_norm(point.gradient).clamp_min(1e-30)
        size = sizes[0].to(change) if sizes else change.new_zeros(0, len(change))
        if alive is None:
            return change, ratio, size
        return tuple(torch.where(alive, x, torch.nan) for x in (change, ratio, size))  # type: ignore[return-value]
