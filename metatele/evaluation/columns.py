"""The columns of an evaluation's results: one definition of each for the terminal, the page and the CSV file.

A column has a key in results.csv, a meaning, a value and, where people read it, headings and a way to write it. Lists
of keys say which columns are shown where, and in which order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from metatele.evaluation.entry import Entry
from metatele.evaluation.formats import interval_text, shown_change
from metatele.evaluation.judge.measures import Measures
from metatele.evaluation.numbers import Numbers
from metatele.evaluation.record import Record
from metatele.evaluation.statistics import NOTHING, Comparison, Interval, Summary
from metatele.support.messages import DASH, fraction, number, percent
from metatele.task.family import Part

Thing = TypeVar("Thing")
Value = str | int | float | None  # None and NaN: there is none


@dataclass(frozen=True)
class At:
    """What a value is about: a contestant, a part of the rows, a step."""

    numbers: Numbers
    entry: Entry
    part: Part
    step: int

    @property
    def record(self) -> Record:
        """What was measured."""
        return self.numbers.record

    @property
    def is_reference(self) -> bool:
        """Whether it is the contestant that differences are taken from."""
        return self.entry.name == self.record.reference

    @cached_property
    def summary(self) -> Summary:
        """The losses."""
        return self.entry.summary(self.part, self.step)

    @property
    def paired(self) -> Comparison | None:
        """Against the reference; None where there is no comparison."""
        return self.numbers.against_reference(self.entry, self.part, self.step)

    @property
    def measures(self) -> Measures | None:
        """The measures of the whole curves; None if the contestant failed."""
        return self.numbers.measures(self.part).get(self.entry.name)


@dataclass(frozen=True)
class Column:
    """One number, or word, about a contestant.

    Attributes:
        key: its name in results.csv.
        meaning: what it is; "{step}" here and in the headings stands for the step.
        value: what stands in the CSV file, and what the page sorts by.
        write: turns a value that is not missing into text.
        heading, brief: on the page and in the terminal, where it is shown.
        every_step: whether it is shown at each reported step, else at the last.
        applies: whether it says anything about the losses on a part.
    """

    key: str
    meaning: str
    value: Callable[[At], Value]
    write: Callable[[Any], str] = number
    heading: str = ""
    brief: str = ""
    every_step: bool = False
    applies: Callable[[Record, Part], bool] = lambda record, part: True

    def steps(self, record: Record) -> Sequence[int]:
        """The steps at which it is shown."""
        return record.settings.reported if self.every_step else (record.last,)

    def text(self, at: At) -> str:
        """The value on the page."""
        value = self.value(at)
        return DASH if value is None or value != value else self.write(value)

    def brief_text(self, at: At) -> str:
        """The value in the terminal."""
        return self.text(at)

    def sort(self, at: At) -> Value:
        """What the page sorts by."""
        return self.value(at)


class Change(Column):
    """The change of the loss with its interval, or the mean difference where there is no relative change."""

    def text(self, at: At) -> str:
        if at.is_reference:
            return "reference"
        return DASH if at.paired is None else interval_text(*shown_change(at.paired))

    def brief_text(self, at: At) -> str:
        if at.is_reference:
            return "ref."
        change = NOTHING if at.paired is None else at.paired.change
        if math.isnan(change.value):
            return DASH
        return f"{percent(change.value)}%\n[{percent(change.low)},{percent(change.high)}]"

    def sort(self, at: At) -> Value:
        if at.is_reference:
            return 0
        return None if at.paired is None else shown_change(at.paired)[0].value


class Wins(Column):
    """The win rate, of which the reference has none."""

    def brief_text(self, at: At) -> str:
        return "" if at.is_reference else self.text(at)


def columns_named(keys: Sequence[str], record: Record, part: Part) -> list[tuple[Column, int]]:
    """The columns of some keys that say something about the losses on a part, each with the step it is shown at."""
    chosen = [COLUMNS[key] for key in keys if COLUMNS[key].applies(record, part)]
    return [(column, step) for column in chosen for step in column.steps(record)]


def _given(thing: Thing | None, value: Callable[[Thing], Value]) -> Value:
    """The value of a thing, or None if there is no such thing."""
    return None if thing is None else value(thing)


def _change(at: At) -> Interval:
    return NOTHING if at.paired is None else at.paired.change


def _difference(at: At) -> Interval:
    return NOTHING if at.paired is None else at.paired.difference


def _worst_loss_change(at: At) -> float:
    moves = at.entry.all_moves
    return math.nan if moves is None else moves.worst_loss_change


def _reached(steps_or_seconds: float) -> str:
    return "never" if math.isinf(steps_or_seconds) else number(steps_or_seconds)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


_ALL = (
    Column("evaluation", "title of the evaluation", lambda at: at.record.called),
    Column("family", "the task family", lambda at: at.record.family),
    Column("contestant", "name of the contestant", lambda at: at.entry.name),
    Column("kind", "checkpoint, control or baseline", lambda at: at.entry.kind),
    Column("reference", "the contestant that differences are taken from", lambda at: at.record.reference),
    Column("part", "the rows that the losses are on: inner, meta or test", lambda at: at.part),
    Column("step", "the inner step", lambda at: at.step),
    Column(
        "mean",
        "mean loss over tasks at step {step}",
        lambda at: at.summary.mean,
        heading="mean @{step}",
        brief="mean\n@{step}",
        every_step=True,
    ),
    Column(
        "median",
        "median loss at step {step}",
        lambda at: at.summary.median,
        heading="median @{step}",
        brief="median\n@{step}",
    ),
    Column(
        "geometric_mean",
        "geometric mean of the loss at step {step}",
        lambda at: at.summary.geometric_mean,
        heading="geo. mean @{step}",
    ),
    Column("iqm", "interquartile mean of the loss at step {step}", lambda at: at.summary.iqm, heading="IQM @{step}"),
    Column(
        "seed_spread",
        "standard deviation over meta-seeds of the log geometric mean loss (of the mean, if a loss is not positive)",
        lambda at: at.summary.seed_spread,
    ),
    Column(
        "accuracy",
        "mean over tasks; one that diverged counts with its last or its first, whichever is lower",
        lambda at: at.numbers.accuracy(at.entry, at.part, at.step),
        partial(fraction, places=1),
        heading="accuracy @{step}",
        brief="acc.\n@{step}",
        applies=lambda record, part: record.has_accuracy(part),
    ),
    Column(
        "diverged",
        "tasks, over all meta-seeds, that did not run all steps",
        lambda at: at.entry.diverged if at.entry.runs else None,
        str,
        heading="diverged",
    ),
    Column("tasks", "held-out tasks", lambda at: at.record.settings.tasks),
    Column("meta_seeds", "meta-training seeds of the recipe", lambda at: at.entry.meta_seeds),
    Change(
        "change_percent",
        "ratio of geometric means to the reference's, minus 1, with its own 95% interval",
        lambda at: _change(at).value,
        heading="change @{step}",
        brief="change\n@{step}",
    ),
    Column("change_low", "lower end of the 95% interval of the change", lambda at: _change(at).low),
    Column("change_high", "upper end of the 95% interval of the change", lambda at: _change(at).high),
    Column("difference", "mean difference of the loss from the reference's", lambda at: _difference(at).value),
    Column("difference_low", "lower end of the 95% interval of the difference", lambda at: _difference(at).low),
    Column("difference_high", "upper end of the 95% interval of the difference", lambda at: _difference(at).high),
    Wins(
        "win_rate",
        "tasks with a lower loss than the reference",
        lambda at: None if at.paired is None else at.paired.win_rate,
        fraction,
        heading="wins",
        brief="wins",
    ),
    Column(
        "log_area",
        "mean of the log loss over the whole trajectory: lower is faster",
        lambda at: _given(at.measures, lambda m: m.log_area),
        heading="log area",
    ),
    Column(
        "reached_target",
        "tasks that reach the best baseline's final loss",
        lambda at: _given(at.measures, lambda m: m.reached),
        fraction,
        heading="reached",
    ),
    Column(
        "steps_to_target",
        "median number of steps until they reach it",
        lambda at: _given(at.measures, lambda m: m.steps_to_target),
        _reached,
        heading="steps to it",
    ),
    Column(
        "seconds_to_target",
        "median wall-clock time until they reach it",
        lambda at: _given(at.measures, lambda m: m.seconds_to_target),
        _reached,
        heading="seconds to it",
    ),
    Column(
        "ms_per_step",
        "wall-clock of one step of the tasks that were timed together, in milliseconds",
        lambda at: at.entry.milliseconds,
        partial(number, digits=2),
        heading="ms/step",
        brief="ms/\nstep",
    ),
    Column(
        "timed_tasks",
        "tasks that were timed together",
        lambda at: _given(at.entry.cost, lambda c: c.tasks),
    ),
    Column(
        "memory_bytes",
        "largest growth of the process's memory",
        lambda at: _given(at.entry.cost, lambda c: c.memory),
        _megabytes,
        heading="memory",
    ),
    Column(
        "worst_loss_change_by_teleports",
        "largest relative change of a loss by a teleport",
        _worst_loss_change,
        partial(number, digits=2),
        heading="loss moved",
    ),
    Column("lr", "step size of a baseline", lambda at: _given(at.entry.tuning, lambda t: t.lr), heading="step size"),
    Column(
        "schedule",
        "tuned step-size schedule of a baseline",
        lambda at: _given(at.entry.tuning, lambda t: t.schedule),
        str,
        heading="schedule",
    ),
    Column("failure", "the error that ended it", lambda at: at.entry.failure),
)
COLUMNS: Mapping[str, Column] = {column.key: column for column in _ALL}
"""Every column by its key, in the order of results.csv."""

IN_TERMINAL = ("mean", "median", "accuracy", "change_percent", "win_rate", "ms_per_step")
ON_PAGE = ("change_percent", "win_rate", "mean", "accuracy", "ms_per_step", "diverged")
ON_PAGE_IF_ASKED = (
    "geometric_mean",
    "median",
    "iqm",
    "log_area",
    "reached_target",
    "steps_to_target",
    "seconds_to_target",
    "memory_bytes",
    "worst_loss_change_by_teleports",
    "lr",
    "schedule",
)
