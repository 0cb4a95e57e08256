"""Evaluation: every contestant on the same held-out tasks."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from metatele.checkpoint import describe
from metatele.errors import ConfigError, TaskError
from metatele.evaluation.contestants.baselines import baselines
from metatele.evaluation.contestants.contestant import Contestant, check_names, check_runs, reference_of
from metatele.evaluation.contestants.controls import with_controls
from metatele.evaluation.contestants.idle import idle_where_nothing_moves
from metatele.evaluation.contestants.learned import LearnedOrInner, learned_contestants
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.environment import environment
from metatele.evaluation.evaluation import Evaluation
from metatele.evaluation.play.journal import Journal, fingerprint
from metatele.evaluation.play.turns import Turns
from metatele.evaluation.settings import Options, Settings
from metatele.evaluation.stages import Stages
from metatele.meta_training.identity import difference, identity_of
from metatele.support.device import check_device
from metatele.support.lock import locked
from metatele.support.ranks import Ranks, joined
from metatele.task import MetaBatch, Split, TaskFamily, sample_meta_batch
from metatele.task.contract import begins_finite

JOURNAL = ".unfinished"
LEAST, DRAWN = 8, 64  # tasks that are looked at together
PATIENCE = timedelta(days=1)  # how long a process waits for one that has taken a long piece


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
    baselines (`tune`), the controls' schedules (`with_controls`). Before that, of the test tasks only is looked at
    whether they run and begin with a finite loss.
    Equal arguments give equal numbers, but for wall-clock and memory. A contestant that crashes is
    reported, and the others finish. With an output folder, an interrupted evaluation goes on where it
    was stopped when the same call is made again.

        evaluate({"mine": load_checkpoint("runs/mine")}, Sine(), tasks=32, steps=50, output="evaluation")

    Processes that torchrun has started together, or that have a process group of torch.distributed, share the work, and
    must all make the same call. All get the evaluation; the first one writes it, reports progress, and measures
    wall-clock and memory while the others wait.

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
        these before a test task is played.
    """
    settings, options = _with_keywords(settings or Settings(), options or Options(), keywords)
    with joined(settings.device, PATIENCE) as (ranks, _), ExitStack() as stack:
        check_device(settings.device)
        learned = learned_contestants(checkpoints, settings.device)
        folder = None if output is None else ranks.from_first(lambda: stack.enter_context(locked(Path(output))))

        def place() -> Path | None:
            """Where the pieces are kept. Processes that share them need a place though nothing is to be kept."""
            if options.journal is not None:
                return Path(options.journal).expanduser()
            if folder is not None:
                return folder / JOURNAL
            return Path(stack.enter_context(TemporaryDirectory(prefix="metatele-"))) if ranks.size > 1 else None

        pieces = Journal(ranks.from_first(place))
        result = _evaluate(learned, family, settings, options, pieces, ranks)
        if folder is not None:
            ranks.from_first(lambda: result.save(folder))
            if options.journal is None and ranks.first:
                pieces.close()
    return result


def play_ahead(
    checkpoints: Mapping[str, LearnedOrInner | Sequence[LearnedOrInner]],
    family: TaskFamily,
    settings: Settings,
    options: Options,
    part: int,
    parts: int,
) -> None:
    """Tune and play a part of the contestants: one of every `parts`, beginning with number `part`.

    An evaluation with the same arguments, and as many threads, finds the pieces in its journal and does the rest.

    Args:
        checkpoints, family, settings: see `evaluate`.
        options: of the evaluation, with its journal.
        part, parts: which part, of how many.
    Raises: see `evaluate`.
    """
    learned = learned_contestants(checkpoints, settings.device)
    assert options.journal is not None
    prepared = _prepare(learned, family, settings, options, Journal(Path(options.journal)), Ranks())
    prepared.stages.run_ahead(prepared.entrants[part::parts], prepared.draw)


class _Prepared(NamedTuple):
    """What an evaluation begins with.

    Attributes:
        train: tasks of the train split.
        stages: do the work.
        entrants: the contestants, not yet tuned.
        draw: gives the test tasks with the indices asked for.
    """

    train: MetaBatch
    stages: Stages
    entrants: list[Contestant]
    draw: Callable[[Iterable[int]], MetaBatch]


def _prepare(
    learned: Sequence[Contestant],
    family: TaskFamily,
    settings: Settings,
    options: Options,
    pieces: Journal,
    ranks: Ranks,
) -> _Prepared:
    """Choose on tasks of the train split."""
    train = _draw(family, settings, "train", _usable(family, settings, "train", settings.tuning_tasks))
    learned = idle_where_nothing_moves(learned, train)
    if options.strict:
        check_runs(learned, train)
    test = _usable(family, settings, "test", settings.tasks)
    _check_same(ranks, learned, family, settings)
    stages = Stages(settings, pieces, Turns(ranks, pieces.folder), train, options.progress, options.tunings)
    entrants = _entrants(learned, train, stages)
    return _Prepared(train, stages, entrants, lambda places: _draw(family, settings, "test", [test[i] for i in places]))


def _evaluate(
    learned: Sequence[Contestant],
    family: TaskFamily,
    settings: Settings,
    options: Options,
    pieces: Journal,
    ranks: Ranks,
) -> Evaluation:
    """Choose on tasks of the train split, then play those of the test split."""
    begin = time.perf_counter()
    train, stages, entrants, draw = _prepare(learned, family, settings, options, pieces, ranks)
    reference = reference_of(entrants, options.reference)
    entries = stages.run(entrants, draw)
    stages.turns.close()
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


def _check_same(ranks: Ranks, learned: Sequence[Contestant], family: TaskFamily, settings: Settings) -> None:
    """Raises: ConfigError if the processes that share an evaluation were given different ones."""
    if ranks.size == 1:
        return
    mine = {
        "settings": asdict(replace(settings, device="")),
        "family": [identity_of(family, settings.seed)],
        "contestants": [[c.name, *(fingerprint(describe(inner), inner) for inner in c.seeds)] for c in learned],
    }
    if any(difference(mine, other) is not None for other in ranks.gather(mine)):
        raise ConfigError(
            f"the {ranks.size} processes share an evaluation, but were given different contestants, families or "
            "settings; give all the same, or end the process group first"
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


def _usable(family: TaskFamily, settings: Settings, split: Split, count: int) -> list[int]:
    """The first so many tasks of a split whose losses are finite before the first step. Nothing else is looked at, and
    nothing is kept, so that no test task is known before everything is chosen.

    Raises: TaskError if data of a task are bad, or if hardly any task begins with a finite loss.
    """
    good, bad, begin = list[int](), list[int](), 0
    while len(good) < count:
        numbers = range(begin, begin + min(max(count - len(good), LEAST), settings.chunk or DRAWN))
        finite = begins_finite(_draw(family, settings, split, numbers)).tolist()
        for i, fine in zip(numbers, finite, strict=True):
            (good if fine else bad).append(i)
            if len(good) == count:
                break
        begin = numbers.stop
        if len(bad) > max(count, DRAWN // 2):
            raise TaskError(
                f"{type(family).__name__}: {len(bad)} of {begin} tasks of the {split} split begin with a loss that is "
                "not finite; mend the data or the initial weights"
            )
    if bad:
        warnings.warn(
            f"tasks of the {split} split that begin with a loss that is not finite are left out, the next ones take "
            f"their places: {', '.join(map(str, bad[:10]))}{', ...' if len(bad) > 10 else ''}",
            stacklevel=2,
        )
    return good[:count]


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
