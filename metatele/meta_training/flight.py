"""A meta-batch in flight: its trajectory, from window to window."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from metatele.meta_training.settings import MetaLossName
from metatele.support.checks import is_number
from metatele.support.ranks import Ranks
from metatele.task.batch import MetaBatch
from metatele.unroll import Engine, Position


@dataclass
class Flight:
    """A meta-batch whose trajectory goes on.

    Attributes:
        number: of the meta-batch, which all random numbers depend on.
        family: the number of its family.
        batch: its tasks, as far as they are this process's.
        horizon: the length of the trajectory.
        told: the horizon, as far as the parts are told it; None if they are not.
        first, window: the lengths of the first window and of the others.
        play, position: what plays it, and where it stands.
        noise: for each pair of particles its xi (see `EvolutionStrategy`), in units of sigma, [pairs, weights]; None if
            there is none, or it is to be drawn again.
        losses, norms: of its windows so far: meta-loss, if they have one, and norm of the meta-gradient.
        weights: of the losses in that of the whole trajectory.
        scales: see `Estimator.scales`; None until it is asked for.
    """

    number: int
    family: int
    batch: MetaBatch
    horizon: int
    first: int
    window: int
    told: int | None
    play: Engine = field(init=False)
    position: Position = field(init=False)
    noise: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    scales: list[bool] | None = None

    @property
    def loss(self) -> float:
        """The meta-loss of the whole trajectory."""
        return sum(w * loss for w, loss in zip(self.weights, self.losses, strict=True)) / sum(self.weights)

    @property
    def done(self) -> bool:
        """Whether the trajectory has ended."""
        return self.position.step >= self.horizon

    @property
    def length(self) -> int:
        """The length of the next window."""
        step = self.position.step
        return min(self.window if step else self.first, self.horizon - step)

    def counts_at(self, end: int, loss: MetaLossName) -> bool:
        """Whether a window that ends at this step has a meta-loss."""
        return loss != "end" or end >= self.horizon

    def weight(self, loss: MetaLossName) -> float:
        """How much the next window weighs: of a meta-loss that is a mean over steps, each step weighs alike."""
        return self.length / self.window if loss == "log" else 1.0

    def begins(self) -> list[int]:
        """The steps at which its windows began, up to the next one."""
        return [0, *range(self.first, self.position.step + 1, self.window)]

    def record(self) -> dict[str, Any]:
        """What is to be saved of it besides tensors, as JSON holds it."""
        since = self.position.state.since
        return {
            "number": self.number,
            "horizon": self.horizon,
            "step": self.position.step,
            "since": since,
            "losses": self.losses,
            "weights": self.weights,
            "norms": [n if math.isfinite(n) else None for n in self.norms],
        }

    def gather(self, ranks: Ranks, scales: "Scales") -> list[Tensor]:
        """The tensors of its position for the tasks of all processes, on the CPU.

        Args:
            ranks: the processes.
            scales: says which of the tensors have rows of each task (see `Estimator.scales`).
        """
        own = [t.detach().cpu() for t in self.position.tensors()]
        if ranks.size == 1:
            return own
        everyone = zip(*ranks.gather(own), strict=True)
        return [
            torch.cat(parts) if of_tasks else parts[0] for of_tasks, parts in zip(scales(self), everyone, strict=True)
        ]

    def restore(
        self, record: Mapping[str, Any], tensors: Sequence[Tensor], ranks: Ranks, units: int, scales: "Scales"
    ) -> None:
        """Go on from where `record` and `gather` were taken, on any number of processes. It must be at its start, with
        the horizon that was saved.

        Args:
            record, tensors: what was saved.
            ranks, units: the processes, and how many units of tasks they share (see `Estimator`).
            scales: see `gather`.
        Raises: ValueError, TypeError or OverflowError if they do not fit.
        """
        step, since = record["step"], record["since"]
        if not all(type(n) is int for n in (step, since)) or not 0 <= since <= step < self.horizon:
            raise ValueError(f"meta-batch {self.number} stands at step {step!r} of {self.horizon!r}")
        mine, given = ranks.share(range(units)), self.position.tensors()
        if len(tensors) != len(given):
            raise ValueError(f"meta-batch {self.number} has {len(tensors)} tensors")
        filled = []
        for start, saved, of_tasks in zip(given, tensors, scales(self), strict=True):
            each = len(saved) // units if of_tasks else 0
            own = saved[mine[0] * each : (mine[-1] + 1) * each] if of_tasks else saved
            if own.shape != start.shape or own.dtype != start.dtype:
                raise ValueError(f"meta-batch {self.number} has {saved.dtype} tensors of shape {tuple(saved.shape)}")
            filled.append(own.to(start.device))
        left = iter(filled)
        filled_position = self.position.map(lambda _: next(left))
        self.position = replace(filled_position, step=step, state=replace(filled_position.state, since=since))
        self.losses, self.weights = ([_number(n) for n in record[key]] for key in ("losses", "weights"))
        self.norms = [math.nan if n is None else _number(n) for n in record["norms"]]
        if not len(self.losses) == len(self.weights) == len(self.norms):
            raise ValueError(f"meta-batch {self.number} has {len(self.losses)} losses and {len(self.norms)} norms")


Scales = Callable[[Flight], Sequence[bool]]


def _number(value: object) -> float:
    """Raises: ValueError for anything but a number."""
    if not is_number(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)  # type: ignore[arg-type]
