"""One contestant's trajectories on one meta-batch: curves and outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from metatele.errors import ConfigError
from metatele.evaluation.play.watch import Floats, Moves, Watched
from metatele.optimizer import InnerOptimizer
from metatele.task.batch import MetaBatch
from metatele.task.family import Part
from metatele.task.params import Params, map_params, task_norm
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Outcome, Position


@dataclass(frozen=True)
class Run:
    """What B tasks did, at R recorded steps. Entries after a task's `stopped_at` are NaN by design.

    Attributes:
        at: the recorded steps, the first 0, the last the end of the trajectory, [R].
        losses: loss on all rows of each part that has rows of its own, {part: [R, B]}.
        accuracies: likewise the fraction of rows predicted right; empty if the family has no accuracy.
        gradient_norm: norm of the gradient of the loss on all inner rows, [R, B].
        stopped_at: the last recorded step at which a task's numbers were in order, [B].
        moves: what the teleports did; None if there were none.
    """

    at: NDArray[np.int64]
    losses: Mapping[Part, Floats]
    accuracies: Mapping[Part, Floats]
    gradient_norm: Floats
    stopped_at: NDArray[np.int64]
    moves: Moves | None = None

    def __post_init__(self) -> None:
        curves = [self.gradient_norm, *self.losses.values(), *self.accuracies.values()]
        if not self.losses or any(c.shape != (len(self.at), self.tasks) for c in curves):
            raise ValueError(f"a run needs curves of shape {(len(self.at), self.tasks)}")
        if not np.isin(self.stopped_at, self.at).all():
            raise ValueError(f"tasks stopped at {self.stopped_at}, not all of which are recorded steps")

    @property
    def tasks(self) -> int:
        """The number of tasks, B."""
        return len(self.stopped_at)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each task ran all steps, [B]."""
        return self.stopped_at == self.at[-1]

    @property
    def diverged(self) -> int:
        """How many tasks diverged, and so did not run all steps."""
        return int((~self.finished).sum())

    @property
    def outcomes(self) -> list[Outcome]:
        """One outcome a task."""
        return [Outcome.FINISHED if f else Outcome.DIVERGED for f in self.finished]

    def row(self, step: int) -> int:
        """The row of a recorded step. Raises: ConfigError if it was not recorded."""
        if step not in self.at:
            raise ConfigError(f"nothing was measured at step {step}; name it in report_steps")
        return int(np.searchsorted(self.at, step))

    def scored(self, part: Part) -> NDArray[np.float64]:
        """The losses on a part as statistics count them, [R, B]: after a task has diverged it goes on
        with the larger of its initial loss and its last one in order, so that diverging on hard tasks
        never makes a mean smaller."""
        return self._staying(self.losses[part], np.fmax)

    def scored_accuracy(self, part: Part) -> NDArray[np.float64]:
        """The accuracies on a part as statistics count them, [R, B]: likewise with the smaller of the two."""
        return self._staying(self.accuracies[part], np.fmin)

    def _staying(self, curves: Floats, worse: np.ufunc) -> NDArray[np.float64]:
        """The curves [R, B] with the worse of a task's first and last value from its divergence on."""
        values = np.asarray(curves, np.float64)
        last = values[np.searchsorted(self.at, self.stopped_at), np.arange(self.tasks)]
        return np.where(self.at[:, None] > self.stopped_at, worse(last, values[0]), values)

    @staticmethod
    def join(runs: Sequence["Run"]) -> "Run":
        """Runs of different tasks as one."""
        first = runs[0]
        moved = next((r.moves for r in runs if r.moves is not None), None)

        def along(arrays: Sequence[Floats]) -> Floats:
            return np.concatenate(arrays, axis=-1)

        return Run(
            at=first.at,
            losses={part: along([r.losses[part] for r in runs]) for part in first.losses},
            accuracies={part: along([r.accuracies[part] for r in runs]) for part in first.accuracies},
            gradient_norm=along([r.gradient_norm for r in runs]),
            stopped_at=np.concatenate([r.stopped_at for r in runs]),
            moves=None if moved is None else Moves.join([r.moves or moved.nothing(r.tasks) for r in runs]),
        )


def play(inner: InnerOptimizer, batch: MetaBatch, at: Sequence[int]) -> Run:
    """Play a trajectory and measure at the given steps, of which the first is 0, the last its end."""
    watched = Watched(inner)
    unroll = Unroll(watched, batch, at[-1])
    position = unroll.start()
    rows = [_measure(batch, position.params)]
    for step in at[1:]:
        position = unroll.window(position, step - position.step, differentiable=False).end
        rows.append(_measure(batch, position.params))
    return _in_order(rows, position, np.asarray(at), batch.own_parts, watched.moves())


def _in_order(
    rows: list[Tensor], position: Position, at: NDArray[np.int64], parts: Sequence[Part], moves: Moves | None
) -> Run:
    """The measured rows [R][curves, B] as a run, without what came after a divergence."""
    curves = torch.stack(rows).cpu()
    # The trajectory's own checks see the rows of its minibatches; a curve must be finite on all rows.
    before = torch.from_numpy(at).unsqueeze(1) <= position.stopped_at.cpu()
    good = (before & curves.isfinite().all(1)).cummin(0).values
    norm, *rest = (c.numpy() for c in torch.where(good.unsqueeze(1), curves, torch.nan).unbind(1))
    k = len(parts)
    stopped_at = at[(good.sum(0) - 1).clamp(min=0).numpy()]
    accuracies = dict(zip(parts, rest[k:], strict=True)) if len(rest) > k else {}
    return Run(at, dict(zip(parts, rest[:k], strict=True)), accuracies, norm, stopped_at, moves)


def _measure(batch: MetaBatch, params: Params) -> Tensor:
    """Gradient norm, loss on each part, accuracy on each part (if the family has one), [curves, B]."""
    leaves = map_params(lambda p: p.detach().requires_grad_(), batch.trained(params))
    losses, accuracies = [], []
    for part in batch.own_parts:
        x, y = batch.rows(part)
        with torch.set_grad_enabled(part == "inner"):
            predictions = batch.predict(leaves, x)
            losses.append(batch.losses(predictions, y))
        if batch.family.measures_accuracy:
            accuracies.append(batch.accuracies(tree_map(torch.detach, predictions), y).to(losses[0].dtype))
    gradient = torch.autograd.grad(losses[0].sum(), list(leaves.values()), materialize_grads=True)
    norm = task_norm(dict(zip(leaves, gradient, strict=True)))
    return torch.stack([norm, *(loss.detach() for loss in losses), *accuracies])
