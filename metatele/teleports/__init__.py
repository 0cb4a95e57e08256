"""Teleports: moves inside a level set of the loss, by a rule, by optimisation, or learned."""

from metatele.support.modules import import_all
from metatele.teleports.base import Teleport
from metatele.teleports.classical import RandomTeleport, Stay
from metatele.teleports.climb import Climb
from metatele.teleports.dense import DenseTeleport
from metatele.teleports.level_set import LevelSetTeleport
from metatele.teleports.moved import Moved
from metatele.teleports.neuron import NeuronTeleport
from metatele.teleports.null_space import NullSpaceTeleport
from metatele.teleports.optimised import OptimisedTeleport
from metatele.teleports.orbit import AlgebraTeleport, OrbitTeleport
from metatele.teleports.rules import CanonicalTeleport
from metatele.teleports.rules.balance import Balance
from metatele.teleports.rules.svd import Svd
from metatele.teleports.rules.white import White
from metatele.teleports.rules.wout import Wout
from metatele.teleports.schedule import MeanSchedule, Recording, SizedRandom

__all__ = [
    "AlgebraTeleport",
    "Balance",
    "CanonicalTeleport",
    "Climb",
    "DenseTeleport",
    "LevelSetTeleport",
    "MeanSchedule",
    "Moved",
    "NeuronTeleport",
    "NullSpaceTeleport",
    "OptimisedTeleport",
    "OrbitTeleport",
    "RandomTeleport",
    "Recording",
    "SizedRandom",
    "Stay",
    "Svd",
    "Teleport",
    "White",
    "Wout",
]

import_all(__name__, Teleport)  # also those that are not listed above
