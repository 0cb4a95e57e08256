"""The verdicts of an evaluation as the page presents them: claims about learned teleports first."""

from dataclasses import dataclass

import numpy as np

from metatele.evaluation import Evaluation, Verdict
from metatele.evaluation.formats import interval_text, wins_text
from metatele.evaluation.judge.verdict import Judgement
from metatele.report.text import clean

ICONS: dict[Judgement, str] = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "not decided": "?"}


@dataclass(frozen=True)
class Sentence:
    """One verdict: its outcome in a word and a sign, and in numbers who was compared with whom."""

    outcome: Judgement
    icon: str
    text: str


@dataclass(frozen=True)
class Claimed:
    """A claim about a learned teleport: whose, what follows from the verdicts, what it lacks to be complete, and
    the verdicts on it."""

    name: str
    conclusion: str
    missing: tuple[str, ...]
    sentences: tuple[Sentence, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


@dataclass(frozen=True)
class Judged:
    """All verdicts: those on claims, and the others."""

    claims: tuple[Claimed, ...]
    others: tuple[Sentence, ...]

    @property
    def decided(self) -> tuple[Sentence, ...]:
        """Those of the others that say better or worse."""
        return tuple(s for s in self.others if s.outcome in ("better", "worse"))

    @property
    def undecided(self) -> tuple[Sentence, ...]:
        """Those of the others that say neither."""
        return tuple(s for s in self.others if s.outcome not in ("better", "worse"))


def judged(evaluation: Evaluation) -> Judged:
    """The verdicts, each once."""
    left = list(evaluation.verdicts)
    claims = []
    for claim in evaluation.claims:
        own = [v for v in left if v.name == claim.name and v.against in claim.against]
        left = [v for v in left if v not in own]
        conclusion = clean(evaluation.conclusions[claim.name])
        missing = tuple(map(clean, claim.missing))
        claims.append(Claimed(clean(claim.name), conclusion, missing, tuple(map(_sentence, own))))
    return Judged(tuple(claims), tuple(map(_sentence, left)))


def _sentence(verdict: Verdict) -> Sentence:
    return Sentence(verdict.outcome, ICONS[verdict.outcome], clean(_text(verdict)))


def _text(verdict: Verdict) -> str:
    """The verdict without its outcome, which stands beside it."""
    who = f"{verdict.name} against {verdict.against}"
    if not np.isfinite(verdict.change.value):
        return f"{who}: there is no interval."
    text = f"{who}: {interval_text(verdict.change, verdict.relative)}, lower loss on "
    text += f"{wins_text(verdict.wins)} of {verdict.tasks} task{'' if verdict.tasks == 1 else 's'}"
    if max(verdict.meta_seeds) > 1:
        text += f", {verdict.meta_seeds[0]} against {verdict.meta_seeds[1]} meta-seeds"
    return f"{text}."
