"""Few-shot classification: tasks drawn by learn2learn, and two examples on real images."""

import abc
import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily, import_learn2learn, load_images

from .classification import Digits, images_of_split
from .mlp import check_activation, mlp

HeldOutClasses = Literal["classes", "images"]
SPLITS = ("train", "validation", "test")


class FewShot(TaskFamily):
    """N-way K-shot classification tasks from any set of tasks of learn2learn.

    The inner loop trains on K rows of each class; q other rows of each are for the meta-loss, and q
    more are the test rows. The loss is the cross-entropy of `ways` logits.

    A subclass gives `network` and `task_dataset`. The latter's tasks must have the labels 0 to
    ways - 1 (learn2learn's RemapLabels) and shots + 2 * queries rows of each (its KShots):

        def task_dataset(self, split):
            dataset = learn2learn.data.MetaDataset(my_dataset(split))
            transforms = learn2learn.data.transforms
            return learn2learn.data.Taskset(dataset, [
                transforms.NWays(dataset, self.ways),
                transforms.KShots(dataset, self.rows_of_a_class),
                transforms.LoadData(dataset),
                transforms.RemapLabels(dataset),
            ])

    learn2learn draws from the global generators of Python and numpy. They are seeded for every task from
    the task's own generator and then put back, so equal states of that generator give equal tasks. A set
    with a finite `num_tasks` has only that many different tasks.

    Args:
        ways: number N of classes of a task.
        shots: rows K of each class to train on.
        queries: rows q of each class in the meta part, and as many others in the test part.
        batch_size: rows in a minibatch, or None for the full batch.
    Source: Vinyals et al. 2016, arXiv:1606.04080 (episodes); Arnold et al. 2020, arXiv:2008.12284 (learn2learn).
    """

    shuffle = False  # each part has as many rows of one class as of another

    def __init__(self, ways: int, shots: int, queries: int, batch_size: int | None = None) -> None:
        if ways < 2 or shots < 1 or queries < 1:
            raise TaskError(f"need ways >= 2, shots >= 1 and queries >= 1, got {(ways, shots, queries)}")
        self.ways, self.shots, self.queries, self.batch_size = ways, shots, queries, batch_size
        rows = self.rows_of_a_class
        self.parts = (shots / rows, queries / rows, queries / rows)
        self._split: str | None = None
        self._task_datasets: dict[str, Any] = {}  # shared with the families of the splits

    @property
    def rows_of_a_class(self) -> int:
        """Rows of each class in a task, all parts together: shots + 2 * queries."""
        return self.shots + 2 * self.queries

    @abc.abstractmethod
    def task_dataset(self, split: str) -> Any:
        """The tasks of a split ("train", "validation" or "test"): a `learn2learn.data.TaskDataset` (or Taskset).

        Called once for each split.
        """

    def for_split(self, split: str) -> TaskFamily:
        """The family with the tasks of one split."""
        if split not in self._task_datasets:
            self._task_datasets[split] = self.task_dataset(split)
        restricted = copy.copy(self)
        restricted._split = split
        return restricted

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a task of the family's split (of "train" if the family does not belong to a split).

        Returns: inputs [ways * (shots + 2 * queries), ...] and labels; first one row of every class, then the next.
        Raises: TaskError if learn2learn's tasks have other labels or numbers of rows.
        """
        if self._split is None:
            return self.for_split("train").sample(generator)
        seed = int(torch.randint(2**32, (), generator=generator))
        x, y = _draw(self._task_datasets[self._split], seed)
        labels, counts = y.unique(return_counts=True)
        if labels.tolist() != list(range(self.ways)) or counts.tolist() != [self.rows_of_a_class] * self.ways:
            raise TaskError(
                f"{type(self).__name__}.task_dataset({self._split!r}): a task must have {self.rows_of_a_class} rows "
                f"(shots + 2 * queries) of each of the labels 0 to {self.ways - 1}, got "
                f"{dict(zip(labels.tolist(), counts.tolist(), strict=True))}"
            )
        order = y.argsort(stable=True).reshape(self.ways, self.rows_of_a_class).T.flatten()
        return x[order], y[order]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target)

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The fraction of rows whose largest logit is that of their label."""
        return (prediction.argmax(-1) == target).float().mean()


