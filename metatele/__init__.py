"""metatele: meta-train optimizers that teleport along the symmetries of a network."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metatele.checkpoint import load_checkpoint, save_checkpoint
from metatele.errors import (
    CheckpointError,
    ConfigError,
    MetateleError,
    OutputError,
    SymmetryError,
    TaskError,
)
from metatele.landscape import Curvature, Landscape, Objective, Place, Sharpness
from metatele.meta_training import (
    MetaSettings,
    MetaTraining,
    Phase,
    ProgressBar,
    UnrollSettings,
    ValidationSettings,
    meta_train,
)
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point, State
from metatele.symmetry import DiscreteSymmetry, Symmetry, discrete_symmetries_of, symmetries_of
from metatele.task.batch import MetaBatch
from metatele.task.family import TaskFamily
from metatele.task.images import ImageSplit, load_images, split_images
from metatele.task.mixture import TaskMixture
from metatele.task.sampling import sample_meta_batch
from metatele.teleports import (
    AlgebraTeleport,
    Balance,
    DenseTeleport,
    LevelSetTeleport,
    NeuronTeleport,
    NullSpaceTeleport,
    OptimisedTeleport,
    OrbitTeleport,
    RandomTeleport,
    Stay,
    Svd,
    Teleport,
    White,
    Wout,
)
from metatele.torch_model import Teleported, measure, teleport
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Outcome
from metatele.update import (
    Adam,
    CeloUpdate,
    CoordinateUpdate,
    DenseStepSize,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    HandDesigned,
    LearnableTransform,
    MetaSGD,
    Momentum,
    SmallMLPUpdate,
    TensorUpdate,
    TorchUpdate,
    Update,
    import_learn2learn,
)
from metatele.version import __version__

if TYPE_CHECKING:
    from metatele.evaluation import Evaluation, Learned, evaluate
    from metatele.pictures import draw_orbit
    from metatele.report import write_report

# Statistics, figures and pages are loaded when they are first asked for, so that importing metatele costs what
# importing torch costs.
_LATER = {"evaluation": ("Evaluation", "Learned", "evaluate"), "pictures": ("draw_orbit",), "report": ("write_report",)}

__all__ = [
    "Adam",
    "AlgebraTeleport",
    "Balance",
    "CeloUpdate",
    "CheckpointError",
    "ConfigError",
    "CoordinateUpdate",
    "Curvature",
    "DenseStepSize",
    "DenseTeleport",
    "DenseUpdate",
    "DiscreteSymmetry",
    "Evaluation",
    "GlobalStepSize",
    "GradientDescent",
    "HandDesigned",
    "ImageSplit",
    "InnerOptimizer",
    "Landscape",
    "LearnableTransform",
    "Learned",
    "LevelSetTeleport",
    "MetaBatch",
    "MetaSGD",
    "MetaSettings",
    "MetaTraining",
    "MetateleError",
    "Momentum",
    "NeuronTeleport",
    "NullSpaceTeleport",
    "Objective",
    "OptimisedTeleport",
    "OrbitTeleport",
    "Outcome",
    "OutputError",
    "Phase",
    "Place",
    "Point",
    "ProgressBar",
    "RandomTeleport",
    "Sharpness",
    "SmallMLPUpdate",
    "State",
    "Stay",
    "Svd",
    "Symmetry",
    "SymmetryError",
    "TaskError",
    "TaskFamily",
    "TaskMixture",
    "Teleport",
    "Teleported",
    "TensorUpdate",
    "TorchUpdate",
    "Unroll",
    "UnrollSettings",
    "Update",
    "ValidationSettings",
    "White",
    "Wout",
    "__version__",
    "discrete_symmetries_of",
    "draw_orbit",
    "evaluate",
    "import_learn2learn",
    "load_checkpoint",
    "load_images",
    "measure",
    "meta_train",
    "sample_meta_batch",
    "save_checkpoint",
    "split_images",
    "symmetries_of",
    "teleport",
    "write_report",
]

# Modules that have moved since they were first imported by users, by the names that they had.
_MOVED = {"files": "support.files", "images": "task.images", "params": "task.params"}
_MOVED |= {"sampling": "task.sampling", "stack": "task.stack"}
for _old, _new in _MOVED.items():
    globals()[_old] = sys.modules[f"{__name__}.{_old}"] = import_module(f"{__name__}.{_new}")


def __getattr__(name: str) -> Any:
    for room, names in _LATER.items():
        if name == room or name in names:
            module = import_module(f"metatele.{room}")
            return module if name == room else getattr(module, name)
    for room in ("update", "teleports"):  # a class in a file of its own that is not listed here
        found = getattr(import_module(f"metatele.{room}"), name, None)
        if isinstance(found, type):
            return found
    raise AttributeError(f"module 'metatele' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
