"""The work of a comparison: one run after the other, or several at a time in processes of joblib."""

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from metatele.cli.arguments import instantiate, make_training_parser, set_up_parsing
from metatele.cli.meta_train_command import stop_on_interrupt, train
from metatele.cli.recipes import WITH, WITHOUT, Recipe
from metatele.errors import ConfigError
from metatele.evaluation import Learned
from metatele.evaluation.evaluator import play_ahead
from metatele.evaluation.settings import Options, Settings
from metatele.meta_training import Monitor, ProgressBar
from metatele.meta_training.monitor import make_bars
from metatele.meta_training.state import STATE
from metatele.meta_training.trainer import Iteration
from metatele.support.exchange import Exchange, Line
from metatele.support.parallel import run_all


class Plan(NamedTuple):
    """One run, as plain data, which another process can be sent.

    Attributes:
        title: what stands before its progress.
        recipe: how its optimizer is made of the configured one.
        config: the settings of its meta-training, as YAML.
        folder: of the run; one that has begun is gone on with.
        shown: how (see `ProgressBar`).
    """

    title: str
    recipe: Recipe
    config: str
    folder: Path
    shown: dict[str, Any]


def train_all(plans: Sequence[Plan], jobs: int) -> bool:
    """Meta-train what is planned, with the progress of all in one display.

    Args:
        plans: the runs. Several at a time begin with those that take longest.
        jobs: how many at a time. They share the threads of this process, at least one each.
    Returns: whether all runs are finished; if not, the user has stopped them.
    Raises: what a run raises; ConfigError if a process dies.
    """
    jobs = min(jobs, len(plans))
    if jobs > 1:
        plans = sorted(plans, key=_by_length)
    with make_bars() as bars, stop_on_interrupt() as stop:
        shown = [ProgressBar(plan.title, **plan.shown, bars=bars) for plan in plans]

        def hear(number: int, message: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
            method, arguments = message
            method(shown[number], *arguments)

        with Exchange(hear, stop.is_set, jobs > 1) as exchange:
            items = [(plan, exchange.line(number)) for number, plan in enumerate(plans)]
            try:
                return all(run_all(_train, items, jobs, threads=threads_of(jobs)))
            except ConfigError as error:
                if stop.is_set() and isinstance(error.__cause__, BrokenProcessPool):
                    return False  # who stops them may have stopped the processes, too
                raise


def threads_of(jobs: int) -> int:
    """How many of this process's threads each of so many jobs has."""
    return max(1, torch.get_num_threads() // jobs)


def _by_length(plan: Plan) -> int:
    """In which order runs begin: a teleport that is learned takes longest, none the least."""
    return {WITH: 0, WITHOUT: 2}.get(plan.recipe.name, 1)


def _train(item: tuple[Plan, Line]) -> bool:
    """One run, in whatever process; whether it is finished."""
    plan, line = item
    with line:
        if line.stopping():
            return False
        set_up_parsing()
        parser = make_training_parser("")
        resume = (plan.folder / STATE).is_file()
        config = parser.parse_string(plan.config)
        return train(parser, config, plan.folder, resume, [_Relay(line)], line.stopping, plan.recipe.change).finished


class _Relay(Monitor):
    """Lets a progress bar at the other end of a line know."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def start(self, done: int, total: int) -> None:
        self.line.say((ProgressBar.start, (done, total)))

    def update(self, iteration: Iteration) -> None:
        self.line.say((ProgressBar.update, (iteration,)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.line.say((ProgressBar.__exit__, (None, None, None)))


class Share(NamedTuple):
    """A part of an evaluation's tuning and playing, as plain data, which another process can be sent.

    Attributes:
        folders: the runs, of each contestant.
        config: the settings of their meta-training, as YAML, which names the families.
        family: the number of the one that is evaluated on.
        settings, options: of the evaluation, with its journal.
        part, parts: which part, of how many.
    """

    folders: dict[str, list[Path]]
    config: str
    family: int
    settings: Settings
    options: Options
    part: int
    parts: int


def play_side_by_side(share: Share, threads: int) -> None:
    """Do all parts of an evaluation's tuning and playing, each in a process of its own.

    Args:
        share: one of them.
        threads: of each process, as many as the evaluation will have.
    Raises: what a part raises; ConfigError if a process dies.
    """
    progress, done = share.options.progress, dict[int, tuple[int, int]]()

    def hear(number: int, message: tuple[str, int, int]) -> None:
        stage, *counts = message
        done[number] = counts[0], counts[1]
        if progress is not None:
            progress(stage, sum(n for n, _ in done.values()), sum(n for _, n in done.values()))

    plain = share._replace(options=replace(share.options, progress=None))
    with Exchange(hear, lambda: False, True) as exchange:
        items = [(plain._replace(part=part), exchange.line(part)) for part in range(share.parts)]
        run_all(_play, items, share.parts, threads=threads)


def _play(item: tuple[Share, Line]) -> None:
    """One part, in whatever process."""
    share, line = item
    with line:
        set_up_parsing()
        parser = make_training_parser("")
        made = instantiate(parser, parser.parse_string(share.config))
        families = made.family if isinstance(made.family, list) else [made.family]
        checkpoints = {name: [Learned.load(f) for f in folders] for name, folders in share.folders.items()}
        options = replace(share.options, progress=lambda stage, done, total: line.say((stage, done, total)))
        play_ahead(checkpoints, families[share.family], share.settings, options, share.part, share.parts)
