"""The work of an evaluation, piece by piece: tuning, playing, timing; each piece once, through a journal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metatele.checkpoint import describe
from metatele.errors import ConfigError, OutputError
from metatele.evaluation.contestants.contestant import Contestant
from metatele.evaluation.entry import Entry
from metatele.evaluation.environment import hardware, versions
from metatele.evaluation.play.journal import Journal, code_of, fingerprint
from metatele.evaluation.play.run import Run, play
from metatele.evaluation.play.timing import Cost, clock
from metatele.evaluation.play.turns import Turns
from metatele.evaluation.settings import Progress, Settings
from metatele.optimizer import InnerOptimizer
from metatele.support.messages import first_line
from metatele.task.batch import MetaBatch
from metatele.tuning.step_size import Tuning, tune
from metatele.update import HandDesigned

Work = TypeVar("Work")

Clocked = tuple[NDArray[np.float64], int | None]
Played = dict[str, list[list[Run]]]  # of each contestant's seeds, the runs on one chunk of tasks after the other
GIGABYTE = 2**30
LSTM_FLOATS = 160  # numbers that a coordinate-wise LSTM keeps for each parameter, about
ROW_FLOATS = 8  # numbers that forward and backward pass keep for each row and neuron, about


def choose_chunk(batch: MetaBatch) -> int:
    """How many tasks like these to play together, so that they take about a gigabyte; at least 1."""
    one = [p[0] for p in batch.params.values()]
    neurons = sum(len(p) for p in one if p.dim() > 1)
    rows = max(x.shape[1] for x in batch.inputs.values())
    data = sum(x[0].numel() for x in batch.inputs.values())
    floats = LSTM_FLOATS * sum(p.numel() for p in one) + ROW_FLOATS * rows * neurons + 2 * data
    return max(1, min(1024, GIGABYTE // (4 * floats)))


class Stages:
    """Does the work for each contestant, and notes those that fail. Several processes share the tuning and playing; the
    first one measures the time, while the others wait.

    Args:
        settings: of the evaluation; without a chunk, one is chosen (see `choose_chunk`).
        journal: where finished pieces are kept.
        turns: of the processes that share the work.
        train: tasks of the train split, to tune on.
        progress: called with (what comes next, tasks done, tasks in all), in the first process.
        tunings: see `Options`.

    Attributes:
        settings: with the chunk.
        chunk: tasks that are played together.
        task_seeds: of the test tasks, once they have been played.
    Raises: ConfigError for tunings on other tasks, or for other steps.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        turns: Turns,
        train: MetaBatch,
        progress: Progress | None,
        tunings: Mapping[str, Tuning],
    ) -> None:
        for name, tuning in tunings.items():
            if (tuning.tasks, tuning.steps) != (train.tasks, settings.steps):
                raise ConfigError(
                    f"options.tunings: {name} was tuned on {tuning.tasks} tasks for {tuning.steps} steps, and here are "
                    f"{train.tasks} tasks and {settings.steps} steps; leave it out, and it is tuned"
                )
        self.chunk = settings.chunk or choose_chunk(train)
        self.settings = replace(settings, chunk=self.chunk)
        self.journal, self.turns, self.train, self.tunings = journal, turns, train, tunings
        self.progress = progress if turns.ranks.first else None
        self.task_seeds: tuple[int, ...] = ()
        self._made_with = fingerprint(versions(), hardware(settings.device))
        self._failures: dict[str, tuple[int, str]] = {}  # by name: after how much was done, and what happened
        self._done = self._shown = self._total = 0
        self._sharing = False

    def recording(self, name: str) -> None:
        """Report that the teleports of a checkpoint are being recorded."""
        if self.progress is not None:
            self.progress(f"recording the teleports of {name}", 0, 1)

    def run(self, entrants: Sequence[Contestant], draw: Callable[[Iterable[int]], MetaBatch]) -> list[Entry]:
        """Tune the baselines, then run every contestant on the test tasks, then time them all in turn.

        Args:
            entrants: the contestants, with names of their own.
            draw: gives the test tasks with the indices asked for; called only when all is tuned.
        """
        s = self.settings
        timed = min(s.timing_tasks, s.tasks, self.chunk)
        self._total = self._work(entrants) + len(entrants) * s.timing_repeats * timed
        contestants, runs, self.task_seeds = self._tuned_and_played(entrants, draw)
        costs = self._timed(contestants, draw(range(timed)))
        self._failures = self.turns.ranks.from_first(lambda: self._failures)
        if self.progress is not None:
            self.progress("done", self._total, self._total)
        return [self._entry(c, runs[c.name], costs[c.name]) for c in contestants]

    def run_ahead(self, entrants: Sequence[Contestant], draw: Callable[[Iterable[int]], MetaBatch]) -> None:
        """Tune and play some of the contestants, for an evaluation that will find the pieces in its journal."""
        self._total = self._work(entrants)
        self._tuned_and_played(entrants, draw)

    def _work(self, entrants: Sequence[Contestant]) -> int:
        """How many tasks are tuned on and played."""
        return (sum(c.kind == "baseline" for c in entrants) + sum(len(c.seeds) for c in entrants)) * self.settings.tasks

    def _tuned_and_played(
        self, entrants: Sequence[Contestant], draw: Callable[[Iterable[int]], MetaBatch]
    ) -> tuple[list[Contestant], Played, tuple[int, ...]]:
        """The contestants, with baselines tuned; the runs of all, and the seeds of the tasks."""
        baselines = [c for c in entrants if c.kind == "baseline"]
        tunings = self._shared(lambda: {c.name: self._tuning(c) for c in baselines})
        contestants = [self._tuned(c, tunings.get(c.name)) for c in entrants]
        return contestants, *self._shared(lambda: self._play_all(contestants, draw))

    def _shared(self, stage: Callable[[], Work]) -> Work:
        """What a stage gives, in all processes: each does the pieces that it takes; then the first one goes through all
        of them, which it finds in the journal."""
        ranks = self.turns.ranks
        if ranks.size == 1:
            return stage()
        begin, self._sharing = self._done, True
        stage()
        end, self._done, self._sharing = self._done, begin, False
        for failures in ranks.gather(self._failures):
            for name, failure in failures.items():  # the one that a process alone would have met
                self._failures[name] = min(failure, self._failures.get(name, failure))
        found = ranks.from_first(stage)
        self._done = end
        return found

    def _tuning(self, c: Contestant) -> Tuning | None:
        """The step size and schedule of a baseline that are best on the train tasks; None if it fails."""
        update, teleport, s = c.inner.update, c.inner.teleport, self.settings
        assert isinstance(update, HandDesigned)
        if c.name in self.tunings:
            self._done += s.tasks
            return self.tunings[c.name]
        key = fingerprint("tune", self._code(c.inner), describe(c.inner), _data(self.train), s.steps, self.chunk)
        work = partial(tune, update.rule, self.train, s.steps, teleport, self.chunk)
        return self._attempt(c.name, f"tuning {c.name}", s.tasks, partial(self.journal.once, key, Tuning, work))

    def _tuned(self, c: Contestant, found: Tuning | None) -> Contestant:
        """A baseline with what its tuning has found; others as they are."""
        if found is None:
            return c
        assert isinstance(c.inner.update, HandDesigned)
        update = HandDesigned(c.inner.update.rule, found.lr, found.schedule, self.settings.steps)
        return replace(c, seeds=(InnerOptimizer(update, c.inner.teleport),), tuning=found)

    def _play_all(
        self, contestants: Sequence[Contestant], draw: Callable[[Iterable[int]], MetaBatch]
    ) -> tuple[Played, tuple[int, ...]]:
        """The runs of all on the test tasks, and the seeds of these."""
        runs: Played = {c.name: [[] for _ in c.seeds] for c in contestants}
        task_seeds = list[int]()
        for begin in range(0, self.settings.tasks, self.chunk):
            batch = draw(range(begin, min(begin + self.chunk, self.settings.tasks)))
            task_seeds += batch.seeds.tolist()
            for c in contestants:
                for inner, mine in zip(c.seeds, runs[c.name], strict=True):
                    mine.extend(self._played(c.name, inner, batch))
        return runs, tuple(task_seeds)

    def _played(self, name: str, inner: InnerOptimizer, batch: MetaBatch) -> list[Run]:
        """The run of one seed on one chunk of tasks; nothing if it fails."""
        at = self.settings.recorded
        key = fingerprint("play", self._code(inner), describe(inner), inner, _data(batch), at)
        work = partial(self.journal.once, key, Run, partial(play, inner, batch, at))
        run = self._attempt(name, f"playing {name}", batch.tasks, work)
        return [] if run is None else [run]

    def _timed(self, contestants: Sequence[Contestant], batch: MetaBatch) -> dict[str, Cost | None]:
        """What each contestant's first seed costs, alone and in turn, so that a temporarily busy machine
        does not slow down one contestant only."""
        measured: dict[str, list[Clocked]] = {c.name: [] for c in contestants}
        for repeat in range(self.settings.timing_repeats):
            for c in contestants:
                cost = self.turns.ranks.from_first(partial(self._clocked, c, batch, repeat))
                measured[c.name] += [] if cost is None else [cost]
        return {name: Cost.of(costs, batch.tasks) if costs else None for name, costs in measured.items()}

    def _clocked(self, c: Contestant, batch: MetaBatch, repeat: int) -> Clocked | None:
        """What one run costs; None if it fails."""
        at = self.settings.recorded
        key = fingerprint("time", self._code(c.inner), describe(c.inner), c.inner, _data(batch), at, repeat)
        work = partial(self.journal.once, key, Clocked, partial(clock, c.inner, batch, at))
        return self._attempt(c.name, f"timing {c.name}", batch.tasks, work)

    def _code(self, inner: InnerOptimizer) -> str:
        """A fingerprint of the code, the versions and the hardware that a contestant's numbers are made with."""
        return self._made_with + code_of(self.train.family, inner.update, inner.teleport)

    def _attempt(self, name: str, stage: str, tasks: int, work: Callable[[], Work]) -> Work | None:
        """Do a piece of work for a contestant; None if it fails, or has failed before, or another process does it."""
        piece = self._done
        self._done += tasks
        if name in self._failures or (self._sharing and not self.turns.take(piece)):
            return None
        if self.progress is not None and piece >= self._shown:  # not when what is done is gone through again
            self.progress(stage, piece, self._total)
            self._shown = piece
        try:
            return work()
        except OutputError:  # the disk is full: not the contestant's fault
            raise
        except Exception as error:
            self._failures[name] = piece, f"{type(error).__name__} while {stage.split(' ')[0]}: {first_line(error)}"
            return None

    def _entry(self, c: Contestant, runs: Sequence[Sequence[Run]], cost: Cost | None) -> Entry:
        """What a contestant did, as plain data; without runs if it failed."""
        _, failure = self._failures.get(c.name, (0, None))
        return Entry(
            name=c.name,
            kind=c.kind,
            note=c.note,
            source=c.source,
            control=c.control,
            budgets=c.budgets,
            origins=c.origins,
            tuning=c.tuning,
            parts=c.description,
            moves=c.inner.teleport.moves,
            learned_teleport=c.learned_teleport,
            runs=() if failure else tuple(Run.join(chunks) for chunks in runs),
            cost=None if failure else cost,
            failure=failure,
        )


def _data(batch: MetaBatch) -> str:
    """A fingerprint of tasks: their data, initial weights, initial losses and accuracies."""
    first = batch.take(range(min(2, batch.tasks)))
    x, y = first.rows("inner")
    predictions = first.predict(first.params, x)
    values = [batch.losses(predictions, y)]
    if batch.family.measures_accuracy:
        values.append(batch.accuracies(predictions, y))
    size = batch.family.batch_size
    return fingerprint(batch.params, dict(batch.inputs), dict(batch.targets), batch.seeds, *values, size)
