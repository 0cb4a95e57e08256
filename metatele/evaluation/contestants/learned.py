"""Meta-trained optimizers as they are passed to `evaluate`, and as contestants."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from metatele.checkpoint import CONFIG, WEIGHTS, describe, find_checkpoint, load_checkpoint
from metatele.errors import ConfigError
from metatele.evaluation.contestants.contestant import Contestant, Origin
from metatele.meta_training import Budget, MetaTraining, read_budget
from metatele.optimizer import InnerOptimizer


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


LearnedOrInner = InnerOptimizer | MetaTraining | Learned


def learned_contestants(
    given: Mapping[str, LearnedOrInner | Sequence[LearnedOrInner]], device: str | torch.device
) -> list[Contestant]:
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
            raise ConfigError(f"the name of a checkpoint must be a non-empty string, got {name!r}")
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
    """What was passed in, as one meta-trained optimizer. Raises: ConfigError for anything else."""
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
    """Raises: ConfigError if the seeds of a contestant differ in their recipe or budget, or are one and the same."""
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
