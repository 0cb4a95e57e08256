"""Evaluation: checkpoints, their controls and tuned baselines on the same held-out tasks."""

from metatele.evaluation.contestants.contestant import Contestant
from metatele.evaluation.contestants.learned import Learned
from metatele.evaluation.entry import Entry
from metatele.evaluation.evaluation import Evaluation
from metatele.evaluation.evaluator import evaluate
from metatele.evaluation.judge.claims import Claim
from metatele.evaluation.judge.measures import Measures
from metatele.evaluation.judge.verdict import Verdict
from metatele.evaluation.play.run import Run
from metatele.evaluation.play.watch import Moves
from metatele.evaluation.settings import Options, Settings
from metatele.evaluation.statistics import Comparison, Interval, Summary
from metatele.tuning.step_size import Tuning, tune

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
    "Options",
    "Run",
    "Settings",
    "Summary",
    "Tuning",
    "Verdict",
    "evaluate",
    "tune",
]
