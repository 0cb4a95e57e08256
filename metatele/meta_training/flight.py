"""A meta-batch in flight: its trajectory, from window to window."""

import math
from collections.abc import Mapping, Sequence
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
        first, window: the lengths of the first window and of the others.
        play, position: what plays it, and where it stands.
        noise: for each pair of particles the sum of its perturbations so far, in units of sigma, [pairs, weights]; None
            if there are none, or they are to be drawn again.
        losses, norms: of its windows so far: meta-loss, if they have one, and norm of the meta-gradient.
    """

    number: int
    family: int
    batch: MetaBatch
    horizon: int
    first: int
    window: int
    play: Engine = field(init=False)
    position: Position = field(init=False)
    noise: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

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

    def begins(self) -> list[int]:
        """The steps at which its windows began, up to the next one."""
        return [0, *range(self.first, self.position.step + 1, self.window)]

    def record(self) -> dict[str, Any]:
        """What is to be saved of it besides tensors, as JSON holds it."""
        since = self.position.state.since
        return {
            "number": self.number,
            "step": self.position.step,
            "since": since,
            "losses": self.losses,
            "norms": [n if math.isfinite(n) else None for n in self.norms],
        }

    def gather(self, ranks: Ranks, units: int) -> list[Tensor]:
        """The tensors of its position for the tasks of all processes, on the CPU.

        Args:
            ranks, units: the processes, and what they share (see `Estimator`).
        """
        own = [t.detach().cpu() for t in self.position.tensors()]
        if ranks.size == 1:
            return own
        mine = len(ranks.share(range(units)))
        return [
            torch.cat(parts) if own.dim() and len(own) % mine == 0 else own
            for own, *parts in zip(own, *ranks.gather(own), strict=True)
        ]

    def restore(self, record: Mapping[str, Any], tensors: Sequence[Tensor], ranks: Ranks, units: int) -> None:
        """Go on from where `record` and `gather` were taken, on any number of processes. It must be at its start.

        Raises: ValueError if they do not fit.
        """
        step, since, losses, norms = (record[key] for key in ("step", "since", "losses", "norms"))
        good = all(isinstance(n, int) and not isinstance(n, bool) for n in (step, since))
        if not good or not 0 <= since <= step < self.horizon:
            raise ValueError(f"meta-batch {self.number} stands at step {step!r} of {self.horizon}")
        if not all(map(is_number, losses)) or not all(n is None or is_number(n) for n in norms):
            raise ValueError(f"meta-batch {self.number} has losses that are no numbers")
        own, left = ranks.share(range(units)), iter(tensors)

        def fill(start: Tensor) -> Tensor:
            saved = next(left)
            if saved.shape != start.shape and saved.dim():
                each = len(saved) // units
                saved = saved[own[0] * each : (own[-1] + 1) * each]
            if saved.shape != start.shape or saved.dtype != start.dtype:
                raise ValueError(f"meta-batch {self.number} has {saved.dtype} tensors of shape {tuple(saved.shape)}")
            return saved.to(start.device)

        if len(tensors) != len(self.position.tensors()):
            raise ValueError(f"meta-batch {self.number} has {len(tensors)} tensors")
        filled = self.position.map(fill)
        self.position = replace(filled, step=step, state=replace(filled.state, since=since))
        self.losses, self.norms = list(losses), [math.nan if n is None else n for n in norms]
