"""Teleports: moves inside a level set of the loss, by a rule, by optimisation, or learned."""

from metatele.teleports.base import OrbitTeleport, Teleport
from metatele.teleports.canonical import Balance, CanonicalTeleport, Svd, White, Wout
from metatele.teleports.classical import RandomTeleport, Stay
from metatele.teleports.climb import Climb
from metatele.teleports.dense import DenseTeleport
from metatele.teleports.level_set import LevelSetTeleport
from metatele.teleports.moved import Moved
from metatele.teleports.neuron import NeuronTeleport
from metatele.teleports.null_space import NullSpaceTeleport
from metatele.teleports.optimised import OptimisedTeleport

__all__ = [
    "Balance",
    "CanonicalTeleport",
    "Climb",
    "DenseTeleport",
    "LevelSetTeleport",
    "Moved",
    "NeuronTeleport",
    "NullSpaceTeleport",
    "OptimisedTeleport",
    "OrbitTeleport",
    "RandomTeleport",
    "Stay",
    "Svd",
    "Teleport",
    "White",
    "Wout",
]
