"""Teleporting a torch model in place, inside anybody's own training loop, and measuring it."""

from metatele.torch_model.arguments import check_arguments, find_group
from metatele.torch_model.in_place import teleport
from metatele.torch_model.measuring import measure
from metatele.torch_model.report import Teleported

__all__ = ["Teleported", "check_arguments", "find_group", "measure", "teleport"]
