"""Verdicts: better, worse or not distinguishable, corrected for how many of them are given.

Each verdict comes from two simultaneous intervals: of the change of the loss, and of the probability of the lower
loss. The first says how much; the second how surely, however far a loss has run away. A contestant is better if
either says so and the other does not say the opposite. Bonferroni's correction is over all intervals of an
evaluation, at a family-wise level of 1%, so that in 99 of 100 evaluations no verdict at all favours one of
two equals. Differences below MARGIN are rounding, whatever the interval. A task on which only one of the
two diverged is at best a tie for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metatele.evaluation.entry import Entry
from metatele.evaluation.formats import shown_change, wins_text
from metatele.evaluation.judge.claims import Claim
from metatele.evaluation.judge.pairing import Pairing, best_baseline
from metatele.evaluation.judge.wins import win_interval
from metatele.evaluation.statistics import NOTHING, Interval
from metatele.support.messages import percent
from metatele.support.seeding import derive_seed
from metatele.task.family import Part

FAMILY_WISE = 0.99  # confidence that all intervals of the verdicts hold at once
SHARE = 0.9  # of the level, for the change; the wins, which are clear where they are needed, get the rest
MARGIN = 0.1  # percent: a smaller change counts as none; if losses are not all positive, percent of their mean size

Judgement = Literal["better", "worse", "not distinguishable", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """A contestant against another, at the last step.

    Attributes:
        name, against: the two.
        outcome: of `name`; "not decided" where there is no interval (one task, a loss that is not finite,
            or one of the two failed).
        change: ratio of the geometric means of the losses minus 1, in percent, with the simultaneous
            interval; of losses that are not all positive, the mean difference.
        relative: whether `change` is in percent.
        wins: probability that `name` has the lower loss, over tasks and seeds, with its simultaneous interval.
        tasks: how many tasks they were compared on.
        meta_seeds: seeds of the two recipes (1 for what is not meta-trained).
    """

    name: str
    against: str
    outcome: Judgement
    change: Interval
    relative: bool
    wins: Interval
    tasks: int
    meta_seeds: tuple[int, int]

    @property
    def win_rate(self) -> float:
        """Fraction of tasks, and pairs of seeds, on which `name` has the lower loss; ties count half."""
        return self.wins.value

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.outcome == "not decided":
            return f"{self.name} against {self.against}: not decided, there is no interval."
        verb = {"better": "is better than", "worse": "is worse than"}.get(self.outcome, "is not distinguishable from")
        unit, write = ("%", percent) if self.relative else ("", "{:+.3g}".format)
        value, low, high = (write(x) for x in (self.change.value, self.change.low, self.change.high))
        text = (
            f"{self.name} {verb} {self.against}: {value}{unit} [{low}, {high}], lower loss on "
            f"{wins_text(self.wins)} of {self.tasks} tasks"
        )
        if max(self.meta_seeds) > 1:
            text += f", {self.meta_seeds[0]} against {self.meta_seeds[1]} meta-seeds"
        return text + "."


def verdicts_of(
    entries: Sequence[Entry], claims: Sequence[Claim], reference: str, part: Part, step: int, seed: int
) -> list[Verdict]:
    """Every contestant against the reference, every claim's own comparisons, and every checkpoint against
    the baseline that was best on its tuning tasks; each pair once."""
    known = {e.name: e for e in entries}
    pairs: dict[tuple[str, str], None] = {}  # in order, each once
    for claim in claims:
        for other in claim.against:
            pairs[claim.name, other] = None
    best = best_baseline(entries)
    for e in entries:
        if best is not None and e.kind == "checkpoint":
            pairs.setdefault((e.name, best.name))
    for e in entries:
        if e.name != reference and (reference, e.name) not in pairs:
            pairs.setdefault((e.name, reference))
    level = (1 - FAMILY_WISE) / max(1, len(pairs))
    return [_verdict(entries, known[name], known[other], part, step, level, seed) for name, other in pairs]


def conclusion_of(claim: Claim, verdicts: Sequence[Verdict]) -> str:
    """What the verdicts on a claim say together, in a sentence: does the learned teleport help?"""
    own = [v for v in verdicts if v.name == claim.name and v.against in claim.against]
    better = [v.against for v in own if v.outcome == "better"]
    others = [v for v in own if v.outcome != "better"]
    twin = next((v for v in own if v.against == claim.twin), None)
    if twin is not None and twin.outcome != "better":
        verb = {"worse": "worse than", "not decided": "not compared with"}.get(twin.outcome, "not distinguishable from")
        return f"Not shown: {claim.name} is {verb} its update meta-trained without teleports."
    if claim.missing:
        return f"Not shown: the comparison is incomplete; {claim.name} is better than {len(better)} of {len(own)}."
    if others:
        names = ", ".join(repr(v.against) for v in others)
        return f"It helps its update, but {claim.name} is not better than {names}."
    return f"Yes: {claim.name} is better than all {len(own)} that it is compared with."


def _verdict(
    entries: Sequence[Entry], entry: Entry, other: Entry, part: Part, step: int, level: float, seed: int
) -> Verdict:
    """The verdict on one contestant against another, at a level (the probability of error) for its two intervals."""
    seeds = entry.meta_seeds, other.meta_seeds
    if not entry.runs or not other.runs:
        return Verdict(entry.name, other.name, "not decided", NOTHING, True, NOTHING, 0, seeds)
    rng = np.random.default_rng(derive_seed("verdict", seed))
    pairing = Pairing.of(entries, entry, other, part, step)
    paired = pairing.compare(rng, 1 - SHARE * level)
    change, relative = shown_change(paired)
    unit = 1.0 if relative else (np.abs(pairing.one.losses).mean() + np.abs(pairing.other.losses).mean()) / 200
    scale = np.log if relative else np.asarray
    tie = np.log1p(MARGIN / 100) if relative else MARGIN * unit
    sides = scale(pairing.one.losses), scale(pairing.other.losses)
    wins = win_interval(*sides, float(tie), 1 - (1 - SHARE) * level, pairing.pool.map(scale))
    outcome = _judge(change, MARGIN * unit, wins)
    return Verdict(entry.name, other.name, outcome, change, relative, wins, pairing.one.losses.shape[1], seeds)


def _judge(change: Interval, margin: float, wins: Interval) -> Judgement:
    """What the change or the wins say, unless the other says the opposite."""
    if np.isnan(change.low) or np.isnan(change.high):
        return "not decided"
    better, worse = change.high < -margin or wins.low > 0.5, change.low > margin or wins.high < 0.5
    if better == worse:
        return "not distinguishable"
    return "better" if better else "worse"
