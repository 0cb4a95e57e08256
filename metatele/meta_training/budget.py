"""How much meta-training a learned optimizer has had; comparisons at unequal budgets prove nothing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metatele.checkpoint import TRAINING, find_checkpoint
from metatele.errors import CheckpointError, ConfigError
from metatele.meta_training.settings import MetaSettings, UnrollSettings
from metatele.meta_training.state import STATE, read_state
from metatele.support.plain_yaml import read_yaml
from metatele.task.family import TaskFamily


@dataclass(frozen=True)
class Budget:
    """What a run of meta-training spends, and on what.

    Attributes:
        tasks: trajectories played: iterations x meta-batch.
        steps: inner steps of each.
        families: the names of the task families; and their arguments, where they are known.
        seed: of the learned weights and of the tasks.
    """

    tasks: int
    steps: int
    families: tuple[tuple[str, str], ...]
    seed: int

    def differs_from(self, other: "Budget") -> str | None:
        """The difference in words; None if the two are equal except for the seed."""
        if (self.tasks, self.steps) != (other.tasks, other.steps):
            return f"{self.tasks} trajectories of {self.steps} steps against {other.tasks} of {other.steps}"
        mine, theirs = ([name for name, _ in b.families] for b in (self, other))
        if mine != theirs:
            return f"meta-trained on {', '.join(mine)} against {', '.join(theirs)}"
        for (name, a), (_, b) in zip(self.families, other.families, strict=True):
            if a and b and a != b:
                return f"meta-trained on {name} with other arguments"
        return None


def budget_of(families: Sequence[TaskFamily], unroll: UnrollSettings, meta: MetaSettings, seed: int) -> Budget:
    """The budget of a run with these settings."""
    return Budget(meta.iterations * meta.tasks, unroll.steps, tuple((type(f).__name__, "") for f in families), seed)


def read_budget(source: str | Path) -> Budget | None:
    """The budget in the record beside a checkpoint; for a run that was stopped, the part that it has spent. None if
    there is no such record or it is damaged.

    Args:
        source: see `metatele.load_checkpoint`.
    Raises: CheckpointError if there is no such checkpoint.
    """
    path = find_checkpoint(source) / TRAINING
    try:
        record: Mapping[str, Any] = read_yaml(path.read_text(encoding="utf-8"))
        named = record["family"] if isinstance(record["family"], list) else [record["family"]]
        families = tuple(
            (str(f["class_path"]).rpartition(".")[2], json.dumps(f.get("init_args") or {}, sort_keys=True, default=str))
            for f in named
        )
        meta, unroll = record["meta"], record["unroll"]
        iterations = int(min(int(meta["iterations"]), _done(path.parent.parent)))
        return Budget(iterations * int(meta["tasks"]), int(unroll["steps"]), families, int(record.get("seed", 0)))
    except (
        CheckpointError,
        ConfigError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        yaml.YAMLError,
    ):
        return None


def _done(run: Path) -> float:
    """Iterations done according to a run's state; infinite if there is none. Raises: CheckpointError, KeyError."""
    return int(read_state(run / STATE)[0]["done"]) if (run / STATE).is_file() else math.inf
