"""Teleports: the group element g that moves along the orbit, fixed by a rule or learned."""

from metatele.teleport.base import Teleport
from metatele.teleport.classical import Balance, RandomTeleport, Stay
from metatele.teleport.dense import DenseTeleport
from metatele.teleport.neuron import NeuronTeleport

__all__ = ["Balance", "DenseTeleport", "NeuronTeleport", "RandomTeleport", "Stay", "Teleport"]
