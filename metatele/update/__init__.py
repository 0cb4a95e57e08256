"""Updates: the step f in theta <- theta + f, hand-designed or learned."""

from metatele.support.modules import import_all
from metatele.update.base import Update
from metatele.update.celo import CeloUpdate
from metatele.update.classical import Adam, GradientDescent, Momentum
from metatele.update.dense import DenseStepSize, DenseUpdate
from metatele.update.from_learn2learn import LearnableTransform, MetaSGD, import_learn2learn
from metatele.update.hand_designed import HandDesigned
from metatele.update.size_free import CoordinateUpdate, GlobalStepSize
from metatele.update.small_mlp import SmallMLPUpdate
from metatele.update.tensor import TensorUpdate
from metatele.update.torch_update import TorchUpdate

__all__ = [
    "Adam",
    "CeloUpdate",
    "CoordinateUpdate",
    "DenseStepSize",
    "DenseUpdate",
    "GlobalStepSize",
    "GradientDescent",
    "HandDesigned",
    "LearnableTransform",
    "MetaSGD",
    "Momentum",
    "SmallMLPUpdate",
    "TensorUpdate",
    "TorchUpdate",
    "Update",
    "import_learn2learn",
]

import_all(__name__, Update)  # also those that are not listed above
