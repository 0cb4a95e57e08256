"""How the losses of two contestants are compared on the same tasks.

A run has run away if it diverged, or ended above its initial loss. How far it went is not informative: with three
meta-seeds of which one has run away by five decades, the interval of the mean log ratio covers every outcome, although
the recipe is plainly the worse one. So the end of an interval that speaks against a recipe is computed with several
substitutes for the losses of its run-aways, from those of its other runs on the same tasks up to the initial loss, and
the clearest result is taken. No finite loss counts more clearly against a recipe than a divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metatele.evaluation.entry import Entry
from metatele.evaluation.seeds import SeedPool, Values
from metatele.evaluation.statistics import CONFIDENCE, Comparison, Interval, compare
from metatele.task.family import Part

FAR = 10.0  # times the initial loss: a larger loss is as bad as this one
BETWEEN = (0.0, 0.03, 0.1, 0.3, 1.0)  # where between the two ends the losses of run-aways are tried


@dataclass(frozen=True)
class Side:
    """The losses of one of two contestants, [K, B].

    Attributes:
        losses: as measured, but those of diverged runs are at least the other contestant's worst.
        drawn_in: those of run-aways drawn in to the worst of the other runs on the same task (see `_drawn_in`).
        bounded: those of run-aways reduced to the initial loss (see `_bounded`).
    """

    losses: Values
    drawn_in: Values
    bounded: Values

    @staticmethod
    def of(entry: Entry, other: Entry, part: Part, step: int) -> "Side":
        """The side of a contestant against another, both of which ran."""
        losses, _ = paired_losses(entry, other, part, step)
        return Side(losses, _drawn_in(entry, other, part, step), _bounded(entry, part, step))

    @property
    def tempered(self) -> list[Values]:
        """The losses with run-aways drawn in less and less; only the losses themselves if there are none."""
        ends = self.drawn_in, self.bounded
        if all(np.array_equal(end, self.losses) for end in ends):
            return [self.losses]
        if all((end > 0).all() for end in ends):
            return [self.drawn_in ** (1 - t) * self.bounded**t for t in BETWEEN]
        return [(1 - t) * self.drawn_in + t * self.bounded for t in BETWEEN]


@dataclass(frozen=True)
class Pairing:
    """Two contestants at one step, and what other recipes tell about the spread between seeds."""

    one: Side
    other: Side
    pool: SeedPool

    @staticmethod
    def of(entries: Sequence[Entry], entry: Entry, other: Entry, part: Part, step: int) -> "Pairing":
        """Two of the contestants of an evaluation, which both ran."""
        sides = Side.of(entry, other, part, step), Side.of(other, entry, part, step)
        return Pairing(*sides, pool_of(entries, entry, other, part, step))

    def compare(self, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Comparison:
        """The one against the other. The upper end of an interval says by how much the one is better at least, so the
        other's run-aways are tempered there, and its own at the lower end."""
        a, b = self.one.losses, self.other.losses
        plain = compare(a, b, rng, confidence, self.pool)
        uppers = [compare(a, x, rng, confidence, self.pool) for x in self.other.tempered if x is not b] or [plain]
        lowers = [compare(x, b, rng, confidence, self.pool) for x in self.one.tempered if x is not a] or [plain]
        return Comparison(
            _from_ends(plain.difference, [c.difference for c in lowers], [c.difference for c in uppers]),
            _from_ends(plain.change, [c.change for c in lowers], [c.change for c in uppers]),
            plain.win_rate,
        )


def _from_ends(plain: Interval, lowers: Sequence[Interval], uppers: Sequence[Interval]) -> Interval:
    """The value of one interval with the tightest ends of others."""
    # Numpy's, because Python's would drop a NaN: one task has no interval.
    return Interval(plain.value, float(np.max([i.low for i in lowers])), float(np.min([i.high for i in uppers])))


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
    a_fell, b_fell = (_fell(e, step) for e in (entry, other))
    a_floor, b_floor = _worst(b, b_fell), _worst(a, a_fell)
    return np.where(a_fell, np.maximum(a, a_floor), a), np.where(b_fell, np.maximum(b, b_floor), b)


def _drawn_in(entry: Entry, other: Entry, part: Part, step: int) -> Values:
    """The losses of a contestant, [K, B], with those that have run away no worse than the worst of its and the other's
    runs on the task that have not. Where all of its own have, they are bounded (see `_bounded`), but no better than
    the other's if they diverged."""
    losses, fell, away = _bounded(entry, part, step), _fell(entry, step), _away(entry, part, step)
    own, theirs = _worst(entry.losses(part, step), away), _worst(other.losses(part, step), _fell(other, step))
    alone = np.where(fell, np.maximum(losses, theirs), losses)
    inside = np.where(fell, np.maximum(own, theirs), np.minimum(losses, np.maximum(own, theirs)))
    return np.where(away, np.where(np.isfinite(own), inside, alone), losses)


def _bounded(entry: Entry, part: Part, step: int) -> Values:
    """The losses of a contestant, [K, B]: those that have run away count with the initial loss; where all of its own
    have, those that did not diverge with up to FAR times that: losses on unseen rows may genuinely rise."""
    losses, first, away = entry.losses(part, step), entry.losses(part, 0), _away(entry, part, step)
    all_away = away.all(0) & ~_fell(entry, step)
    return np.where(away, np.minimum(losses, np.where(all_away, first + (FAR - 1) * np.abs(first), first)), losses)


def _away(entry: Entry, part: Part, step: int) -> NDArray[np.bool_]:
    """Which runs have run away, [K, B]."""
    return _fell(entry, step) | (entry.losses(part, step) > entry.losses(part, 0))


def _fell(entry: Entry, step: int) -> NDArray[np.bool_]:
    """Which runs had diverged before a step, [K, B]."""
    return np.stack([run.stopped_at < step for run in entry.runs])


def _worst(losses: Values, without: NDArray[np.bool_]) -> Values:
    """The largest loss on each task, [B], leaving some runs out; -inf where that leaves none."""
    return np.asarray(np.where(without, -np.inf, losses).max(0))


def pool_of(entries: Sequence[Entry], entry: Entry, other: Entry, part: Part, step: int) -> SeedPool:
    """The recipes from which the spread between the seeds of two others is pooled: the other checkpoints of the
    evaluation with several seeds; only those with the same seeds if the two share theirs."""
    mine = _seeds(entry)
    paired = mine is not None and mine == _seeds(other)
    recipes = [
        _bounded(e, part, step)
        for e in entries
        if e.name not in (entry.name, other.name)
        and e.kind == "checkpoint"
        and len(e.runs) > 1
        and (not paired or _seeds(e) == mine)
    ]
    sides = [_bounded(e, part, step) for e in (entry, other)]
    if all((x > 0).all() for x in sides):
        recipes = [r for r in recipes if (r > 0).all()]
    # A recipe that only repeats another one tells nothing new.
    new = [r for i, r in enumerate(recipes) if not any(np.array_equal(r, s) for s in (*recipes[:i], *sides))]
    return SeedPool(tuple(new), paired)


def _seeds(entry: Entry) -> tuple[int, ...] | None:
    """The meta-training seeds of a recipe with several; None if they are not known."""
    seeds = tuple(b.seed for b in entry.budgets if b is not None)
    return seeds if 1 < len(seeds) == len(entry.runs) else None
