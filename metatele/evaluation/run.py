"""One contestant's trajectories on one meta-batch: curves, outcomes and wall-clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metatele.optimizer import InnerOptimizer
from metatele.params import Params, map_params, task_norm
from metatele.stack import stacked_forward
from metatele.task import MetaBatch, Part
from metatele.unroll import Outcome, Unroll

Floats = NDArray[np.float32]
Scored = Literal["inner", "test"]

CHUNK = 10  # steps between two looks at the clock


@dataclass(frozen=True)
class Run:
    """What B tasks did in S steps. Entries after a task's `stopped_at` are NaN by design.

    Attributes:
        inner: loss on all inner rows before the first and after each step, [S + 1, B].
        test: the same on the test rows; None if the family has none of its own.
        gradient_norm: norm of the gradient of the inner loss, [S + 1, B].
        stopped_at: the last step at which a task's loss was in order, S if it finished, [B].
    """

    inner: Floats
    test: Floats | None
    gradient_norm: Floats
    stopped_at: NDArray[np.int64]

    @property
    def steps(self) -> int:
        """S."""
        return len(self.inner) - 1

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each task ran all steps, [B]."""
        return self.stopped_at == self.steps

    @property
    def diverged(self) -> int:
        """How many tasks did not."""
        return int((~self.finished).sum())

    @property
    def outcomes(self) -> list[Outcome]:
        """One outcome a task."""
        return [Outcome.FINISHED if f else Outcome.DIVERGED for f in self.finished]

    def loss(self, part: Scored) -> Floats:
        """The loss on the inner or on the test rows, [S + 1, B]."""
        if part == "inner":
            return self.inner
        assert self.test is not None, "the family has no test rows of its own"
        return self.test


def has_test_rows(batch: MetaBatch) -> bool:
    """Whether the test part has rows of its own."""
    return batch.inputs["test"] is not batch.inputs["inner"]


def play(inner: InnerOptimizer, batch: MetaBatch, steps: int) -> Run:
    """Play S steps and measure at every position. Only one position is kept at a time."""
    unroll = Unroll(inner, batch, steps)
    position = unroll.start()
    rows = [_measure(unroll, position.params)]
    for _ in range(steps):
        position = unroll.window(position, 1, differentiable=False).end
        rows.append(_measure(unroll, position.params))
    curves = torch.stack(rows).cpu()  # [S + 1, parts and gradient norm, B]
    step = torch.arange(steps + 1).unsqueeze(1)
    # The trajectory's own checks see the rows of its minibatches; a curve must be finite on all rows.
    in_order = ((step <= position.stopped_at.cpu()) & curves.isfinite().all(1)).cummin(0).values
    curves = torch.where(in_order.unsqueeze(1), curves, torch.nan)
    inner_loss, *test, norm = (c.numpy() for c in curves.unbind(1))
    stopped_at = (in_order.sum(0) - 1).clamp(min=0).numpy()
    return Run(inner_loss, test[0] if test else None, norm, stopped_at)


def _measure(unroll: Unroll, params: Params) -> Tensor:
    """Inner loss, test loss (if the family has test rows) and gradient norm of each task, [2 or 3, B]."""
    batch = unroll.batch
    leaves = map_params(lambda p: p.detach().requires_grad_(), params)
    x, y = batch.rows("inner")
    loss = batch.losses(stacked_forward(batch.network, leaves, x), y)
    gradient = dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True))
    test = [unroll.evaluate(params, "test")] if has_test_rows(batch) else []
    return torch.stack([loss.detach(), *test, task_norm(gradient)])


def final_losses(inner: InnerOptimizer, batch: MetaBatch, steps: int, part: Part) -> NDArray[np.float64]:
    """Each task's loss on a part after `steps` steps, [B]; infinite for a task that diverged."""
    unroll = Unroll(inner, batch, steps)
    position = unroll.start()
    while position.step < steps and bool(position.alive.any()):
        position = unroll.window(position, min(CHUNK, steps - position.step), differentiable=False).end
    loss = unroll.evaluate(position.params, part)
    loss = torch.where(position.alive & loss.isfinite(), loss, torch.inf)
    return loss.double().cpu().numpy()


def clock(inner: InnerOptimizer, batch: MetaBatch, steps: int) -> NDArray[np.float64]:
    """Seconds from the start to each position, for all tasks of the batch together, [S + 1].

    What is timed is the forward and backward pass on the inner rows and the step itself, without
    the measuring of losses. (Of a family with minibatches, one more forward pass of a minibatch is
    in it.) The clock is read every CHUNK steps, in between is interpolated.
    """
    # A meta part that is the inner part costs no forward pass of its own.
    inputs, targets = dict(batch.inputs), dict(batch.targets)
    inputs["meta"], targets["meta"] = inputs["inner"], targets["inner"]
    unroll = Unroll(inner, replace(batch, inputs=inputs, targets=targets), steps)
    position = unroll.start()
    now = _clock_of(next(iter(batch.params.values())).device)
    ends, seconds, begin = [0], [0.0], now()
    while position.step < steps:
        position = unroll.window(position, min(CHUNK, steps - position.step), differentiable=False).end
        ends.append(position.step)
        seconds.append(now() - begin)
    return np.interp(np.arange(steps + 1), ends, seconds)


def _clock_of(device: torch.device) -> Callable[[], float]:
    """A clock that waits for what the device has been asked to do."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
