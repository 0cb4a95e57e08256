"""Evaluation: every contestant on the same held-out tasks."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metatele.errors import ConfigError
from metatele.evaluation.contestants.baselines import baselines
from metatele.evaluation.contestants.contestant import Contestant, check_names, check_runs, reference_of
from metatele.evaluation.contestants.controls import with_controls
from metatele.evaluation.contestants.learned import LearnedOrInner, learned_contestants
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.environment import environment
from metatele.evaluation.evaluation import Evaluation
from metatele.evaluation.play.journal import Journal
from metatele.evaluation.settings import Options, Settings
from metatele.evaluation.stages import Stages
from metatele.support.device import check_device
from metatele.support.files import make_folder
from metatele.task import MetaBatch, Split, TaskFamily, sample_meta_batch

JOURNAL = ".unfinished"


def evaluate(
    checkpoints: Mapping[str, LearnedOrInner | Sequence[LearnedOrInner]],
    family: TaskFamily,
    settings: Settings | None = None,
    *,
    output: Path | str | None = None,
    options: Options | None = None,
    **keywords: Any,
) -> Evaluation:
    """Run checkpoints, their controls and tuned baselines on the same tasks of the test split.

    First everything that is chosen is chosen, on tasks of the train split: step sizes and schedules of the
    baselines (`tune`), the controls' schedules (`with_controls`). Only then are the test tasks drawn.
    Equal arguments give equal numbers, but for wall-clock and memory. A contestant that crashes is
    reported, and the others finish. With an output folder, an interrupted evaluation goes on where it
    was stopped when the same call is made again.

        evaluate({"mine": load_checkpoint("runs/mine")}, Sine(), tasks=32, steps=50, output="evaluation")

    Args:
        checkpoints: meta-trained optimizers by name: an InnerOptimizer, the result of `meta_train`, a
            `Learned` (which knows its budget and where it came from), or a list of them, one for each
            meta-seed of one recipe. They are copied, and left as they are.
        family: where tasks come from.
        settings: what the numbers depend on.
        output: folder for results.json; nothing is written when None.
        options: how it is run.
        keywords: fields of `Settings` and `Options`, which override those given.
    Raises: ConfigError for an impossible setting; OutputError if the folder cannot be written to;
        CheckpointError or SymmetryError if a checkpoint cannot run on the family (when strict). All of
        these before a test task is drawn.
    """
    settings, options = _with_keywords(settings or Settings(), options or Options(), keywords)
    check_device(settings.device)
    learned = learned_contestants(checkpoints, settings.device)
    folder = None if output is None else make_folder(Path(output))
    own = None if folder is None else folder / JOURNAL
    pieces = Journal(own if options.journal is None else Path(options.journal))
    result = _evaluate(learned, family, settings, options, pieces)
    if folder is not None:
        result.save(folder)
    if options.journal is None:
        pieces.close()
    return result


def _evaluate(
    learned: Sequence[Contestant], family: TaskFamily, settings: Settings, options: Options, pieces: Journal
) -> Evaluation:
    """Choose on tasks of the train split, then play those of the test split."""
    begin = time.perf_counter()
    draw = partial(_draw, family, settings)
    train = draw("train", range(settings.tuning_tasks))
    if options.strict:
        check_runs(learned, train)
    stages = Stages(settings, pieces, train, options.progress)
    entrants = _entrants(learned, train, stages)
    reference = reference_of(entrants, options.reference)
    entries = stages.run(entrants, partial(draw, "test"))
    return Evaluation(
        family=type(family).__name__,
        settings=stages.settings,
        entries=tuple(entries),
        reference=reference,
        task_seeds=stages.task_seeds,
        applicable_rules=applicable_rules(train),
        elapsed=time.perf_counter() - begin,
        environment=environment(settings.device),
        family_spec=options.family_spec,
        title=options.title,
    )


def _entrants(learned: Sequence[Contestant], train: MetaBatch, stages: Stages) -> list[Contestant]:
    """The checkpoints, their controls, and the baselines, not yet tuned. Raises: ConfigError if there are none."""
    settings = stages.settings
    entrants = with_controls(learned, train, settings.steps, stages.recording)
    if settings.baselines != "none":
        entrants += baselines(settings.steps, settings.baselines == "teleports")
    if not entrants:
        raise ConfigError(
            f"there is nothing to evaluate: no checkpoint, and baselines={settings.baselines!r}; give a checkpoint, or "
            "let the baselines take part"
        )
    check_names(entrants)
    return entrants


def _draw(family: TaskFamily, settings: Settings, split: Split, indices: Iterable[int]) -> MetaBatch:
    return sample_meta_batch(family, split, indices, settings.seed).to(torch.float32, settings.device)


def _with_keywords(settings: Settings, options: Options, keywords: Mapping[str, Any]) -> tuple[Settings, Options]:
    """Settings and options with some fields given by name. Raises: ConfigError for a name that neither has."""
    numbers, others = ({f.name for f in fields(kind)} for kind in (Settings, Options))
    unknown = keywords.keys() - numbers - others
    if unknown:
        raise ConfigError(f"evaluate has no argument {min(unknown)!r}; it takes {', '.join(sorted(numbers | others))}")
    given = {name: keywords[name] for name in keywords.keys() & numbers}
    if "steps" in given:
        given.setdefault("report_steps", None)  # the old ones may lie beyond the new length
    chosen = {name: keywords[name] for name in keywords.keys() & others}
    return replace(settings, **given), replace(options, **chosen)
