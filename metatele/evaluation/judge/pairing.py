"""Whose losses are compared with whose, and what the other recipes tell about the spread between seeds."""

from collections.abc import Sequence

import numpy as np

from metatele.evaluation.entry import Entry
from metatele.evaluation.seeds import SeedPool, Values
from metatele.task.family import Part


def best_baseline(entries: Sequence[Entry]) -> Entry | None:
    """The baseline with the lowest score on its tuning tasks: chosen without a look at the test tasks."""
    tuned = [(e.tuning, e) for e in entries if e.tuning is not None and e.runs]
    alike = all(t.geometric for t, _ in tuned)
    return min(((t.score if alike else t.mean, i, e) for i, (t, e) in enumerate(tuned)), default=(0, 0, None))[2]


def paired_losses(entry: Entry, other: Entry, part: Part, step: int) -> tuple[Values, Values]:
    """The losses of two contestants at a recorded step, [K, B] and [L, B]. Where a run of one has
    diverged it has at least the largest loss of the other's runs that have not: a test loss that rises as
    training goes on would otherwise favour those that diverge early."""
    a, b = (e.losses(part, step) for e in (entry, other))
    a_fell, b_fell = (np.stack([run.stopped_at < step for run in e.runs]) for e in (entry, other))
    a_floor, b_floor = (np.where(fell, -np.inf, x).max(0) for x, fell in ((b, b_fell), (a, a_fell)))
    return np.where(a_fell, np.maximum(a, a_floor), a), np.where(b_fell, np.maximum(b, b_floor), b)


def pool_of(entries: Sequence[Entry], entry: Entry, other: Entry, part: Part, step: int) -> SeedPool:
    """The recipes of an evaluation that tell about the spread between the seeds of two of them: its other
    checkpoints with several seeds, those of the same seeds if the two share theirs."""
    mine = _seeds(entry)
    paired = mine is not None and mine == _seeds(other)
    recipes = [
        e.losses(part, step)
        for e in entries
        if e.name not in (entry.name, other.name)
        and e.kind == "checkpoint"
        and len(e.runs) > 1
        and (not paired or _seeds(e) == mine)
    ]
    sides = (entry.losses(part, step), other.losses(part, step))
    if all((x > 0).all() for x in sides):
        recipes = [r for r in recipes if (r > 0).all()]
    # A recipe that only repeats another one tells nothing new.
    new = [r for i, r in enumerate(recipes) if not any(np.array_equal(r, s) for s in (*recipes[:i], *sides))]
    return SeedPool(tuple(new), paired)


def _seeds(entry: Entry) -> tuple[int, ...] | None:
    """The meta-training seeds of a recipe with several; None if they are not known."""
    seeds = tuple(b.seed for b in entry.budgets if b is not None)
    return seeds if 1 < len(seeds) == len(entry.runs) else None
