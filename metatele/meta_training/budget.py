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
from metatele.meta_training.settings import COPIES, MetaSettings, UnrollSettings
from metatele.meta_training.stages import stages_of
from metatele.meta_training.state import STATE, read_state
from metatele.support.plain_yaml import read_yaml
from metatele.task.family import TaskFamily


@dataclass(frozen=True)
class Budget:
    """What a run of meta-training spends, and on what.

    Attributes:
        tasks: trajectories played: iterations x meta-batch, each as often as the estimator plays it.
        steps: inner steps of each, on average.
        families: the names of the task families; and their arguments, where they are known.
        seed: of the learned weights and of the tasks.
        start: the checkpoint whose learned weights it began with, or None.
    """

    tasks: int
    steps: int
    families: tuple[tuple[str, str], ...]
    seed: int
    start: str | None = None

    def differs_from(self, other: "Budget") -> str | None:
        """The difference in words; None if the two are equal except for the seed."""
        if (self.tasks, self.steps) != (other.tasks, other.steps):
            return f"{self.tasks} trajectories of {self.steps} steps against {other.tasks} of {other.steps}"
        if self.start != other.start:
            return f"began with {self.start or 'fresh weights'} against {other.start or 'fresh weights'}"
        mine, theirs = ([name for name, _ in b.families] for b in (self, other))
        if mine != theirs:
            return f"meta-trained on {', '.join(mine)} against {', '.join(theirs)}"
        for (name, a), (_, b) in zip(self.families, other.families, strict=True):
            if a and b and a != b:
                return f"meta-trained on {name} with other arguments"
        return None


def budget_of(
    families: Sequence[TaskFamily], unroll: UnrollSettings, meta: MetaSettings, seed: int, done: float = math.inf
) -> Budget:
    """The budget of a run with these settings, of which so many iterations are done."""
    return Budget(*_spent(unroll, meta, done), tuple((type(f).__name__, "") for f in families), seed, meta.start)


def _spent(unroll: UnrollSettings, meta: MetaSettings, done: float) -> tuple[int, int]:
    """Trajectories, and the mean of the steps that are to be expected of each."""
    trajectories, steps = 0, 0.0
    for stage in stages_of(unroll, meta):
        iterations = int(min(stage.end, done)) - stage.begin
        if iterations > 0:
            played = iterations * meta.tasks * COPIES[stage.meta.estimator]
            trajectories += played
            steps += played * stage.mean_horizon(iterations)
    return trajectories, round(steps / max(trajectories, 1))


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
        unroll, meta = UnrollSettings(**{"window": 1, **record["unroll"]}), MetaSettings(**record["meta"])
        spent = _spent(unroll, meta, _done(path.parent.parent))
        return Budget(*spent, families, int(record.get("seed", 0)), meta.start)
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
