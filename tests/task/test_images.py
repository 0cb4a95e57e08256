"""Labelled images from a folder: what is read, and what is refused with one clear line."""

import gzip
import pickle
import struct
from pathlib import Path

import pytest
import torch

from metatele import ConfigError, ImageSplit, TaskError, load_images, split_images
from metatele.task.images import read_idx
from tests.conftest import MNIST
from tests.task.image_files import CIFAR, write_cifar, write_idx, write_mnist

needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST files in {MNIST}")


def refused(path: Path, *load: str) -> str:
    """Reading must fail with one line that names the path and says what to do; the line."""
    with pytest.raises(TaskError) as caught:
        load_images(*load)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "fetch it anew" in message or "fetch them anew" in message or "name their folder" in message
    return message


@needs_mnist
def test_the_real_mnist_files():
    images, labels = load_images("mnist", str(MNIST), "test")
    assert images.shape == (10000, 784)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert float(images.mean()) == pytest.approx(0.1325, abs=1e-4)
    assert load_images("mnist", str(MNIST), "test")[0] is images, "read once"


@needs_mnist
def test_the_split_of_the_real_mnist_files():
    whole = load_images("mnist", str(MNIST), "test")[0]
    split = split_images("mnist", str(MNIST))
    assert [tuple(x.shape) for x in (*split.train, *split.validation)] == [(8000, 784), (8000,), (2000, 784), (2000,)]
    together = torch.cat([split.train[0], split.validation[0]])
    assert torch.equal(together.sum(1).sort().values, whole.sum(1).sort().values)
    small = split_images("mnist", str(MNIST), 100, 50, seed=1)
    assert (len(small.train[0]), len(small.validation[1])) == (100, 50)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("name", "below"),
    [
        *((name, below) for name in ("mnist", "fashion_mnist") for below in ("", "raw")),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_files_are_found_and_read(tmp_path, name, packed, below):
    images, labels = write_mnist(tmp_path / below, packed=packed)
    found, found_labels = load_images(name, str(tmp_path), "train")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, images.flatten(1).float() / 255)
    assert torch.equal(found_labels, labels)


def test_two_sets_in_one_folder_are_told_apart(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", rows=20)
    write_mnist(tmp_path / "FashionMNIST" / "raw", rows=30)
    assert len(load_images("mnist", str(tmp_path), "train")[0]) == 20
    assert len(load_images("fashion_mnist", str(tmp_path), "train")[0]) == 30


@pytest.mark.parametrize("below", [True, False], ids=["below", "in the folder"])
@pytest.mark.parametrize("subset", ["train", "test"])
def test_cifar_files_are_found_and_read(tmp_path, subset, below):
    images, labels = write_cifar(tmp_path / "cifar-10-batches-bin" if below else tmp_path, subset)
    found, found_labels = load_images("cifar10", str(tmp_path), subset)
    assert (found.dtype, found_labels.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(found, images.float() / 255)
    assert torch.equal(found_labels, labels)


def test_pickled_batches_are_not_read(tmp_path):
    """They could run code; the error says what to fetch in their place."""
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": b"", b"labels": []}))
    with pytest.raises(
        TaskError, match=r"no file test_batch\.bin in .* \(the binary version, cifar-10-binary\.tar\.gz"
    ):
        load_images("cifar10", str(tmp_path), "test")


@pytest.mark.parametrize("keep", [0, 1, 3073, 5000])
def test_a_cut_off_batch_of_cifar_is_named(tmp_path, keep):
    write_cifar(tmp_path, "train")
    path = tmp_path / (CIFAR["train"][2] + ".bin")
    path.write_bytes(path.read_bytes()[:keep])
    if keep % 3073 == 0:  # whole records, and others in the other batches
        assert len(load_images("cifar10", str(tmp_path), "train")[1]) == 16 + keep // 3073
    else:
        refused(path, "cifar10", str(tmp_path), "train")


def test_a_missing_batch_of_cifar_is_named(tmp_path):
    write_cifar(tmp_path, "train")
    next(tmp_path.glob("data_batch_4*")).unlink()
    assert "no file data_batch_4.bin in" in refused(tmp_path, "cifar10", str(tmp_path), "train")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("cut", [1, 10**6], ids=["one byte", "all"])
def test_a_cut_off_idx_file_is_named(tmp_path, packed, cut):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, torch.zeros(3, 28, 28, dtype=torch.int64), packed, cut)
    path = path.with_name(path.name + ".gz") if packed else path
    with pytest.raises(TaskError, match=str(path)):
        read_idx(path)


def test_files_that_are_no_idx_files_are_named(tmp_path):
    cut_gzip = tmp_path / "cut.gz"
    cut_gzip.write_bytes(gzip.compress(bytes(range(256)) * 8)[:-30])
    no_gzip = tmp_path / "text.gz"
    no_gzip.write_text("not gzip")
    garbled = tmp_path / "garbled.gz"
    packed = bytearray(gzip.compress(bytes(range(256)) * 8))
    packed[12:40] = b"\xff" * 28
    garbled.write_bytes(bytes(packed))
    text = tmp_path / "text"
    text.write_text("a text that is long enough to hold a header")
    many_dimensions = tmp_path / "dimensions"
    many_dimensions.write_bytes(struct.pack(">HBB", 0, 8, 255) + b"\x01" * 30)
    thin = tmp_path / "thin"
    thin.write_bytes(struct.pack(">HBB100I", 0, 8, 100, *[1] * 100) + b"\x01")
    large = tmp_path / "large"
    large.write_bytes(struct.pack(">HBB4I", 0, 8, 4, *[2**16] * 4))  # 2^64 bytes are 0 to a number of 64 bits
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for path in (cut_gzip, no_gzip, garbled, text, many_dimensions, thin, large, empty, tmp_path / "missing"):
        with pytest.raises(TaskError, match=str(path)):
            read_idx(path)


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("metatele.task.images.MOST_BYTES", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(1001)))
    with pytest.raises(TaskError, match=f"{path} holds more than 1000 bytes"):
        read_idx(path)


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", torch.zeros(7, dtype=torch.int64))
    with pytest.raises(TaskError, match=rf"{tmp_path}.*\(40, 28, 28\) and labels \(7,\)"):
        load_images("mnist", str(tmp_path), "train")
    write_idx(tmp_path / "train-images-idx3-ubyte", torch.zeros(7, 27, 28, dtype=torch.int64))
    with pytest.raises(TaskError, match=r"\(7, 27, 28\).*expected \(n, 28, 28\)"):
        load_images("mnist", str(tmp_path), "train")


