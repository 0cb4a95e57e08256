"""Distributions over task families."""

import abc

import torch
from torch import Tensor, nn

from metatele.errors import TaskError
from metatele.task.family import TaskFamily


class TaskMixture(TaskFamily):
    """A distribution over task families: the tasks of each meta-batch come from a member that is drawn for it, so that
    networks, losses and numbers of rows may differ from meta-batch to meta-batch.

    It is for meta-training; an evaluation is on one of its members.
    """

    @abc.abstractmethod
    def member(self, generator: torch.Generator) -> TaskFamily:
        """Draw the family of a meta-batch. Equal generator states must give equal families."""

    def network(self) -> nn.Module:
        raise self._error()

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise self._error()

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        raise self._error()

    def _error(self) -> TaskError:
        return TaskError(
            f"{type(self).__name__} is a mixture of task families, of which meta-training draws one for each "
            "meta-batch; where all tasks must be of one family, as in an evaluation, name one of its members (on "
            "the command line by --family)"
        )
