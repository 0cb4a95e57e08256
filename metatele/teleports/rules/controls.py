"""The closed-form rules as controls: which there are, and at which steps they act.

The rules are looked up here: by `metatele compare`, which meta-trains them, by claims, which need them as controls,
and by the report, which draws each rule in a colour of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from metatele.symmetry import Kind
from metatele.teleports.rules.base import CanonicalTeleport

When = Literal["at step 0", "at every step"]
WHEN: tuple[When, ...] = get_args(When)
_SCHEDULES: Mapping[When, tuple[int, int | None, int]] = {"at step 0": (0, 0, 1), "at every step": (0, None, 1)}
_ENDINGS: Mapping[When, str] = {"at step 0": "", "at every step": "-every"}


@dataclass(frozen=True)
class Rule:
    """A closed-form rule at the steps at which a learned teleport is held against it.

    Attributes:
        kind: the rule's class.
        when: at which steps it acts.
        name: what it is called on the command line, such as "white-every".
    """

    kind: type[CanonicalTeleport]
    when: When
    name: str

    def make(self, symmetry: Kind) -> CanonicalTeleport:
        """The rule on a network's group of a kind."""
        first, last, every = _SCHEDULES[self.when]
        return self.kind(first=first, last=last, every=every, symmetry=symmetry)


def rules() -> list[Rule]:
    """Every closed-form rule that has a name, at step 0 and at every step."""
    return [
        Rule(kind, when, name + ending)
        for name, kind in CanonicalTeleport.named.items()
        for when, ending in _ENDINGS.items()
    ]


def rule_named(kind: str) -> type[CanonicalTeleport] | None:
    """The closed-form rule whose class has this name, or None."""
    return next((c for c in CanonicalTeleport.named.values() if c.__name__ == kind), None)


def when_of(arguments: Mapping[str, Any]) -> When | None:
    """When a teleport with these arguments acts; None if it does so at other steps."""
    first, last, every = (arguments.get(k) for k in ("first", "last", "every"))
    if (first, last) == (0, 0):
        return "at step 0"
    return "at every step" if (first, last, every) == (0, None, 1) else None
