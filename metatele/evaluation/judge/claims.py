"""What a learned teleport must be compared with before a claim about it is complete, and whether it was.

A gain over the same update without teleports proves little: closed-form rules give most of such gains
without learning, and unequal meta-training was once mistaken for a gain. So a claim is complete only if the
same update was meta-trained, at equal budget, with each rule that the network allows, at step 0 and at every
step; and only if the controls that replay the teleports without their feedback took part too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metatele.evaluation.contestants.contestant import Control
from metatele.evaluation.entry import Entry
from metatele.teleports.rules import WHEN, When, rule_named, when_of

OWN: Mapping[Control, str] = {
    "mean schedule": "the mean schedule of its teleports",
    "random": "random teleports of the same size",
}
ENOUGH_SEEDS = 3  # meta-seeds: a single run says as much about luck as about the recipe
SIZES = ("shapes",)  # arguments that say what a part was fitted to


@dataclass(frozen=True)
class Claim:
    """A learned teleport and the contestants that it must be compared with.

    Attributes:
        name: the checkpoint with the learned teleport.
        twin: the same update meta-trained without teleports; None if it did not take part.
        against: every contestant that it is compared with: the twin, the rules, its own controls.
        missing: what is lacking, in words; nothing if the claim is complete.
    """

    name: str
    twin: str | None
    against: tuple[str, ...]
    missing: tuple[str, ...]


def claims_of(entries: Sequence[Entry], applicable: Sequence[str]) -> list[Claim]:
    """One claim for each checkpoint whose teleport is learned.

    Args:
        entries: all contestants; those that failed count as absent.
        applicable: the class names of the closed-form rules that can act on the network.
    """
    ran = [e for e in entries if e.runs]
    return [_claim(e, ran, applicable) for e in ran if e.kind == "checkpoint" and e.learned_teleport]


def _claim(entry: Entry, entries: Sequence[Entry], applicable: Sequence[str]) -> Claim:
    """The claim of one learned teleport, among the contestants that ran."""
    same = [e for e in entries if e.kind == "checkpoint" and e is not entry and _update(e) == _update(entry)]
    twin = next((e for e in same if not e.moves), None)
    missing = [] if twin is not None else ["the same update meta-trained without teleports"]
    rules = {_rule(e): e for e in same}
    missing += [f"{rule} {when}" for rule in applicable for when in WHEN if (rule, when) not in rules]
    held = [e for e in same if e is twin or _rule(e) is not None]
    missing += [text for e in held for text in _unequal(entry, e)]
    missing += [
        f"{ENOUGH_SEEDS} meta-seeds of {e.name!r}, not {e.meta_seeds}"
        for e in [entry, *held]
        if e.meta_seeds < ENOUGH_SEEDS
    ]
    own = [e for e in entries if e.source == entry.name]
    missing += [text for control, text in OWN.items() if control not in [e.control for e in own]]
    against = tuple(e.name for e in [*held, *own])
    return Claim(entry.name, None if twin is None else twin.name, against, tuple(missing))


def _update(entry: Entry) -> tuple[str, Any]:
    """The recipe of the update: its class and arguments but for what it was fitted to."""
    spec = entry.parts["update"]
    return spec["class"], {k: v for k, v in spec["arguments"].items() if k not in SIZES}


def _rule(entry: Entry) -> tuple[str, When] | None:
    """Which rule it was meta-trained with, and when that acts; None for another teleport, or a rule at other steps."""
    spec = entry.parts["teleport"]
    when = when_of(spec["arguments"])
    return None if rule_named(spec["class"]) is None or when is None else (spec["class"], when)


def _unequal(entry: Entry, other: Entry) -> Iterator[str]:
    """The reasons, if any, why the two do not count as equally meta-trained."""
    mine, theirs = (e.budgets[0] if e.budgets else None for e in (entry, other))
    if mine is None or theirs is None:
        who = entry.name if mine is None else other.name
        yield f"the record of the meta-training of {who!r}"
        return
    differs = mine.differs_from(theirs)
    if differs:
        yield f"an equal budget for {other.name!r} ({differs})"
