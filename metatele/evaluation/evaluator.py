"""Evaluation: every contestant on the same held-out tasks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metatele.errors import ConfigError
from metatele.evaluation.contestant import (
    Contestant,
    check_names,
    check_runs,
    from_checkpoints,
    reference_of,
    with_controls,
)
from metatele.evaluation.entry import Entry
from metatele.evaluation.record import Evaluation, Settings
from metatele.evaluation.run import clock, has_test_rows, play
from metatele.evaluation.tuning import BASELINES, tune
from metatele.files import make_folder
from metatele.optimizer import InnerOptimizer
from metatele.sampling import sample_meta_batch
from metatele.task import MetaBatch, TaskFamily

Progress = Callable[[str, int, int], None]
Seconds = NDArray[np.float64]

REPORT_STEPS = (10, 30)
LONG = 5.0  # seconds


def evaluate(
    checkpoints: Mapping[str, InnerOptimizer],
    family: TaskFamily,
    *,
    tasks: int = 64,
    steps: int = 100,
    seed: int = 0,
    output: Path | str | None = None,
    baselines: bool = True,
    tuning_tasks: int = 16,
    report_steps: Sequence[int] | None = None,
    reference: str | None = None,
    timing_repeats: int = 3,
    device: str = "cpu",
    family_spec: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run checkpoints, their controls and tuned baselines on the same tasks of the test split.

    Controls: see `with_controls`. Baselines: GD, momentum and Adam, each with the learning rate that
    is best on tasks of the train split. Equal arguments give equal numbers, but for the wall-clock.

    Args:
        checkpoints: the inner optimizers by name; they are copied, and left as they are.
        family: where tasks come from.
        tasks, steps, seed, tuning_tasks, timing_repeats, device: see `Settings`.
        output: folder for results.json and figures; nothing is written when None.
        baselines: whether the baselines take part.
        report_steps: see `Settings`; 10, 30 and the last step by default, which always is one.
        reference: what differences are taken from; by default see `reference_of`.
        family_spec: how the family was made, to be stored in the results.
        progress: called with (what comes next, stages done, stages in all).
    Raises: ConfigError for an impossible setting; OutputError if the folder cannot be written to;
        CheckpointError or SymmetryError if a checkpoint cannot run on the family. All of these
        before the first task is run.
    """
    begin = time.perf_counter()
    if not isinstance(checkpoints, Mapping):
        raise ConfigError(f"checkpoints must be a mapping {{name: InnerOptimizer}}, got {type(checkpoints).__name__}")
    for name, inner in checkpoints.items():
        if not isinstance(inner, InnerOptimizer):
            raise ConfigError(
                f"the checkpoint {name!r} must be an InnerOptimizer (see load_checkpoint, or MetaTraining.optimizer), "
                f"got {type(inner).__name__}"
            )
    settings = Settings(tasks, steps, seed, tuning_tasks, timing_repeats, _report(report_steps, steps), device)
    if output is not None:
        make_folder(Path(output))
    test = sample_meta_batch(family, "test", range(tasks), seed).to(torch.float32, device)
    train = sample_meta_batch(family, "train", range(tuning_tasks), seed).to(torch.float32, device)
    entrants = _entrants(checkpoints, baselines, train, settings)
    reference = reference_of(entrants, reference)
    stages = _Stages(progress, sum(c.kind == "baseline" for c in entrants) + len(entrants) * (1 + timing_repeats))
    result = Evaluation(
        family=type(family).__name__,
        settings=settings,
        entries=_run_all([_tuned(c, train, steps, stages) for c in entrants], test, settings, stages),
        reference=reference,
        task_seeds=tuple(test.seeds.tolist()),
        has_test=has_test_rows(test),
        elapsed=time.perf_counter() - begin,
        family_spec=family_spec,
    )
    if output is not None:
        result.save(output)
    return result


def _report(report_steps: Sequence[int] | None, steps: int) -> tuple[int, ...]:
    chosen = [s for s in REPORT_STEPS if s <= steps] if report_steps is None else report_steps
    return tuple(sorted({*chosen, steps}))


def _entrants(
    checkpoints: Mapping[str, InnerOptimizer], baselines: bool, train: MetaBatch, settings: Settings
) -> list[Contestant]:
    """Everybody who takes part, baselines not yet tuned; checked to run on the tasks."""
    entrants = with_controls(from_checkpoints(checkpoints, settings.device), train.network)
    if baselines:
        entrants += [Contestant(name, InnerOptimizer(make(1.0)), "baseline") for name, make in BASELINES.items()]
    if not entrants:
        raise ConfigError("there is nothing to evaluate: give a checkpoint or let the baselines take part")
    check_names(entrants)
    check_runs(entrants, train)
    return entrants


def _tuned(contestant: Contestant, train: MetaBatch, steps: int, stages: "_Stages") -> Contestant:
    """A baseline with its learning rate tuned; others as they are."""
    if contestant.kind != "baseline":
        return contestant
    stages.begin(f"tuning {contestant.name}")
    make = BASELINES[contestant.name]
    tuning = tune(make, train, steps)
    return replace(contestant, inner=InnerOptimizer(make(tuning.lr)), tuning=tuning)


def _run_all(
    contestants: Sequence[Contestant], batch: MetaBatch, settings: Settings, stages: "_Stages"
) -> tuple[Entry, ...]:
    runs = []
    for c in contestants:
        stages.begin(f"running {c.name}")
        runs.append(play(c.inner, batch, settings.steps))
    # Taking turns, so that a machine that is busy for a while does not hit one contestant only.
    seconds: list[list[Seconds]] = [[] for _ in contestants]
    for _ in range(settings.timing_repeats):
        for c, measured in zip(contestants, seconds, strict=True):
            stages.begin(f"timing {c.name}")
            if not measured or measured[-1][-1] < LONG:  # a long run is steady enough to be timed once
                measured.append(clock(c.inner, batch, settings.steps))
    stages.begin("done")
    return tuple(
        Entry(c, run, np.median(np.stack(measured), axis=0))
        for c, run, measured in zip(contestants, runs, seconds, strict=True)
    )


class _Stages:
    """Counts the stages of an evaluation for whoever shows its progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def begin(self, name: str) -> None:
        if self.progress is not None:
            self.progress(name, self.done, self.total)
        self.done += 1
