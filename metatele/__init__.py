"""metatele: meta-train optimizers that teleport along the symmetries of a network."""

from metatele.errors import (
    CheckpointError,
    ConfigError,
    MetateleError,
    OutputError,
    SymmetryError,
    TaskError,
)
from metatele.optimizer import InnerOptimizer
from metatele.symmetry import Symmetry, symmetries_of
from metatele.task import MetaBatch, TaskFamily, sample_meta_batch
from metatele.teleport import Balance, DenseTeleport, NeuronTeleport, RandomTeleport, Stay, Teleport
from metatele.unroll import Outcome, Unroll
from metatele.update import (
    Adam,
    CoordinateUpdate,
    DenseStepSize,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    Momentum,
    Update,
)

__version__ = "0.1.0"

__all__ = [
    "Adam",
    "Balance",
    "CheckpointError",
    "ConfigError",
    "CoordinateUpdate",
    "DenseStepSize",
    "DenseTeleport",
    "DenseUpdate",
    "GlobalStepSize",
    "GradientDescent",
    "InnerOptimizer",
    "MetaBatch",
    "MetateleError",
    "Momentum",
    "NeuronTeleport",
    "Outcome",
    "OutputError",
    "RandomTeleport",
    "Stay",
    "Symmetry",
    "SymmetryError",
    "TaskError",
    "TaskFamily",
    "Teleport",
    "Unroll",
    "Update",
    "sample_meta_batch",
    "symmetries_of",
]
