"""Classification tasks: Gaussian mixtures, scikit-learn's digits, MNIST from a folder."""

import abc
import copy
import functools
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily, load_images

from .mlp import check_activation, mlp
from .noise import chosen_to_train

HeldOut = Literal["tasks", "images"]
SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}  # of the images of each label


class Classification(TaskFamily):
    """What the classification families share: an MLP, cross-entropy, accuracy, and the parts.

    Args:
        inputs: number of features.
        hidden: widths of the hidden layers.
        classes: number of classes of a task.
        parts: fractions of the rows that are inner, meta and test rows.
        batch_size: rows in a minibatch, or None for the full batch.
        activation: between the layers, by its name in `metatele.tasks.mlp`: "relu", "tanh", ...
    """

    shuffle = False  # the rows are drawn in random order

    def __init__(
        self,
        inputs: int,
        hidden: list[int],
        classes: int,
        parts: tuple[float, float, float],
        batch_size: int | None,
        activation: str = "relu",
    ) -> None:
        if classes < 2 or min([inputs, *hidden], default=1) < 1:
            raise TaskError(f"need at least 2 classes and widths of at least 1, got classes={classes}, hidden={hidden}")
        self.widths, self.classes = [inputs, *hidden, classes], classes
        self.parts, self.batch_size, self.activation = parts, batch_size, check_activation(activation)

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target)

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(predictions.flatten(0, 1), targets.flatten(), reduction="none")
        return each.reshape(targets.shape).mean(1)

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The fraction of rows whose largest logit is that of their label."""
        return (prediction.argmax(-1) == target).float().mean()


class GaussianMixture(Classification):
    """Each class is a few Gaussian blobs with random centres; a task draws centres and rows.

    Args:
        dimensions: number of features.
        classes: number of classes.
        blobs: number of blobs of each class.
        noise: standard deviation of a blob in each coordinate; that of the centres is 1.
        rows: data rows of one task.
        hidden, parts, batch_size, activation: see `Classification`.
    """

    def __init__(
        self,
        dimensions: int = 8,
        classes: int = 4,
        blobs: int = 2,
        noise: float = 0.5,
        rows: int = 128,
        hidden: list[int] = [16],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(dimensions, hidden, classes, parts, batch_size, activation)
        if blobs < 1 or rows < 1 or not noise >= 0:
            raise TaskError(f"need blobs >= 1, rows >= 1 and noise >= 0, got {(blobs, rows, noise)}")
        self.dimensions, self.blobs, self.noise, self.rows = dimensions, blobs, noise, rows

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        centres = torch.randn(self.classes, self.blobs, self.dimensions, generator=generator)
        labels = torch.randint(self.classes, (self.rows,), generator=generator)
        blob = torch.randint(self.blobs, (self.rows,), generator=generator)
        noise = torch.randn(self.rows, self.dimensions, generator=generator)
        return centres[labels, blob] + self.noise * noise, labels


class ImageSubsets(Classification):
    """Tasks made from one labelled set of images: random classes in random order, random rows.

    A task takes `classes` of the labels, renumbers them in random order, and draws `rows` of their
    images without replacement. Subclasses provide `images()`.

    Args:
        inputs: pixels of an image.
        classes, hidden, parts, batch_size, activation: see `Classification`.
        rows: images of one task.
        held_out: what a split holds that the others do not: "tasks" (every split draws from all images), or
            "images": 60, 20 and 20% of each label's images are for the train, validation and test split.
        noise: standard deviation of normal noise on every pixel; black is 0 and white 1.
        flipped: fraction of the inner rows that have a wrong label; the other rows keep theirs.
    """

    noise, flipped = 0.0, 0.0
    _mine: Tensor | None = None  # which images are those of this split, [n]; None for all

    def __init__(
        self,
        inputs: int,
        classes: int,
        rows: int,
        hidden: list[int],
        parts: tuple[float, float, float],
        batch_size: int | None,
        activation: str = "relu",
        held_out: HeldOut = "tasks",
        noise: float = 0.0,
        flipped: float = 0.0,
    ) -> None:
        super().__init__(inputs, hidden, classes, parts, batch_size, activation)
        if held_out not in get_args(HeldOut):
            raise TaskError(f"held_out must be one of {', '.join(get_args(HeldOut))}, got {held_out!r}")
        if not noise >= 0 or not 0 <= flipped <= 1:
            raise TaskError(f"need noise >= 0 and flipped in [0, 1], got {(noise, flipped)}")
        self.rows, self.held_out = rows, held_out
        if noise or flipped:  # runs of versions that had neither can be resumed
            self.noise, self.flipped = noise, flipped

    @abc.abstractmethod
    def images(self) -> tuple[Tensor, Tensor]:
        """All images [n, pixels] and their labels [n]."""

    def for_split(self, split: str) -> TaskFamily:
        """The family on the images of one split, if images are held out."""
        if self.held_out == "tasks":
            return self
        restricted = copy.copy(self)
        restricted._mine = images_of_split(self.images()[1], split)
        return restricted

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = self.images()
        known = labels.unique()
        if self.classes > len(known):
            raise TaskError(f"classes must be at most {len(known)}, as many as in the data; got {self.classes}")
        chosen = known[torch.randperm(len(known), generator=generator)[: self.classes]]
        usable = torch.isin(labels, chosen)
        candidates = (usable if self._mine is None else usable & self._mine).nonzero().squeeze(1)
        if self.rows > len(candidates):
            raise TaskError(f"rows={self.rows} is more than the {len(candidates)} images of {self.classes} classes")
        rows = candidates[torch.randperm(len(candidates), generator=generator)[: self.rows]]
        new_label = torch.zeros(int(known.max()) + 1, dtype=torch.int64)
        new_label[chosen] = torch.arange(self.classes)
        return self._spoiled(images[rows], new_label[labels[rows]], generator)

    def _spoiled(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A task's images and labels, with noise and with wrong labels; nothing is drawn where there are none."""
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator)
        if self.flipped:
            wrong = chosen_to_train(self, len(y), self.flipped, generator)
            others = torch.randint(1, self.classes, (len(wrong),), generator=generator)
            y[wrong] = (y[wrong] + others) % self.classes
        return x, y


