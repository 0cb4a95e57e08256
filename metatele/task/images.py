"""Labelled images from a user's folder: MNIST, Fashion-MNIST, CIFAR-10. Files are data, never code."""

import functools
import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metatele.errors import TaskError
from metatele.support.checks import at_least, one_of
from metatele.support.seeding import generator

ImageSet = Literal["mnist", "fashion_mnist", "cifar10"]
Subset = Literal["train", "test"]
Labelled = tuple[Tensor, Tensor]  # images and labels

CLASSES = 10  # of each of the sets
CIFAR_PIXELS = 3 * 32 * 32
MOST_BYTES = 2**27  # bytes of one file, unpacked; the largest of these sets has 2**25.5


@dataclass(frozen=True)
class ImageSplit:
    """Images [n, pixels] float32 in [0, 1] and labels [n] int64, for training and for validation."""

    train: Labelled
    validation: Labelled


def load_images(name: ImageSet, folder: str, subset: Subset) -> Labelled:
    """Read a set of labelled images.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        folder: where the files are, under their usual names. (Fashion-)MNIST: idx files, plain or
            .gz, there or in raw, MNIST/raw or FashionMNIST/raw below it (torchvision's layout).
            CIFAR-10: the binary version (cifar-10-binary.tar.gz), there or in cifar-10-batches-bin below it.
        subset: "train" or "test".
    Returns: images [n, pixels] float32 in [0, 1], the channels of CIFAR-10 one after the other;
        labels [n] int64. They are read once and shared: do not write into them.
    Raises: TaskError if a file is missing, damaged or cut off; ConfigError for an unknown name or subset.
    Source: LeCun et al. 1998; Xiao et al. 2017, arXiv:1708.07747; Krizhevsky 2009.
    """
    one_of(get_args(ImageSet), name=name)
    one_of(get_args(Subset), subset=subset)
    return _load(name, os.path.abspath(os.path.expanduser(folder)), subset)


def split_images(
    name: ImageSet, folder: str, train: int | None = None, validation: int | None = None, seed: int = 0
) -> ImageSplit:
    """Images to train on and others to validate on.

    If the folder has the set's training files, these are for training and the test files for validation.
    If it has only the test files, a random 80% of them are for training and the rest for validation.

    Args:
        name, folder: see `load_images`.
        train, validation: how many random rows to take of each; all when None.
        seed: seed of the random choice of rows.
    Raises: what `load_images` raises; TaskError if there are fewer rows than asked for; ConfigError for
        a number of rows below 1.
    """
    folder = os.path.expanduser(folder)
    at_least(1, **{k: n for k, n in (("train", train), ("validation", validation)) if n is not None})
    one_of(get_args(ImageSet), name=name)
    if any(_find(name, folder, "train").values()):
        first, second = load_images(name, folder, "train"), load_images(name, folder, "test")
    else:
        images, labels = load_images(name, folder, "test")
        order = torch.randperm(len(labels), generator=generator("split images", seed))
        parts = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
        first, second = ((images[rows], labels[rows]) for rows in parts)
    return ImageSplit(_draw(first, train, "train", seed), _draw(second, validation, "validation", seed))


def _draw(labelled: Labelled, count: int | None, part: str, seed: int) -> Labelled:
    """`count` random rows, or all of them as they are."""
    images, labels = labelled
    if count is None:
        return labelled
    if count > len(labels):
        raise TaskError(f"{part}={count} is more than the {len(labels)} available images")
    rows = torch.randperm(len(labels), generator=generator("draw images", part, seed))[:count]
    return images[rows], labels[rows]


@dataclass(frozen=True)
class _Layout:
    """Where the files of a set are and what they are called.

    Attributes:
        places: folders to look in, relative to the user's folder.
        endings: what a file's name may end in.
        files: the files' names without their ending.
        read: reads the files into images and labels, uint8 [n, pixels] and [n].
        hint: what to say where files are missing.
    """

    places: tuple[str, ...]
    endings: tuple[str, ...]
    files: dict[Subset, list[str]]
    read: Callable[[list[Path]], Labelled]
    hint: str = ""


