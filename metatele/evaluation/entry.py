"""A contestant together with what it did, as plain data: what tables, figures and results are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metatele.evaluation.contestants.contestant import ContestantKind, Control, Origin
from metatele.evaluation.play.run import Run
from metatele.evaluation.play.timing import Cost
from metatele.evaluation.play.watch import Moves
from metatele.evaluation.statistics import Summary, summarise
from metatele.meta_training import Budget
from metatele.task.family import Part
from metatele.tuning.step_size import Tuning


@dataclass(frozen=True)
class Entry:
    """One contestant's part in an evaluation.

    Attributes:
        name, kind, note, source, control, budgets, origins, tuning: see `Contestant`.
        parts: classes and arguments of its update and teleport, order and moments.
        moves: whether it teleports.
        learned_teleport: whether what teleports was meta-trained.
        runs: its curves and outcomes, one run for each meta-seed; none if it failed.
        cost: wall-clock and memory of its first seed; None if it failed.
        failure: the error that ended it, or None.
    """

    name: str
    kind: ContestantKind
    note: str
    source: str | None
    control: Control | None
    budgets: tuple[Budget | None, ...]
    origins: tuple[Origin | None, ...]
    tuning: Tuning | None
    parts: Mapping[str, Any]
    moves: bool
    learned_teleport: bool
    runs: tuple[Run, ...] = ()
    cost: Cost | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        for part in ("update", "teleport"):
            spec = self.parts.get(part)
            if not (isinstance(spec, Mapping) and isinstance(spec.get("arguments"), Mapping) and "class" in spec):
                raise ValueError(f"{self.name}: its {part} needs a class and arguments, got {spec!r}")
        if self.cost is not None and self.runs and self.cost.seconds.shape != self.runs[0].at.shape:
            raise ValueError(f"{self.name}: its cost needs a time for each of {len(self.runs[0].at)} recorded steps")

    @property
    def label(self) -> str:
        """The name, with a baseline's step size and schedule or the number of meta-seeds."""
        if self.tuning is not None:
            schedule = "" if self.tuning.schedule == "constant" else f", {self.tuning.schedule}"
            return f"{self.name} (lr {self.tuning.lr:g}{schedule})"
        return self.name if self.meta_seeds == 1 else f"{self.name} ({self.meta_seeds} meta-seeds)"

    @property
    def meta_seeds(self) -> int:
        """How many meta-training seeds of the recipe took part."""
        return max(len(self.runs), len(self.budgets), 1)

    @property
    def diverged(self) -> int:
        """How many tasks, over all seeds, did not run all steps."""
        return sum(run.diverged for run in self.runs)

    @property
    def trouble(self) -> str:
        """How it failed, or how many of its runs diverged; empty if all is well."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        return f"{self.diverged} of {sum(run.tasks for run in self.runs)} diverged" if self.diverged else ""

    @property
    def milliseconds(self) -> float:
        """Wall-clock of one step of the tasks that were timed together; NaN if unknown."""
        if self.cost is None or not self.runs:
            return float("nan")
        return 1000 * float(self.cost.seconds[-1]) / int(self.runs[0].at[-1])

    @cached_property
    def all_moves(self) -> Moves | None:
        """What the teleports of all seeds did, the seeds' tasks side by side; None if there were none."""
        known = [run.moves for run in self.runs if run.moves is not None]
        return Moves.join(known) if known else None

    def losses(self, part: Part, step: int) -> NDArray[np.float64]:
        """The losses at a recorded step as statistics count them (see `Run.scored`), [seeds, B]."""
        at = self.runs[0].row(step)
        return np.stack([run.scored(part)[at] for run in self.runs])

    def accuracies(self, part: Part, step: int) -> NDArray[np.float64]:
        """The accuracies at a recorded step as statistics count them (see `Run.scored_accuracy`), [seeds, B]."""
        at = self.runs[0].row(step)
        return np.stack([run.scored_accuracy(part)[at] for run in self.runs])

    def summary(self, part: Part, step: int) -> Summary:
        """The losses at one recorded step."""
        return summarise(self.losses(part, step) if self.runs else np.empty((0, 0)))
