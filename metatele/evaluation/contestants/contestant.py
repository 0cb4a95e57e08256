"""Who takes part in an evaluation: meta-trained optimizers, their controls, hand-designed ones."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from metatele.checkpoint import CONFIG, WEIGHTS, describe, find_checkpoint, load_checkpoint
from metatele.errors import ConfigError, MetateleError
from metatele.evaluation.contestants.tuning import Tuning
from metatele.meta_training import Budget, MetaTraining, read_budget
from metatele.optimizer import InnerOptimizer
from metatele.task.batch import MetaBatch
from metatele.teleports import OptimisedTeleport, RandomTeleport, Stay, Teleport
from metatele.unroll.higher.unroll import Unroll
from metatele.update import HandDesigned
from metatele.update.hand_designed import Rule

Kind = Literal["checkpoint", "control", "baseline"]
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
class Learned:
    """One meta-trained optimizer.

    Attributes:
        inner: the optimizer.
        budget: its meta-training; None if unknown.
        origin: where it was read from; None if it was handed over as an object.
    """

    inner: InnerOptimizer
    budget: Budget | None = None
    origin: Origin | None = None

    @staticmethod
    def load(source: str | Path) -> "Learned":
        """Read a checkpoint with the record of its meta-training. Raises: CheckpointError."""
        inner, folder = load_checkpoint(source), find_checkpoint(source)
        digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in (CONFIG, WEIGHTS)))
        return Learned(inner, read_budget(source), Origin(str(source), digest.hexdigest()))


Given = InnerOptimizer | MetaTraining | Learned


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
    kind: Kind = "checkpoint"
    note: str = ""
    source: str | None = None
    control: Control | None = None
    budgets: tuple[Budget | None, ...] = ()
    origins: tuple[Origin | None, ...] = ()
    tuning: Tuning | None = field(default=None, compare=False)

    @property
    def inner(self) -> InnerOptimizer:
        """The first seed's."""
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


def learned_contestants(given: Mapping[str, Given | Sequence[Given]], device: str | torch.device) -> list[Contestant]:
    """Frozen float32 copies of meta-trained optimizers on a device; the originals are left alone.

    Args:
        given: {name: optimizer}, or {name: [optimizers]} for several meta-seeds of one recipe.
        device: where to put them.
    Raises: ConfigError for something else, or for seeds whose recipes differ.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"checkpoints must be a mapping {{name: InnerOptimizer}}, got {type(given).__name__}")
    out = []
    for name, value in given.items():
        if not (isinstance(name, str) and name.strip()):
            raise ConfigError(f"the name of a checkpoint must be a text, got {name!r}")
        several = list(value) if isinstance(value, (list, tuple)) else [value]
        if not several:
            raise ConfigError(f"the checkpoint {name!r} has no seeds: its list is empty")
        seeds = [_as_learned(name, one) for one in several]
        frozen = tuple(
            copy.deepcopy(s.inner).to(device=device, dtype=torch.float32).requires_grad_(False) for s in seeds
        )
        budgets, origins = tuple(s.budget for s in seeds), tuple(s.origin for s in seeds)
        made = Contestant(name, frozen, budgets=budgets, origins=origins)
        _check_one_recipe(made)
        out.append(made)
    return out


def _as_learned(name: str, given: object) -> Learned:
    if isinstance(given, Learned):
        return given
    if isinstance(given, MetaTraining):
        return Learned(given.optimizer, given.budget)
    if isinstance(given, InnerOptimizer):
        return Learned(given)
    raise ConfigError(
        f"the checkpoint {name!r} must be an InnerOptimizer (see load_checkpoint), the result of meta_train, or a list "
        f"of them for several meta-seeds, got {type(given).__name__}"
    )


def _check_one_recipe(c: Contestant) -> None:
    try:
        first = describe(c.seeds[0])
    except AttributeError as error:
        raise ConfigError(f"{c.name}: every constructor argument must be kept as an attribute: {error}") from error
    for other in c.seeds[1:]:
        if describe(other) != first:
            raise ConfigError(
                f"the seeds of {c.name!r} differ in more than their weights; give them names of their own"
            )
    for i, one in enumerate(c.seeds):
        if any(same_weights(one, other) for other in c.seeds[:i]):
            raise ConfigError(f"the seeds of {c.name!r} hold the same optimizer twice; name each meta-seed once")
    for budget in c.budgets[1:]:
        mine = c.budgets[0]
        differs = None if mine is None or budget is None else mine.differs_from(budget)
        if differs:
            raise ConfigError(f"the seeds of {c.name!r} have unequal budgets ({differs}); give them names of their own")


def same_weights(a: InnerOptimizer, b: InnerOptimizer) -> bool:
    """Whether two inner optimizers have equal learned weights and buffers."""
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def baselines(steps: int, with_teleports: bool) -> list[Contestant]:
    """The hand-designed contestants, not yet tuned; also each with teleports without learning, once
    before the first update: random ones, and the climb of the gradient norm."""
    teleports: dict[str, Teleport] = {"": Stay()}
    if with_teleports:
        teleports |= {" + random": RandomTeleport(last=0), " + climb": OptimisedTeleport()}
    return [
        Contestant(f"{rule}{suffix}", (InnerOptimizer(HandDesigned(rule, 1e-3, "constant", steps), t),), "baseline")
        for suffix, t in teleports.items()
        for rule in get_args(Rule)
    ]


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises: ConfigError if two contestants have one name."""
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
            raise ConfigError(f"the reference {wanted!r} is no contestant; use one of {', '.join(map(repr, names))}")
        return wanted
    for kind in ("checkpoint", "control"):
        for c in contestants:
            if c.kind == kind and not c.inner.teleport.moves:
                return c.name
    return names[0]