def images_of_split(labels: Tensor, split: str) -> Tensor:
    """Which images [n] belong to a split, given their labels [n]: the fraction in `SHARES` of each label's images.

    The partition is random, but always the same for equal labels.
    """
    stream = torch.Generator().manual_seed(0)
    mine = torch.zeros(len(labels), dtype=torch.bool)
    begin, end = SHARES[split]
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=stream)]
        mine[rows[round(begin * len(rows)) : round(end * len(rows))]] = True
    return mine


class Digits(ImageSubsets):
    """Real handwritten digits, 8 x 8 pixels: scikit-learn's bundled copy of the UCI test set.

    Args: see `ImageSubsets`; the MLP is 64-32-classes by default.
    """

    def __init__(
        self,
        classes: int = 5,
        rows: int = 200,
        hidden: list[int] = [32],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
        held_out: HeldOut = "tasks",
        noise: float = 0.0,
        flipped: float = 0.0,
    ) -> None:
        super().__init__(64, classes, rows, hidden, parts, batch_size, activation, held_out, noise, flipped)

    def images(self) -> tuple[Tensor, Tensor]:
        return _digits()


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64)


class Mnist(ImageSubsets):
    """MNIST from idx files in a folder, 28 x 28 pixels.

    Args:
        folder: where the idx files are, plain or .gz, under their usual names; torchvision's
            layout (`MNIST/raw` below the folder) is found too.
        subset: "train" or "t10k".
        classes, rows, hidden, parts, batch_size, activation, held_out, noise, flipped: see `ImageSubsets`.
    """

    def __init__(
        self,
        folder: str,
        subset: str = "train",
        classes: int = 10,
        rows: int = 1000,
        hidden: list[int] = [16, 10],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
        held_out: HeldOut = "tasks",
        noise: float = 0.0,
        flipped: float = 0.0,
    ) -> None:
        super().__init__(784, classes, rows, hidden, parts, batch_size, activation, held_out, noise, flipped)
        if subset not in ("train", "t10k"):
            raise TaskError(f"subset must be 'train' or 't10k', got {subset!r}")
        self.folder, self.subset = folder, subset

    def images(self) -> tuple[Tensor, Tensor]:
        return load_images("mnist", self.folder, "train" if self.subset == "train" else "test")
