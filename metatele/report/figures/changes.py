"""Final losses against the reference: a forest plot, and over several evaluations a heat map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metatele.evaluation import Evaluation, Interval
from metatele.evaluation.formats import percent_text
from metatele.evaluation.numbers import NAN
from metatele.report.figures.frames import DIGITS
from metatele.report.text import CsvValue, clean, to_csv
from metatele.support.messages import DASH

STRONGEST = np.log(3.0)  # a ratio of losses at which the colours of the heat map end
VERDICT_SIGNS = {"better": "▲ ", "worse": "▼ "}  # of verdicts


@dataclass(frozen=True)
class Forest:
    """The final loss of every contestant against that of the reference.

    Attributes:
        names, changes: of the contestants, and their changes with 95% intervals.
        relative: whether the changes are in percent; else they are differences.
        reference: name of the contestant that the changes are relative to.
        step: the step at which the losses are compared.
    """

    names: tuple[str, ...]
    changes: tuple[Interval, ...]
    relative: bool
    reference: str
    step: int
    name: str = "change"
    title: str = "Final loss against the reference"

    @property
    def csv(self) -> str:
        """Its numbers."""
        what = "change in percent" if self.relative else "mean difference"
        rows = [(n, c.value, c.low, c.high) for n, c in zip(self.names, self.changes, strict=True)]
        return to_csv(["contestant", what, "low", "high"], rows, DIGITS)


def forest(e: Evaluation) -> Forest | None:
    """The forest plot's numbers; None if there is nothing to compare."""
    compared = {x.name: p for x in e.entries if (p := e.numbers.against_reference(x, e.part, e.last)) is not None}
    if not compared:
        return None
    relative = all(np.isfinite(p.change.value) for p in compared.values())
    changes = tuple(p.change if relative else p.difference for p in compared.values())
    return Forest(tuple(compared), changes, relative, e.reference, e.last)


@dataclass(frozen=True)
class Transfer:
    """Contestants x evaluations: the change against each evaluation's own reference, in percent.

    Attributes:
        contestants, titles: the rows and the columns.
        cells: what each cell says: text, and change in percent (NaN where there is none).
        states: of each cell "changed", "reference", "failed", "absent" or "none".
    """

    contestants: tuple[str, ...]
    titles: tuple[str, ...]
    cells: tuple[tuple[tuple[str, float], ...], ...]
    states: tuple[tuple[str, ...], ...]
    name: str = "transfer"
    title: str = "Change of the final loss, side by side"

    @property
    def csv(self) -> str:
        """Its numbers, one row per cell."""
        rows: list[list[CsvValue]] = []
        for name, cells, states in zip(self.contestants, self.cells, self.states, strict=True):
            for title, (_, value), state in zip(self.titles, cells, states, strict=True):
                rows.append([name, title, value, state])
        return to_csv(["contestant", "evaluation", "change in percent", "state"], rows, DIGITS)


def transfer(evaluations: Sequence[Evaluation]) -> Transfer:
    """The heat map of several evaluations; contestants that share a name share a row."""
    names = tuple(dict.fromkeys(e.name for evaluation in evaluations for e in evaluation.entries))
    table = [[_cell(e, name) for e in evaluations] for name in names]
    return Transfer(
        names,
        tuple(clean(e.called) for e in evaluations),
        tuple(tuple((text, value) for text, value, _ in row) for row in table),
        tuple(tuple(state for _, _, state in row) for row in table),
    )


def _cell(e: Evaluation, name: str) -> tuple[str, float, str]:
    """What the heat map says of a contestant: text, change in percent, state."""
    entry = next((x for x in e.entries if x.name == name), None)
    if entry is None:
        return "", NAN, "absent"
    if not entry.runs:
        return "failed", NAN, "failed"
    if name == e.reference:
        return "reference", NAN, "reference"
    paired = e.numbers.against_reference(entry, e.part, e.last)
    if paired is None or not np.isfinite(paired.change.value):
        return DASH, NAN, "none"
    sign = VERDICT_SIGNS.get(_outcome(e, name), "")
    stopped = f" ({entry.diverged} diverged)" if entry.diverged else ""
    return f"{sign}{percent_text(paired.change.value)}%{stopped}", paired.change.value, "changed"


def _outcome(e: Evaluation, name: str) -> str:
    """The verdict on a contestant against the reference, whichever of the two it is given for."""
    for v in e.verdicts:
        if (v.name, v.against) == (name, e.reference):
            return v.outcome
        if (v.name, v.against) == (e.reference, name):
            return {"better": "worse", "worse": "better"}.get(v.outcome, v.outcome)
    return ""


def strength(change: float) -> float:
    """Where a change in percent stands on the colour scale: -1 (a third of the loss) to 1 (three times)."""
    if change <= -100:
        return -1.0
    return float(np.clip(np.log1p(change / 100) / STRONGEST, -1, 1))
