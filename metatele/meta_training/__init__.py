"""Meta-training: learn an inner optimizer from trajectories on a task family."""

from metatele.meta_training.budget import Budget, read_budget
from metatele.meta_training.monitor import Monitor, ProgressBar
from metatele.meta_training.run import MetaTraining, meta_train
from metatele.meta_training.settings import MetaSettings, Phase, UnrollSettings, ValidationSettings

__all__ = [
    "Budget",
    "MetaSettings",
    "MetaTraining",
    "Monitor",
    "Phase",
    "ProgressBar",
    "UnrollSettings",
    "ValidationSettings",
    "meta_train",
    "read_budget",
]
