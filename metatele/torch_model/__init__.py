"""Teleporting a torch model in place, inside anybody's own training loop."""

from metatele.torch_model.arguments import check_arguments
from metatele.torch_model.in_place import Teleported, teleport

__all__ = ["Teleported", "check_arguments", "teleport"]