@functools.cache
def _load(name: ImageSet, folder: str, subset: Subset) -> Labelled:
    """Read the files of a subset once. Raises: TaskError."""
    found = _find(name, folder, subset)
    missing = [file for file, path in found.items() if path is None]
    if missing:
        endings = " or ".join(missing[0] + ending for ending in LAYOUTS[name].endings)
        hint = LAYOUTS[name].hint
        raise TaskError(f"no file {endings} in {folder!r}; put the files of {name} there or name their folder{hint}")
    paths = [path for path in found.values() if path is not None]
    images, labels = LAYOUTS[name].read(paths)
    if len(labels) == 0 or int(labels.max()) >= CLASSES:
        what = f"the label {int(labels.max())}, above {CLASSES - 1}" if len(labels) else "no image"
        raise TaskError(f"{', '.join(map(str, paths))}: there is {what}; these are not {name} files, fetch them anew")
    return images.float().div_(255), labels.long()


def _find(name: ImageSet, folder: str, subset: Subset) -> dict[str, Path | None]:
    """Each file of a subset and where it was found."""
    layout = LAYOUTS[name]

    def first(file: str) -> Path | None:
        paths = (Path(folder) / place / (file + end) for place in layout.places for end in layout.endings)
        return next((path for path in paths if os.path.isfile(path)), None)

    return {file: first(file) for file in layout.files[subset]}


def _read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped. Raises: TaskError if there are more than MOST_BYTES."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read: {error}; download it again") from error
    if len(raw) > MOST_BYTES:
        raise TaskError(
            f"{path} holds more than {MOST_BYTES} bytes, as no file of these image sets does; download it again"
        )
    return raw


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes, plain or gzipped: uint8, of the file's own shape.

    Format: two zero bytes, type code 8, number of dimensions, then each dimension as a big-endian
    32-bit number, then the bytes.

    Raises: TaskError if the file is not of this format or is cut off.
    """
    raw = _read_bytes(path)
    try:
        zero, code, dims = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    except struct.error as error:
        raise TaskError(f"{path} cannot be read as an idx file: {error}; download it again") from error
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * dims)
    if zero != 0 or code != 8 or not 1 <= dims <= 4 or data.size != math.prod(shape):
        raise TaskError(
            f"{path} is not an idx file of unsigned bytes, or is cut off: {data.size} bytes for {shape[:4]}; "
            "download it again"
        )
    return torch.from_numpy(data.reshape(shape).copy())


def _read_mnist(paths: list[Path]) -> Labelled:
    images, labels = map(read_idx, paths)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise TaskError(
            f"{paths[0].parent}: images {tuple(images.shape)} and labels {tuple(labels.shape)} do not belong together; "
            "expected (n, 28, 28) and (n,)"
        )
    return images.flatten(1), labels


def _read_cifar10(paths: list[Path]) -> Labelled:
    images, labels = zip(*map(_read_records, paths), strict=True)
    return torch.cat(images), torch.cat(labels)


def _read_records(path: Path) -> Labelled:
    """One file of CIFAR-10: records of a label and its pixels."""
    raw, record = _read_bytes(path), 1 + CIFAR_PIXELS
    if len(raw) % record:
        raise TaskError(f"{path} is cut off: {len(raw)} bytes are not a multiple of {record}; fetch it anew")
    rows = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, record).copy())
    return rows[:, 1:], rows[:, 0]


def _idx(*places: str) -> _Layout:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    files: dict[Subset, list[str]] = {"train": [f"train-{k}" for k in kinds], "test": [f"t10k-{k}" for k in kinds]}
    return _Layout(("", "raw", *places), ("", ".gz"), files, _read_mnist)


LAYOUTS: dict[ImageSet, _Layout] = {
    "mnist": _idx("MNIST/raw"),
    "fashion_mnist": _idx("FashionMNIST/raw"),
    "cifar10": _Layout(
        ("", "cifar-10-batches-bin"),
        (".bin",),
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
        _read_cifar10,
        " (the binary version, cifar-10-binary.tar.gz: pickled batches are not read)",
    ),
}
