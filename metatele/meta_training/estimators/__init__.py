"""Estimators of the meta-gradient: backpropagation through time, and evolution strategies."""

from metatele.meta_training.estimators.base import Estimator
from metatele.meta_training.estimators.bptt import Backpropagation
from metatele.meta_training.estimators.evolution import EvolutionStrategy

__all__ = ["Backpropagation", "Estimator", "EvolutionStrategy"]
