"""Step sizes and schedules of hand-designed optimizers, found on tasks of the train split."""

from metatele.tuning.search import Cell, RateSearch
from metatele.tuning.step_size import Trial, Tuning, tune

__all__ = ["Cell", "RateSearch", "Trial", "Tuning", "tune"]
