"""Images through a bottleneck: the target is the image itself."""

import copy

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily

from .classification import Digits, HeldOut
from .mlp import check_activation, mlp


class Autoencoder(TaskFamily):
    """An MLP that has to give back the digits of `Digits` (64 pixels), with a narrow layer in the middle; squared loss.

    Args:
        hidden: widths of the layers before the narrow one; those after it are the same in reverse.
        bottleneck: width of the narrow layer.
        classes, rows, held_out: see `Digits`.
        parts: fractions of the rows that are inner, meta and test rows.
        batch_size: rows in a minibatch, or None for the full batch.
        activation: between the layers, by its name in `metatele.tasks.mlp`.
    """

    shuffle = False  # the rows are drawn in random order

    def __init__(
        self,
        hidden: list[int] = [32],  # noqa: B006 - read only
        bottleneck: int = 8,
        classes: int = 5,
        rows: int = 200,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
        held_out: HeldOut = "tasks",
    ) -> None:
        if min([bottleneck, *hidden]) < 1:
            raise TaskError(f"need widths of at least 1, got hidden={hidden}, bottleneck={bottleneck}")
        self.widths = [64, *hidden, bottleneck, *reversed(hidden), 64]
        self.parts, self.batch_size, self.activation = parts, batch_size, check_activation(activation)
        self.digits: TaskFamily = Digits(classes, rows, held_out=held_out)

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def for_split(self, split: str) -> TaskFamily:
        """The family on the images of one split, if images are held out."""
        restricted = copy.copy(self)
        restricted.digits = self.digits.for_split(split)  # type: ignore[arg-type]
        return restricted

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, _ = self.digits.sample(generator)
        return images, images

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean((1, 2))
