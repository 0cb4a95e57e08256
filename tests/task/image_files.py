"""Small files in the formats of MNIST and CIFAR-10, for tests."""

import gzip
import struct
from pathlib import Path

import torch
from torch import Tensor

CIFAR = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def write_idx(path: Path, data: Tensor, packed: bool = False, cut: int = 0) -> None:
    raw = struct.pack(f">HBB{data.dim()}I", 0, 8, data.dim(), *data.shape) + bytes(data.flatten().tolist())
    raw = raw[: len(raw) - cut]
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def write_mnist(folder: Path, subset: str = "train", packed: bool = False, rows: int = 40) -> tuple[Tensor, Tensor]:
    """idx files of random images [rows, 28, 28] and labels 0, 1, ..., 9, 0, ...; returns both."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = _draw((rows, 28, 28), 0)
    write_idx(folder / f"{subset}-images-idx3-ubyte", images, packed)
    write_idx(folder / f"{subset}-labels-idx1-ubyte", labels, packed)
    return images, labels


def write_cifar(folder: Path, subset: str, rows: int = 4) -> tuple[Tensor, Tensor]:
    """The files of a subset, of `rows` random images each; returns what is in all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = zip(*(_draw((rows, 3072), seed) for seed, _ in enumerate(CIFAR[subset])), strict=True)
    for name, pixels, numbers in zip(CIFAR[subset], images, labels, strict=True):
        records = torch.cat([numbers.unsqueeze(1), pixels], dim=1)
        (folder / f"{name}.bin").write_bytes(bytes(records.flatten().tolist()))
    return torch.cat(images), torch.cat(labels)


def _draw(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))
    return images, (torch.arange(len(images)) + seed) % 10
