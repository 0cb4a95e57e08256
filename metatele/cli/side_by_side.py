"""The work of a comparison: one run after the other, or several at a time in processes of joblib."""

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from rich.progress import Progress, TaskID

from metatele.cli.arguments import families_of, instantiate, make_training_parser, set_up_parsing
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

    @property
    def place(self) -> int:
        """In which order runs begin: a teleport that is learned takes longest, none the least."""
        return {WITH: 0, WITHOUT: 2}.get(self.recipe.name, 1)

    def bar(self, bars: Progress) -> ProgressBar:
        """Where its progress is shown."""
        return ProgressBar(self.title, **self.shown, bars=bars)

    def do(self, line: Line) -> bool:
        """Meta-train, in whatever process; whether the run is finished."""
        parser = make_training_parser("")
        resume = (self.folder / STATE).is_file()
        config = parser.parse_string(self.config)
        return train(parser, config, self.folder, resume, [_Relay(line)], line.stopping, self.recipe.change).finished


class Share(NamedTuple):
    """A part of an evaluation's tuning and playing, as plain data, which another process can be sent.

    Attributes:
        folders: the runs, of each contestant; the baselines alone if there are none.
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
    part: int = 0
    parts: int = 1

    def bar(self, bars: Progress) -> "_Pieces":
        """Where its progress is shown."""
        return _Pieces(bars)

    def do(self, line: Line) -> bool:
        """Tune and play, in whatever process; whether all is done."""
        parser = make_training_parser("")
        made = instantiate(parser, parser.parse_string(self.config))
        checkpoints = {name: [Learned.load(f) for f in folders] for name, folders in self.folders.items()}

        def progress(stage: str, done: int, total: int) -> None:
            if line.stopping():
                raise _StoppedError
            line.say((_Pieces.show, (stage, done, total)))

        options = replace(self.options, progress=progress)
        try:
            play_ahead(
                checkpoints, families_of(made.family)[self.family], self.settings, options, self.part, self.parts
            )
        except _StoppedError:
            return False
        return True


class _StoppedError(Exception):
    """The user has stopped the work."""


def _do(item: tuple[Plan | Share, Line]) -> bool:
    """A piece of work, in whatever process; whether it has been done."""
    work, line = item
    with line:
        if line.stopping():
            return False
        set_up_parsing()
        return work.do(line)


def train_all(plans: Sequence[Plan], jobs: int, ahead: Sequence[Share] = ()) -> bool:
    """Meta-train what is planned, with the progress of all in one display.

    Args:
        plans: the runs. Several at a time begin with those that take longest.
        jobs: how many at a time, at most as many as there are runs. They share the threads of this process, at least
            one each.
        ahead: what is played beside the last runs, where several are at work.
    Returns: whether all runs are finished; if not, the user has stopped them.
    Raises: what a run raises; ConfigError if a process dies.
    """
    if jobs > 1:
        plans = sorted(plans, key=lambda plan: plan.place)
    work: list[Plan | Share] = [*plans, *(ahead if jobs > 1 else ())]
    with make_bars() as bars, stop_on_interrupt() as stop:
        shown = [piece.bar(bars) for piece in work]

        def hear(number: int, message: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
            method, arguments = message
            method(shown[number], *arguments)

        with Exchange(hear, stop.is_set, jobs > 1) as exchange:
            items = [(w, exchange.line(number)) for number, w in enumerate(work)]
            try:
                return all(run_all(_do, items, jobs, threads=threads_of(jobs)))
            except ConfigError as error:
                if stop.is_set() and isinstance(error.__cause__, BrokenProcessPool):
                    return False  # who stops them may have stopped the processes, too
                raise


def play_side_by_side(share: Share, threads: int) -> None:
    """Do all parts of an evaluation's tuning and playing, each in a process of its own.

    Args:
        share: one of them.
        threads: of each process, as many as the evaluation will have.
    Raises: what a part raises; ConfigError if a process dies.
    """
    progress, done = share.options.progress, dict[int, tuple[int, int]]()

    def hear(number: int, message: tuple[Any, tuple[str, int, int]]) -> None:
        _, (stage, *counts) = message
        done[number] = counts[0], counts[1]
        if progress is not None:
            progress(stage, sum(n for n, _ in done.values()), sum(n for _, n in done.values()))

    plain = share._replace(options=replace(share.options, progress=None))
    with Exchange(hear, lambda: False, True) as exchange:
        items = [(plain._replace(part=part), exchange.line(part)) for part in range(share.parts)]
        run_all(_do, items, share.parts, threads=threads)


def threads_of(jobs: int) -> int:
    """How many of this process's threads each of so many jobs has."""
    return max(1, torch.get_num_threads() // jobs)


class _Pieces:
    """A bar over the pieces of an evaluation, in a display of runs."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.bar: TaskID | None = None

    def show(self, stage: str, done: int, total: int) -> None:
        """Tell how much is done, in tasks, and what comes next."""
        if self.bar is None:
            self.bar = self.bars.add_task("evaluate", status="")
        self.bars.update(self.bar, completed=done, total=total, status=stage, visible=done < total)


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
