"""Verdicts: better, worse or not distinguishable, corrected for how many of them are given.

Each verdict comes from a simultaneous interval: Bonferroni's correction over all verdicts of an
evaluation, at a family-wise level of 1%, so that in 99 of 100 evaluations no verdict at all favours one of
two equals. Differences below MARGIN are rounding, whatever the interval. A task on which only one of the
two diverged is at best a tie for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metatele.evaluation.entry import Entry
from metatele.evaluation.judge.claims import Claim
from metatele.evaluation.judge.pairing import best_baseline, paired_losses, pool_of
from metatele.evaluation.statistics import Interval, compare
from metatele.support.messages import percent
from metatele.support.seeding import derive_seed
from metatele.task.family import Part

FAMILY_WISE = 0.99  # confidence that all intervals of the verdicts hold at once
MARGIN = 0.1  # percent: a smaller change is no change; of losses that are not all positive, of their mean size

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
        win_rate: fraction of tasks on which `name` has the lower loss.
        tasks: how many tasks they were compared on.
        meta_seeds: seeds of the two recipes (1 for what is not meta-trained).
    """

    name: str
    against: str
    outcome: Judgement
    change: Interval
    relative: bool
    win_rate: float
    tasks: int
    meta_seeds: tuple[int, int]

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
            f"{100 * self.win_rate:.0f}% of {self.tasks} tasks"
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
    confidence = 1 - (1 - FAMILY_WISE) / max(1, len(pairs))
    return [_verdict(entries, known[name], known[other], part, step, confidence, seed) for name, other in pairs]


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
    return f"Yes: {claim.name} is better than all {len(own)} that it is held against."


def _verdict(
    entries: Sequence[Entry],
    entry: Entry,
    other: Entry,
    part: Part,
    step: int,
    confidence: float,
    seed: int,
) -> Verdict:
    none, seeds = Interval(np.nan, np.nan, np.nan), (entry.meta_seeds, other.meta_seeds)
    if not entry.runs or not other.runs:
        return Verdict(entry.name, other.name, "not decided", none, True, np.nan, 0, seeds)
    rng = np.random.default_rng(derive_seed("verdict", seed))
    losses, others = paired_losses(entry, other, part, step)
    paired = compare(losses, others, rng, confidence, pool_of(entries, entry, other, part, step))
    relative = bool(np.isfinite(paired.change.value))
    change = paired.change if relative else paired.difference
    unit = 1.0 if relative else (np.abs(losses).mean() + np.abs(others).mean()) / 200
    outcome = _outcome(change, MARGIN * unit)
    return Verdict(entry.name, other.name, outcome, change, relative, paired.win_rate, losses.shape[1], seeds)


def _outcome(change: Interval, margin: float) -> Judgement:
    if np.isnan(change.low) or np.isnan(change.high):
        return "not decided"
    if change.high < -margin:
        return "better"
    return "worse" if change.low > margin else "not distinguishable"
