"""metatele: meta-train optimizers that teleport along the symmetries of a network."""

from metatele.checkpoint import load_checkpoint, save_checkpoint
from metatele.errors import (
    CheckpointError,
    ConfigError,
    MetateleError,
    OutputError,
    SymmetryError,
    TaskError,
)
from metatele.evaluation import Evaluation, evaluate
from metatele.meta_training import (
    MetaSettings,
    MetaTraining,
    ProgressBar,
    UnrollSettings,
    ValidationSettings,
    meta_train,
)
from metatele.optimizer import InnerOptimizer
from metatele.point import Point, State
from metatele.sampling import sample_meta_batch
from metatele.symmetry import Symmetry, symmetries_of
from metatele.task import MetaBatch, TaskFamily
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
from metatele.version import __version__

__all__ = [
    "Adam",
    "Balance",
    "CheckpointError",
    "ConfigError",
    "CoordinateUpdate",
    "DenseStepSize",
    "DenseTeleport",
    "DenseUpdate",
    "Evaluation",
    "GlobalStepSize",
    "GradientDescent",
    "InnerOptimizer",
    "MetaBatch",
    "MetaSettings",
    "MetaTraining",
    "MetateleError",
    "Momentum",
    "NeuronTeleport",
    "Outcome",
    "OutputError",
    "Point",
    "ProgressBar",
    "RandomTeleport",
    "State",
    "Stay",
    "Symmetry",
    "SymmetryError",
    "TaskError",
    "TaskFamily",
    "Teleport",
    "Unroll",
    "UnrollSettings",
    "Update",
    "ValidationSettings",
    "__version__",
    "evaluate",
    "load_checkpoint",
    "meta_train",
    "sample_meta_batch",
    "save_checkpoint",
    "symmetries_of",
]
