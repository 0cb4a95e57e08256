"""Evaluation: checkpoints, their controls and tuned baselines on the same held-out tasks."""

from metatele.evaluation.contestant import Contestant
from metatele.evaluation.entry import Entry
from metatele.evaluation.evaluator import evaluate
from metatele.evaluation.record import Evaluation, Settings
from metatele.evaluation.results import load_results
from metatele.evaluation.run import Run
from metatele.evaluation.statistics import Interval, Paired, Summary
from metatele.evaluation.tuning import Tuning, tune

__all__ = [
    "Contestant",
    "Entry",
    "Evaluation",
    "Interval",
    "Paired",
    "Run",
    "Settings",
    "Summary",
    "Tuning",
    "evaluate",
    "load_results",
    "tune",
]