class FewShotImages(FewShot):
    """Few-shot tasks from one labelled set of images, for an MLP. Subclasses provide `images()`.

    With classes held out, each of the validation and test splits has a fifth of the classes, but at
    least `ways` of them, and the train split has the others, in the order of their labels. Ten classes
    are 6, 2 and 2 for ways=2, and 4, 3 and 3 for ways=3; more ways need `held_out="images"`. So few
    classes make splits of unequal difficulty: compare optimizers within a split, never across splits.

    Args:
        inputs: pixels of an image.
        ways, shots, queries, batch_size: see `FewShot`.
        hidden: widths of the hidden layers.
        activation: between the layers, by its name in `metatele.tasks.mlp`.
        held_out: what the splits do not share: "classes", as is usual for few-shot learning, or "images" (all
            classes in every split; 60, 20 and 20% of the images of each).
    """

    def __init__(
        self,
        inputs: int,
        ways: int,
        shots: int,
        queries: int,
        hidden: list[int],
        batch_size: int | None,
        activation: str,
        held_out: HeldOutClasses,
    ) -> None:
        super().__init__(ways, shots, queries, batch_size)
        if min([inputs, *hidden]) < 1:
            raise TaskError(f"need widths of at least 1, got inputs={inputs}, hidden={hidden}")
        if held_out not in get_args(HeldOutClasses):
            raise TaskError(f"held_out must be one of {', '.join(get_args(HeldOutClasses))}, got {held_out!r}")
        self.widths, self.activation, self.held_out = [inputs, *hidden, ways], check_activation(activation), held_out

    @abc.abstractmethod
    def images(self) -> tuple[Tensor, Tensor]:
        """All images [n, pixels] and their labels [n]."""

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def task_dataset(self, split: str) -> Any:
        """learn2learn's tasks on the split's classes, or images."""
        data = import_learn2learn().data
        images, labels = self.images()
        mine = self._classes(labels, split) if self.held_out == "classes" else images_of_split(labels, split)
        x, y = images[mine], labels[mine]
        rows = {int(label): (y == label).nonzero().squeeze(1).tolist() for label in y.unique()}
        fewest = min(map(len, rows.values()))
        if self.ways > len(rows) or self.rows_of_a_class > fewest:
            raise TaskError(
                f"ways={self.ways} must be at most {len(rows)}, and shots + 2 * queries = {self.rows_of_a_class} at "
                f"most {fewest}: the {split} split has {len(rows)} classes, the smallest of them with {fewest} images"
            )
        dataset = data.MetaDataset(torch.utils.data.TensorDataset(x, y), labels_to_indices=rows)
        transforms = [
            data.transforms.FusedNWaysKShots(dataset, n=self.ways, k=self.rows_of_a_class),  # NWays and KShots, fast
            data.transforms.LoadData(dataset),
            data.transforms.RemapLabels(dataset),
        ]
        return data.Taskset(dataset, transforms)

    def _classes(self, labels: Tensor, split: str) -> Tensor:
        """Which images [n] are of the split's classes."""
        known = labels.unique()
        held = max(self.ways, len(known) // 5)
        most = len(known) // 3
        if self.ways > most:
            raise TaskError(
                f"ways must be at most {most}, so that {len(known)} classes make three splits, got {self.ways}; "
                "held_out='images' allows more"
            )
        sizes = [len(known) - 2 * held, held, held]
        return torch.isin(labels, known.split(sizes)[SPLITS.index(split)])


class FewShotDigits(FewShotImages):
    """Few-shot tasks on real handwritten digits, 8 x 8 pixels (see `Digits`).

    Args: see `FewShotImages`; by default 3 ways, and so digits 0-3 to train, 4-6 to validate, 7-9 to test.
    """

    def __init__(
        self,
        ways: int = 3,
        shots: int = 5,
        queries: int = 10,
        hidden: list[int] = [32],  # noqa: B006 - read only
        batch_size: int | None = None,
        activation: str = "relu",
        held_out: HeldOutClasses = "classes",
    ) -> None:
        super().__init__(64, ways, shots, queries, hidden, batch_size, activation, held_out)

    def images(self) -> tuple[Tensor, Tensor]:
        return Digits().images()


class FewShotMnist(FewShotImages):
    """Few-shot tasks on MNIST from idx files in a folder, 28 x 28 pixels.

    Args:
        folder, subset: see `Mnist`.
        ways, shots, queries, hidden, batch_size, activation, held_out: see `FewShotImages`.
    """

    def __init__(
        self,
        folder: str,
        subset: str = "train",
        ways: int = 3,
        shots: int = 5,
        queries: int = 15,
        hidden: list[int] = [32],  # noqa: B006 - read only
        batch_size: int | None = None,
        activation: str = "relu",
        held_out: HeldOutClasses = "classes",
    ) -> None:
        super().__init__(784, ways, shots, queries, hidden, batch_size, activation, held_out)
        if subset not in ("train", "t10k"):
            raise TaskError(f"subset must be 'train' or 't10k', got {subset!r}")
        self.folder, self.subset = folder, subset

    def images(self) -> tuple[Tensor, Tensor]:
        return load_images("mnist", self.folder, "train" if self.subset == "train" else "test")


def _draw(tasks: Any, seed: int) -> tuple[Tensor, Tensor]:
    """One of learn2learn's tasks, its rows and labels, from a seed."""
    with _global_streams(seed):
        if tasks.num_tasks > 0:  # learn2learn keeps the tasks it has drawn; here task i is drawn anew, from i
            number = random.randrange(tasks.num_tasks)
            random.seed(number)
            np.random.seed(number)
        x, y = tasks.get_task(tasks.sample_task_description())
    return x, y


@contextlib.contextmanager
def _global_streams(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, and put them back afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
