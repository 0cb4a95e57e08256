"""What a user writes for one task: the network, the data and the loss."""

import abc
from collections.abc import Collection
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap

from metatele.support.seeding import seeded
from metatele.task.stack import unwrapped

Part = Literal["inner", "meta", "test"]
Split = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


def judged_part(parts: Collection[Part]) -> Part:
    """The part whose loss optimizers are tuned for and judged by: the test part if it is among `parts`, the parts that
    have rows of their own, otherwise the inner part."""
    return "test" if "test" in parts else "inner"


class TaskFamily(abc.ABC):
    """A distribution over tasks, written for ONE task and one network.

    Equal generator states must give equal tasks: draw every random number from the generator that
    is passed in. All tasks of a family have data of the same shapes and the same network.

    Attributes:
        parts: the fractions of a task's rows that train the network (inner), that score it during
            meta-training (meta) and that the evaluator reports as unseen data (test). A part with
            fraction 0 uses the inner rows, so (1, 0, 0) is plain optimisation of a training loss.
        batch_size: rows in a minibatch, or None for the full batch at every step.
        shuffle: whether the rows that `sample` gives are put in random order, by the task's own generator, before they
            are cut into parts. False where their order matters to the cut, as in a time series, or is random already.
    """

    parts: tuple[float, float, float] = (1.0, 0.0, 0.0)
    batch_size: int | None = None
    shuffle: bool = True
    _stacked: ClassVar[object] = None  # the `loss` that `losses` was written for

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherited = [base.losses for base in cls.__bases__ if issubclass(base, TaskFamily)]
        if cls.losses not in inherited:
            cls._stacked = cls.loss

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The network to be trained on one task; only its structure is used, not its weights."""

    @abc.abstractmethod
    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one task's data: inputs [n, ...] and targets [n, ...]."""

    @abc.abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The scalar loss of one task's predictions [n, ...] against its targets [n, ...]."""

    def for_split(self, split: Split) -> "TaskFamily":
        """The family that the tasks of a split are drawn from. Default: the family itself.

        Override it where splits hold data out from each other (other classes, other images). Equal
        splits must give families with equal tasks.
        """
        return self

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """`loss` of B tasks at once, [B], of predictions and targets [B, n, ...].

        This general version maps `loss` over the tasks. A family may override it with a faster form of the same
        function; for a subclass that overrides only `loss`, the inherited fast form is not used.
        """
        return vmap(self.loss)(predictions, targets)

    @property
    def stacks_its_loss(self) -> bool:
        """Whether `losses` was written for the family's present `loss`, not for one that has been overridden since."""
        return type(self).loss is type(self)._stacked and "loss" not in vars(self)

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The fraction of one task's rows that are predicted correctly: a scalar in [0, 1].

        Predictions [n, ...] and targets [n, ...] as for `loss`. Optional: override it where it makes
        sense, as in classification.
        """
        raise NotImplementedError(f"{type(self).__name__} measures no accuracy")

    @property
    def measures_accuracy(self) -> bool:
        """Whether the family overrides `accuracy`."""
        return getattr(self.accuracy, "__func__", None) is not TaskFamily.accuracy

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Draw initial weights and buffers into `network`, in place. Default: those of a new `network()`, whose
        constructor draws from a global generator that is seeded from `generator`."""
        with seeded(int(torch.randint(2**62, (), generator=generator))):
            drawn = unwrapped(self.network())
        network.load_state_dict(drawn.state_dict())
        for name, buffer in drawn.named_buffers():  # also those that a state_dict leaves out
            network.get_buffer(name).copy_(buffer)
