"""The paper's experiments on teleportation without learning, each one object that runs."""

from metatele.experiments.correlation import FlatnessCorrelation
from metatele.experiments.flatness import TeleportOnce
from metatele.experiments.harness.base import Experiment, Findings
from metatele.experiments.level_sets import LevelSetTrajectories
from metatele.experiments.optimizers import ImageOptimizers
from metatele.experiments.regression import RegressionTeleports

__all__ = [
    "Experiment",
    "Findings",
    "FlatnessCorrelation",
    "ImageOptimizers",
    "LevelSetTrajectories",
    "RegressionTeleports",
    "TeleportOnce",
]