def test_labels_beyond_nine_are_refused(tmp_path):
    write_mnist(tmp_path, rows=2)
    path = tmp_path / "train-labels-idx1-ubyte"
    write_idx(path, torch.tensor([3, 10]))
    assert "the label 10, above 9" in refused(path, "mnist", str(tmp_path), "train")
    (tmp_path / "test_batch.bin").write_bytes(bytes([255]) + bytes(3072))
    assert "the label 255" in refused(tmp_path / "test_batch.bin", "cifar10", str(tmp_path), "test")


def test_files_without_images_are_refused(tmp_path):
    write_mnist(tmp_path, rows=0)
    assert "no image" in refused(tmp_path, "mnist", str(tmp_path), "train")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("folder", ["", "nowhere", "x" * 5000, "a file"])
def test_a_folder_without_files_is_named(tmp_path, name, folder):
    (tmp_path / "a file").write_text("")
    refused(tmp_path / folder, name, str(tmp_path / folder), "train")
    with pytest.raises(TaskError, match="name their folder"):
        split_images(name, str(tmp_path / folder))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: load_images("svhn", folder, "train"), "mnist, fashion_mnist, cifar10, got 'svhn'"),
        (lambda folder: load_images("mnist", folder, "t10k"), "train, test, got 't10k'"),
        (lambda folder: split_images("svhn", folder), "got 'svhn'"),
        (lambda folder: split_images("mnist", folder, train=0), "train must be .* got 0"),
        (lambda folder: split_images("mnist", folder, validation=1.5), "validation must be .* got 1.5"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, call, message):
    with pytest.raises(ConfigError, match=message):
        call(str(tmp_path))


def same(a: ImageSplit, b: ImageSplit) -> bool:
    return all(torch.equal(x, y) for x, y in zip((*a.train, *a.validation), (*b.train, *b.validation), strict=True))


def rows_of(images: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in images.tolist()}


def test_a_folder_with_both_subsets_is_split_by_them(tmp_path):
    write_mnist(tmp_path, "train", rows=40)
    write_mnist(tmp_path, "t10k", rows=20)
    split = split_images("mnist", str(tmp_path))
    assert split.train[0] is load_images("mnist", str(tmp_path), "train")[0]
    assert split.validation[0] is load_images("mnist", str(tmp_path), "test")[0]
    cut = split_images("mnist", str(tmp_path), 15, 5, seed=3)
    assert (len(cut.train[1]), len(cut.validation[1])) == (15, 5)
    assert rows_of(cut.train[0]) < rows_of(split.train[0])
    assert same(cut, split_images("mnist", str(tmp_path), 15, 5, seed=3))
    assert not same(cut, split_images("mnist", str(tmp_path), 15, 5, seed=4))
    label = {tuple(x): y for x, y in zip(split.train[0].tolist(), split.train[1].tolist(), strict=True)}
    assert [label[tuple(x)] for x in cut.train[0].tolist()] == cut.train[1].tolist(), "each image keeps its label"


def test_a_folder_with_test_files_only_is_split_at_random(tmp_path):
    write_mnist(tmp_path, "t10k", rows=50)
    whole, labels = load_images("mnist", str(tmp_path), "test")
    split = split_images("mnist", str(tmp_path), seed=1)
    assert (len(split.train[0]), len(split.validation[0])) == (40, 10)
    assert rows_of(split.train[0]) | rows_of(split.validation[0]) == rows_of(whole)
    assert not torch.equal(split.train[0], whole[:40])
    label = {tuple(x): y for x, y in zip(whole.tolist(), labels.tolist(), strict=True)}
    assert [label[tuple(x)] for x in split.train[0].tolist()] == split.train[1].tolist()
    assert same(split, split_images("mnist", str(tmp_path), seed=1))
    assert not same(split, split_images("mnist", str(tmp_path), seed=2))
    cut = split_images("mnist", str(tmp_path), 7, 3, seed=1)
    assert rows_of(cut.train[0]) < rows_of(split.train[0])
    assert rows_of(cut.validation[0]) < rows_of(split.validation[0])


@pytest.mark.parametrize(("rows", "part"), [((41, 1), "train=41 is more than the 40"), ((1, 11), "validation=11")])
def test_more_rows_than_there_are(tmp_path, rows, part):
    write_mnist(tmp_path, "t10k", rows=50)
    with pytest.raises(TaskError, match=part):
        split_images("mnist", str(tmp_path), *rows)


def test_half_a_training_set_is_no_silent_change_of_the_rule(tmp_path):
    write_mnist(tmp_path, "t10k")
    write_mnist(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(TaskError, match="train-labels-idx1-ubyte"):
        split_images("mnist", str(tmp_path))
