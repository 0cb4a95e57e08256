"""Watching meta-training: a progress bar, and TensorBoard scalars."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from metatele.errors import OutputError
from metatele.meta_training.trainer import Iteration


class Monitor:
    """A context manager that is notified of every iteration; this base class does nothing."""

    def start(self, done: int, total: int) -> None:
        """Meta-training begins, or goes on after `done` iterations."""

    def update(self, iteration: Iteration) -> None:
        """An iteration is done."""

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Meta-training ends."""


def make_bars(console: Console | None = None) -> Progress:
    """Where the bars of several runs are shown together; to be started by whoever makes it."""
    console = console or Console(stderr=True, highlight=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,  # a log gets the lines of the validations only
    )


class ProgressBar(Monitor):
    """A bar with meta-loss, validation loss, speed and time left; a line for each validation. At its end the bar stays
    where it is, as a line above those that go on.

    Losses are shown as geometric means where they are means of logarithms.

    Args:
        title: what stands before the bar.
        log_loss: whether the meta-loss is a mean of logarithms.
        log_score: likewise the validation score; as log_loss when None.
        relative: whether the validation score is relative to that of the best tuned baseline, and so a logarithm.
        console: where to show them; stderr when None.
        bars: where other runs have theirs (see `make_bars`), instead; this one alone when None.
    """

    def __init__(
        self,
        title: str,
        log_loss: bool,
        console: Console | None = None,
        bars: Progress | None = None,
        log_score: bool | None = None,
        relative: bool = False,
    ) -> None:
        self.title, self.log_loss, self.relative = title, log_loss, relative
        self.log_score = relative or (log_loss if log_score is None else log_score)
        self.alone = bars is None
        self.progress = bars or make_bars(console)
        self.console = self.progress.console
        self.validation = "-"
        self.bar: TaskID | None = None

    def start(self, done: int, total: int) -> None:
        self.bar = self.progress.add_task(self.title, completed=done, total=total, status="")
        if self.alone:
            self.progress.start()

    def update(self, iteration: Iteration) -> None:
        assert self.bar is not None
        meta_loss = _show(iteration.meta_loss, self.log_loss)
        if iteration.validation is not None:
            self.validation = _show(iteration.validation, self.log_score)
            lost = iteration.validation_diverged
            diverged = f" ({lost} validation tasks diverged)" if lost else ""
            self.console.print(
                f"{self.title}: iteration {iteration.number}: meta-loss {meta_loss}, validation loss "
                f"{self.validation}{' of the best baseline' if self.relative else ''}{diverged}",
                markup=False,
                soft_wrap=True,
            )
        status = f"meta {meta_loss}  val {self.validation}  {iteration.seconds:.2f} s/it"
        self.progress.update(self.bar, completed=iteration.number, status=status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alone:
            self.progress.stop()
        elif self.bar is not None:
            ended = [task for task in self.progress.tasks if task.id == self.bar]
            self.progress.remove_task(self.bar)
            if self.console.is_terminal:
                self.console.print(self.progress.make_tasks_table(ended))


class TensorBoard(Monitor):
    """Scalars of every iteration in a folder that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, done: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with _told():
            self.writer = SummaryWriter(str(self.folder), purge_step=done + 1)

    def update(self, iteration: Iteration) -> None:
        for name, value in iteration._asdict().items():
            if name != "number" and value is not None:
                with _told():
                    self.writer.add_scalar(f"meta_training/{name}", value, iteration.number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "writer"):
            with _told():
                self.writer.close()


@contextmanager
def _told() -> Iterator[None]:
    """Turn TensorBoard's write errors into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write TensorBoard scalars: {error.strerror or error}; free some space") from error


def _show(value: float, log: bool) -> str:
    return f"{math.exp(min(value, 700.0)) if log else value:.4g}"
