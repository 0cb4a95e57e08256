"""The numbers of an evaluation, one row for each contestant, part and reported step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from metatele.evaluation import Comparison, Entry, Evaluation, Measures
from metatele.evaluation.judge.measures import measures_of
from metatele.evaluation.judge.verdict import best_baseline
from metatele.evaluation.table import has_accuracy, milliseconds
from metatele.report.figures.moves import moves_of
from metatele.report.text import Cell, clean, to_csv
from metatele.task.family import Part

NAN = float("nan")


@dataclass
class Numbers:
    """What an evaluation says in numbers, each computed once.

    Attributes:
        evaluation: what was found.
        title: what the report calls it; unique in a report.
    """

    evaluation: Evaluation
    title: str
    _paired: dict[tuple[str, Part, int], Comparison] = field(default_factory=dict)

    @property
    def reference(self) -> Entry | None:
        """The contestant that differences are taken from; None if it failed."""
        entry = self.evaluation[self.evaluation.reference]
        return entry if entry.runs else None

    @cached_property
    def measures(self) -> Mapping[Part, Mapping[str, Measures]]:
        """{part: {contestant: its measures}}, of those that did not fail."""
        e = self.evaluation
        target = best_baseline(e.entries)
        return {part: measures_of(e.ran, target, part) for part in e.parts} if e.ran else {}

    def paired(self, entry: Entry, part: Part | None = None, step: int | None = None) -> Comparison | None:
        """A contestant against the reference with plain 95% intervals; None for the reference itself, and
        where one of the two failed."""
        e = self.evaluation
        if not entry.runs or self.reference is None or entry.name == e.reference:
            return None
        key = (entry.name, part or e.part, e.last if step is None else step)
        if key not in self._paired:
            self._paired[key] = e.paired(*key)
        return self._paired[key]

    def accuracy(self, entry: Entry, part: Part, step: int) -> float:
        """The mean accuracy; NaN if there is none."""
        if not entry.runs or not has_accuracy(self.evaluation, part):
            return NAN
        return float(entry.accuracies(part, step).mean())


def worst_loss_change(entry: Entry) -> float:
    """The largest relative change of a loss by a teleport; NaN without teleports."""
    moves = moves_of(entry)
    return NAN if moves is None else moves.worst_loss_change


WHO = ("evaluation", "family", "contestant", "kind", "reference", "part", "step")
LOSSES = ("mean", "median", "geometric_mean", "iqm", "seed_spread", "accuracy")
COUNTS = ("diverged", "tasks", "meta_seeds")
COMPARED = (
    "change_percent",
    "change_low",
    "change_high",
    "difference",
    "difference_low",
    "difference_high",
    "win_rate",
)
REACHED = ("log_area", "reached_target", "steps_to_target", "seconds_to_target")
COSTS = ("ms_per_step", "timed_tasks", "memory_bytes", "worst_loss_change_by_teleports")
TUNED = ("lr", "schedule", "failure")
COLUMNS = (*WHO, *LOSSES, *COUNTS, *COMPARED, *REACHED, *COSTS, *TUNED)


def results_csv(all_numbers: Sequence[Numbers]) -> str:
    """Every number of some evaluations as CSV, in full precision; empty where there is none."""
    rows = (
        _row(numbers, entry, part, step)
        for numbers in all_numbers
        for entry in numbers.evaluation.entries
        for part in numbers.evaluation.parts
        for step in numbers.evaluation.settings.report_steps
    )
    return to_csv(COLUMNS, rows)


def _row(numbers: Numbers, entry: Entry, part: Part, step: int) -> list[Cell]:
    e, ran = numbers.evaluation, bool(entry.runs)
    s, m = entry.summary(part, step), numbers.measures.get(part, {}).get(entry.name)
    who = [numbers.title, e.family, entry.name, entry.kind, e.reference, part, step]
    losses = [s.mean, s.median, s.geometric_mean, s.iqm, s.seed_spread, numbers.accuracy(entry, part, step)]
    counts = [entry.diverged if ran else None, e.settings.tasks, entry.meta_seeds]
    reached = [NAN] * 4 if m is None else [m.log_area, m.reached, m.steps_to_target, m.seconds_to_target]
    cost = entry.cost
    costs = [milliseconds(entry), cost.tasks if cost else None, cost.memory if cost else None, worst_loss_change(entry)]
    tuning = [entry.tuning.lr, entry.tuning.schedule] if entry.tuning else [None, None]
    failure = None if entry.failure is None else clean(entry.failure)
    return [*who, *losses, *counts, *_compared(numbers.paired(entry, part, step)), *reached, *costs, *tuning, failure]


def _compared(paired: Comparison | None) -> list[float]:
    if paired is None:
        return [NAN] * 7
    c, d = paired.change, paired.difference
    return [c.value, c.low, c.high, d.value, d.low, d.high, paired.win_rate]
