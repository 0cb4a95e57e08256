"""Who takes part in an evaluation: meta-trained optimizers, their controls, hand-designed ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metatele.checkpoint import describe
from metatele.errors import ConfigError, MetateleError
from metatele.meta_training import Budget
from metatele.optimizer import InnerOptimizer
from metatele.task import MetaBatch
from metatele.tuning.step_size import Tuning
from metatele.unroll import Unroll

ContestantKind = Literal["checkpoint", "control", "baseline"]
Control = Literal["off", "mean schedule", "random", "balance"]


@dataclass(frozen=True)
class Origin:
    """Where a meta-trained optimizer came from.

    Attributes:
        source: what the user named (see `metatele.load_checkpoint`).
        sha256: of its configuration and weights.
    """

    source: str
    sha256: str


@dataclass(frozen=True)
class Contestant:
    """One contestant of an evaluation.

    Attributes:
        name: what tables and figures call it; unique within an evaluation.
        seeds: the inner optimizer, one for each meta-training seed of the recipe.
        kind: a checkpoint, a control made from one, or a hand-designed baseline.
        note: what a reader must know to judge it.
        source: the checkpoint that a control was made from.
        control: which control it is.
        budgets, origins: of a checkpoint's seeds.
        tuning: how a baseline's step size was found.
    """

    name: str
    seeds: tuple[InnerOptimizer, ...]
    kind: ContestantKind = "checkpoint"
    note: str = ""
    source: str | None = None
    control: Control | None = None
    budgets: tuple[Budget | None, ...] = ()
    origins: tuple[Origin | None, ...] = ()
    tuning: Tuning | None = field(default=None, compare=False)

    @property
    def inner(self) -> InnerOptimizer:
        """The inner optimizer of the first seed."""
        return self.seeds[0]

    @property
    def learned_teleport(self) -> bool:
        """Whether its teleport has learned weights (which are frozen here)."""
        return any(True for _ in self.inner.teleport.parameters())

    @property
    def description(self) -> dict[str, Any]:
        """Classes and arguments of its parts, shortened where an argument is long."""
        parts = {k: v for k, v in describe(self.inner).items() if k in ("update", "teleport", "order", "moments")}
        for part in ("update", "teleport"):
            parts[part]["arguments"] = {k: _short(v) for k, v in parts[part]["arguments"].items()}
        return parts


def _short(value: Any) -> Any:
    text = str(value)
    return value if len(text) < 1000 else f"{text[:80]}... ({len(text)} characters)"


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises: ConfigError if two contestants have the same name."""
    names = [c.name for c in contestants]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two contestants would be called {name!r}; give the checkpoint another name")


def check_runs(contestants: Sequence[Contestant], batch: MetaBatch) -> None:
    """Play one step of every contestant, so that one that cannot run on the tasks is found at once.

    Raises: the MetateleError that the contestant raises (CheckpointError for another network size,
        SymmetryError for a network without the symmetry), with the contestant's name in front.
    """
    for c in contestants:
        for inner in c.seeds:
            try:
                unroll = Unroll(inner, batch, 1)
                unroll.window(unroll.start(), 1, differentiable=False)
            except MetateleError as error:
                raise type(error)(f"{c.name}: {error}") from error
            except Exception:
                continue  # it will be reported as the contestant's outcome


def reference_of(contestants: Sequence[Contestant], wanted: str | None) -> str:
    """The name of the contestant that differences are taken from.

    `wanted` if given; else the first checkpoint without teleportation; else the first control with
    its teleports off; else the first contestant.

    Raises: ConfigError if no contestant is called `wanted`.
    """
    names = [c.name for c in contestants]
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"the reference {wanted!r} is not a contestant; use one of {', '.join(map(repr, names))}")
        return wanted
    for kind in ("checkpoint", "control"):
        for c in contestants:
            if c.kind == kind and not c.inner.teleport.moves:
                return c.name
    return names[0]
