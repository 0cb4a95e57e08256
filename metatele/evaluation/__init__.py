"""Evaluation: checkpoints, their controls and tuned baselines on the same held-out tasks."""

from metatele.evaluation.claims import Claim
from metatele.evaluation.contestant import Contestant, Learned
from metatele.evaluation.entry import Entry
from metatele.evaluation.evaluator import evaluate
from metatele.evaluation.measures import Measures
from metatele.evaluation.record import Evaluation
from metatele.evaluation.run import Run
from metatele.evaluation.settings import Settings
from metatele.evaluation.statistics import Comparison, Interval, Summary
from metatele.evaluation.tuning import Tuning, tune
from metatele.evaluation.verdict import Verdict
from metatele.evaluation.watch import Moves

__all__ = [
    "Claim",
    "Comparison",
    "Contestant",
    "Entry",
    "Evaluation",
    "Interval",
    "Learned",
    "Measures",
    "Moves",
    "Run",
    "Settings",
    "Summary",
    "Tuning",
    "Verdict",
    "evaluate",
    "tune",
]
