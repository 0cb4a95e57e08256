"""Evaluation: every contestant on the same held-out tasks."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metatele.errors import ConfigError
from metatele.evaluation.contestants.contestant import (
    Given,
    check_names,
    check_runs,
    learned_contestants,
    reference_of,
)
from metatele.evaluation.contestants.contestant import (
    baselines as hand_designed,
)
from metatele.evaluation.contestants.controls import with_controls
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.environment import environment
from metatele.evaluation.play.journal import Journal
from metatele.evaluation.record import Evaluation
from metatele.evaluation.settings import Baselines, Settings
from metatele.evaluation.stages import Progress, Stages, choose_chunk
from metatele.support.device import check_device
from metatele.support.files import make_folder
from metatele.task.batch import MetaBatch
from metatele.task.family import Split, TaskFamily
from metatele.task.sampling import sample_meta_batch

REPORT_STEPS = (10, 30)
JOURNAL = ".unfinished"


def evaluate(
    checkpoints: Mapping[str, Given | Sequence[Given]],
    family: TaskFamily,
    *,
    tasks: int = 64,
    steps: int = 100,
    seed: int = 0,
    output: Path | str | None = None,
    baselines: Baselines | bool = "plain",
    tuning_tasks: int = 32,
    report_steps: Sequence[int] | None = None,
    reference: str | None = None,
    timing_tasks: int = 32,
    timing_repeats: int = 3,
    chunk: int | None = None,
    device: str = "cpu",
    strict: bool = True,
    family_spec: Mapping[str, Any] | None = None,
    title: str = "",
    journal: Path | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run checkpoints, their controls and tuned baselines on the same tasks of the test split.

    First everything that is chosen is chosen, on tasks of the train split: step sizes and schedules of the
    baselines (`tune`), the controls' schedules (`with_controls`). Only then are the test tasks drawn.
    Equal arguments give equal numbers, but for wall-clock and memory. A contestant that crashes is
    reported, and the others finish. With an output folder, an interrupted evaluation goes on where it
    was stopped when the same call is made again.

    Args:
        checkpoints: meta-trained optimizers by name: an InnerOptimizer, the result of `meta_train`, a
            `Learned` (which knows its budget and where it came from), or a list of them, one for each
            meta-seed of one recipe. They are copied, and left as they are.
        family: where tasks come from.
        tasks, steps, seed, tuning_tasks, timing_tasks, timing_repeats, device: see `Settings`.
        output: folder for results.json; nothing is written when None.
        baselines: see `Settings`; True and False mean "plain" and "none".
        report_steps: see `Settings`; 10, 30 and the last step by default, which always is one.
        reference: what differences are taken from; by default see `reference_of`.
        chunk: how many tasks are played together; by default so many that they take about a gigabyte.
        strict: whether a checkpoint that cannot run on the family is an error, or a failed contestant.
        family_spec, title: see `Evaluation`.
        journal: folder for finished pieces, which is kept; by default one in the output folder, deleted in the end.
        progress: called with (what comes next, tasks done, tasks in all, over all contestants).
    Raises: ConfigError for an impossible setting; OutputError if the folder cannot be written to;
        CheckpointError or SymmetryError if a checkpoint cannot run on the family (when strict). All of
        these before a test task is drawn.
    """
    begin = time.perf_counter()
    check_device(device)
    if isinstance(baselines, bool):
        baselines = "plain" if baselines else "none"
    learned = learned_contestants(checkpoints, device)
    settings = Settings(
        tasks,
        steps,
        seed,
        tuning_tasks,
        timing_tasks,
        timing_repeats,
        _report(report_steps, steps),
        baselines,
        1,
        device,
    )
    folder = None if output is None else make_folder(Path(output))
    train = _draw(family, "train", range(tuning_tasks), settings)
    settings = replace(settings, chunk=choose_chunk(train) if chunk is None else chunk)
    if strict:
        check_runs(learned, train)
    own = None if folder is None else folder / JOURNAL
    pieces = Journal(own if journal is None else Path(journal))
    stages = Stages(settings, pieces, train, progress)
    entrants = with_controls(learned, train, steps, stages.recording)
    if baselines != "none":
        entrants += hand_designed(steps, baselines == "teleports")
    if not entrants:
        raise ConfigError("there is nothing to evaluate: give a checkpoint or let the baselines take part")
    check_names(entrants)
    reference = reference_of(entrants, reference)
    entries = stages.run(entrants, lambda indices: _draw(family, "test", indices, settings))
    result = Evaluation(
        family=type(family).__name__,
        settings=settings,
        entries=tuple(entries),
        reference=reference,
        task_seeds=stages.task_seeds,
        applicable_rules=applicable_rules(train),
        elapsed=time.perf_counter() - begin,
        environment=environment(device),
        family_spec=family_spec,
        title=title,
    )
    if folder is not None:
        result.save(folder)
    if journal is None:
        pieces.close()
    return result


def _draw(family: TaskFamily, split: Split, indices: Iterable[int], settings: Settings) -> MetaBatch:
    return sample_meta_batch(family, split, indices, settings.seed).to(torch.float32, settings.device)


def _report(report_steps: Sequence[int] | None, steps: int) -> tuple[int, ...]:
    """The steps to report in order, with the last one; `Settings` checks them."""
    chosen = [s for s in REPORT_STEPS if s <= steps] if report_steps is None else report_steps
    if not isinstance(chosen, Sequence):
        raise ConfigError(f"report_steps must be a list of steps, got {chosen!r}")
    try:
        return tuple(sorted({*chosen, steps}))
    except TypeError:  # numbers and something else
        return tuple(chosen)
