"""What the experiments on labelled images share: the data, the network, and the seeds."""

import copy
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.experiments.harness.base import NO_TELEPORT, Experiment, Progress
from metatele.experiments.harness.paired import Paired, compare_paired
from metatele.experiments.harness.training import Problem
from metatele.support.checks import at_least
from metatele.support.parallel import Item, Result, run_all
from metatele.support.seeding import derive_seed
from metatele.task.images import CLASSES, ImageSet, ImageSplit, Labelled, split_images
from metatele.teleports import Stay, Teleport

SLOPE = 0.1  # of LeakyReLU


class ImageExperiment(Experiment):
    """An experiment with networks pixels-16-10-10 by default, LeakyReLU(0.1), cross-entropy, in minibatches.

    Args:
        folder: where the files of the images are (see `metatele.load_images`).
        dataset: "mnist", "fashion_mnist" or "cifar10".
        rows, validation_rows: how many random images to train on and to validate on; all when None.
        hidden: widths of the hidden layers.
        batch: images in a minibatch.
        epochs: how long to train.
        networks: networks for each variant, each with a seed of its own.
        seed: what all initial weights and minibatches depend on.
        jobs: processes to use; None for one on each processor core. The numbers do not depend on it.
    Source: Zhao et al. 2024, arXiv:2305.13404, sections 4 and 5.
    """

    def __init__(
        self,
        folder: str,
        dataset: ImageSet = "mnist",
        rows: int | None = None,
        validation_rows: int | None = None,
        hidden: tuple[int, ...] = (16, 10),
        batch: int = 20,
        epochs: int = 40,
        networks: int = 20,
        seed: int = 0,
        jobs: int | None = None,
    ) -> None:
        at_least(1, batch=batch, epochs=epochs, networks=networks, **{f"hidden[{i}]": h for i, h in enumerate(hidden)})
        at_least(0, seed=seed)
        self.jobs = (os.cpu_count() or 1) if jobs is None else jobs
        at_least(1, jobs=self.jobs)
        counts = {"rows": rows, "validation_rows": validation_rows}
        at_least(1, **{name: count for name, count in counts.items() if count is not None})
        self.folder, self.dataset, self.rows, self.validation_rows = folder, dataset, rows, validation_rows
        self.hidden, self.batch, self.epochs, self.networks, self.seed = tuple(hidden), batch, epochs, networks, seed
        if rows is not None:
            self._check_batch(rows)

    def data(self) -> ImageSplit:
        """The images to train on and those to validate on; their files are read once in each process."""
        return split_images(self.dataset, self.folder, self.rows, self.validation_rows)

    def network(self, pixels: int) -> nn.Sequential:
        """The network for images with `pixels` pixels."""
        widths = [pixels, *self.hidden]
        layers = [m for i, o in zip(widths, self.hidden, strict=False) for m in (nn.Linear(i, o), nn.LeakyReLU(SLOPE))]
        return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))

    def with_none(self, teleports: dict[str, Teleport]) -> dict[str, Teleport]:
        """The variants, the one without teleports first.

        Raises: ConfigError if its name is taken; SymmetryError if the network lacks a teleport's group.
        """
        if NO_TELEPORT in teleports:
            raise ConfigError(
                f"a teleport is called {NO_TELEPORT!r}, which is the name of the variant without any; rename it"
            )
        for name, teleport in teleports.items():
            if not isinstance(teleport, Teleport):
                raise ConfigError(f"{name!r} must be an object of a class of Teleport, got {teleport!r}")
            teleport.group(self.network(1))
        return {NO_TELEPORT: Stay(), **teleports}

    def problem(self, train: Labelled, validation: Labelled, networks: int) -> Problem:
        """The problem of `networks` networks on the same images.

        Raises: ConfigError if there are fewer images than in one minibatch.
        """
        self._check_batch(len(train[1]))
        return Problem(
            self.network(train[0].shape[1]),
            nn.functional.cross_entropy,
            train=(train[0].expand(networks, -1, -1), train[1].expand(networks, -1)),
            validation=(validation[0].expand(networks, -1, -1), validation[1].expand(networks, -1)),
            batch_size=self.batch,
        )

    def run_all(
        self, function: Callable[[Item], Result], items: Sequence[Item], stage: str, progress: Progress
    ) -> list[Result]:
        """function(item) of every item, on as many processes as the experiment may use.

        Args:
            function: a method of the experiment.
            items: one run each.
            stage: what this is, for the progress.
            progress: told how many runs have ended.
        """
        progress(stage, 0, len(items))
        return run_all(function, items, self.jobs, lambda done: progress(stage, done, len(items)))

    def seeds(self, purpose: str, count: int) -> list[int]:
        """`count` seeds; those for different purposes are unrelated."""
        return [derive_seed(purpose, self.seed, i) for i in range(count)]

    def describe(self, data: ImageSplit) -> str:
        """Network and data in a few words."""
        (images, train), (_, validation) = data.train, data.validation
        widths = "-".join(map(str, (images.shape[1], *self.hidden, CLASSES)))
        return f"{self.dataset}, {widths}, {len(train)} images to train on, {len(validation)} to validate on"

    def _check_batch(self, rows: int) -> None:
        if rows < self.batch:
            raise ConfigError(f"batch={self.batch} is more than the {rows} images to train on")


def scheduled(teleport: Teleport, times: int, every: int) -> Teleport:
    """A copy that teleports a number of times: at step 0, and then at every `every`-th step."""
    out = copy.copy(teleport)
    out.first, out.last, out.every = 0, (times - 1) * every, every
    return out


def hold_out(labelled: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Images without a random share of them, and that share; at least one on either side."""
    images, labels = labelled
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    return (images[order[count:]], labels[order[count:]]), (images[order[:count]], labels[order[:count]])


def paired(values: Tensor, reference: Tensor, *names: object) -> Paired:
    """Values [B] against the reference's, paired over the seeds where both are finite.

    Args:
        values, reference: one for each seed.
        names: what the bootstrap's draws depend on.
    """
    a, b = (side.detach().double().cpu().numpy() for side in (values, reference))
    rng = np.random.default_rng(derive_seed("interval", *names))
    return compare_paired(a, b, np.isfinite(a) & np.isfinite(b), rng)
