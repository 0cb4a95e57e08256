"""Several evaluations side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from metatele.evaluation import Evaluation
from metatele.report.figures.changes import strength, transfer
from metatele.report.figures.palette import diverging
from metatele.report.text import as_link, clean
from metatele.support.messages import DASH, number


@dataclass(frozen=True)
class Summed:
    """One evaluation in a line: its title, sizes, reference, counts of verdicts and of troubles."""

    title: str
    tasks: int
    steps: int
    reference: str
    better: int
    worse: int
    open: int
    troubles: str


@dataclass(frozen=True)
class Square:
    """A cell of the heat map: what it says, its state, its colour (empty for none), the final loss."""

    text: str
    state: str
    colour: str
    loss: str


@dataclass(frozen=True)
class Overview:
    """The table and the heat map of several evaluations; `link` has the heat map's numbers as CSV."""

    summed: tuple[Summed, ...]
    contestants: tuple[tuple[str, tuple[Square, ...]], ...]
    link: str


def overview(evaluations: Sequence[Evaluation]) -> Overview:
    """What stands above the evaluations' own sections."""
    heat = transfer(evaluations)
    rows = []
    for name, cells, states in zip(heat.contestants, heat.cells, heat.states, strict=True):
        squares = [
            Square(text, state, diverging(strength(value)) if state == "changed" else "", _loss(e, name))
            for (text, value), state, e in zip(cells, states, evaluations, strict=True)
        ]
        rows.append((clean(name), tuple(squares)))
    return Overview(tuple(map(_summed, evaluations)), tuple(rows), as_link(heat.csv))


def _summed(e: Evaluation) -> Summed:
    """An evaluation in a line."""
    found = Counter(v.outcome for v in e.verdicts)
    failed = sum(not x.runs for x in e.entries)
    diverged = sum(x.diverged > 0 for x in e.ran)
    troubles = [f"{failed} failed"] if failed else []
    troubles += [f"{diverged} diverged on some tasks"] if diverged else []
    undecided = found["not distinguishable"] + found["not decided"]
    s = e.settings
    return Summed(
        clean(e.called),
        s.tasks,
        s.steps,
        clean(e.reference),
        found["better"],
        found["worse"],
        undecided,
        ", ".join(troubles) or "none",
    )


def _loss(e: Evaluation, name: str) -> str:
    entry = next((x for x in e.entries if x.name == name), None)
    if entry is None:
        return ""
    return number(entry.summary(e.part, e.last).mean) if entry.runs else DASH
