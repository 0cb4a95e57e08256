"""A discrete symmetry: a finite group that acts on the parameters of a network."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from metatele.symmetry.action import GroupAction


class DiscreteSymmetry(GroupAction):
    """A finite group G with loss(g . theta) == loss(theta) for every g in G, on stacked parameters.

    It has no Lie algebra, so elements cannot be learned or searched for by gradients; they are
    drawn. `act` is differentiable in the parameters. To be written: `sample`, `identity`, `compose`,
    `inverse`, `act`.
    """

    kinds: ClassVar[dict[str, type[GroupAction]]] = {}

    @abc.abstractmethod
    def sample(self, generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
        """A uniform draw for each task.

        Args:
            generators: one per task, so that a task's element does not depend on how tasks are stacked.
            like: gives the number of tasks B = len(like) = len(generators), the dtype and the device.
        Returns: group elements, [B, ...].
        """
