"""Few-shot tasks: what learn2learn draws, put in order, reproducible, and held out between the splits."""

import copy
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from tests.task.image_files import write_mnist

pytest.importorskip("learn2learn", reason="few-shot tasks need learn2learn")

import learn2learn
from metatele.tasks import Digits, FewShot, FewShotDigits, FewShotMnist

from metatele import ConfigError, GradientDescent, InnerOptimizer, TaskError, Unroll, sample_meta_batch
from metatele.task.stack import stacked_forward
from metatele.testing import check_task_family

SPLITS = ["train", "validation", "test"]
PARTS = ["inner", "meta", "test"]


class Points(FewShot):
    """Points of which the first coordinate is the class and the second the row; written as a user would.

    Keyword arguments change the transforms: `ways` and `rows` of a task, `remap`, `num_tasks`.
    """

    __module__ = "tests"

    def __init__(self, num_tasks=-1, remap=True, ways=3, rows=6, **other):
        super().__init__(ways=3, shots=2, queries=2, **other)
        self.made = []
        self.num_tasks, self.remap, self.drawn = num_tasks, remap, (ways, rows)

    def network(self):
        return nn.Linear(2, self.ways)

    def task_dataset(self, split):
        self.made.append(split)
        begin = 10 * SPLITS.index(split)
        labels = torch.arange(begin, begin + 7).repeat_interleave(9)
        points = torch.stack([labels, torch.arange(len(labels))], 1).float()
        dataset = learn2learn.data.MetaDataset(torch.utils.data.TensorDataset(points, labels))
        transforms = learn2learn.data.transforms
        listed = [
            transforms.NWays(dataset, self.drawn[0]),
            transforms.KShots(dataset, self.drawn[1]),
            transforms.LoadData(dataset),
            *([transforms.RemapLabels(dataset)] if self.remap else []),
        ]
        return learn2learn.data.Taskset(dataset, listed, num_tasks=self.num_tasks)


def numbers(batch):
    """The rows of each part of each task, by number."""
    return [[set(batch.inputs[part][i, :, 1].tolist()) for part in PARTS] for i in range(batch.tasks)]


@pytest.fixture(
    params=[
        lambda: Points(),
        lambda: Points(num_tasks=50, batch_size=3),
        lambda: FewShotDigits(),
        lambda: FewShotDigits(ways=2, shots=1, queries=20, hidden=[8, 8], activation="tanh"),
        lambda: FewShotDigits(ways=10, shots=2, queries=3, held_out="images", batch_size=7),
    ],
    ids=["own", "own finite", "digits", "digits 2-way", "digits 10-way"],
)
def family(request):
    return request.param()


def test_the_contract(family):
    check_task_family(family)


@pytest.mark.parametrize("split", SPLITS)
def test_every_part_is_balanced(family, split):
    batch = sample_meta_batch(family, split, range(3))
    for part, rows in zip(PARTS, (family.shots, family.queries, family.queries), strict=True):
        labels = batch.targets[part]
        assert labels.shape == (3, rows * family.ways)
        assert labels.reshape(3, rows, family.ways).equal(torch.arange(family.ways).expand(3, rows, -1))


def test_the_rows_of_the_parts_are_disjoint_and_of_their_classes():
    batch = sample_meta_batch(Points(), "validation", range(20))
    for i, (inner, meta, test) in enumerate(numbers(batch)):
        assert len(inner | meta | test) == 18
        for label in range(3):
            classes = {float(batch.inputs[p][i, batch.targets[p][i] == label, 0].unique()) for p in PARTS}
            assert len(classes) == 1, "a label is one class in all parts"
            assert classes <= {float(c) for c in range(10, 17)}
    assert len({tuple(map(frozenset, parts)) for parts in numbers(batch)}) == 20, "tasks differ"


def test_over_many_tasks_every_class_has_every_label_and_every_row_every_part():
    batch = sample_meta_batch(Points(), "train", range(200))
    seen = {
        (float(c), int(y))
        for c, y in zip(batch.inputs["inner"][..., 0].flatten(), batch.targets["inner"].flatten(), strict=True)
    }
    assert len(seen) == 7 * 3
    for part in PARTS:
        assert len(batch.inputs[part][..., 1].unique()) == 63


def test_equal_generator_states_give_equal_tasks_and_the_global_streams_go_on():
    restricted = FewShotDigits().for_split("test")
    draws = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        expected = random.random(), np.random.rand(), float(torch.rand(()))
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        draws.append(restricted.sample(torch.Generator().manual_seed(5)))
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])


def test_a_finite_set_has_so_many_tasks_whatever_was_drawn_before():
    family, again = Points(num_tasks=4), Points(num_tasks=4)
    batch = sample_meta_batch(family, "train", range(40))
    assert len({tuple(map(frozenset, parts)) for parts in numbers(batch)}) == 4
    later = sample_meta_batch(again, "train", range(39, 19, -1))
    assert numbers(later) == numbers(batch)[:19:-1]


def test_the_task_datasets_are_made_once():
    family = Points()
    for split in ("test", "train", "test"):
        sample_meta_batch(family, split, range(2))
    assert family.made == ["test", "train"]
    x, _ = family.sample(torch.Generator().manual_seed(0))
    assert torch.equal(x, family.for_split("train").sample(torch.Generator().manual_seed(0))[0])
    assert family.made == ["test", "train"]
    twin = copy.deepcopy(FewShotDigits())
    assert torch.equal(twin.sample(torch.Generator())[0], FewShotDigits().sample(torch.Generator())[0])


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"rows": 5}, r"\{0: 5, 1: 5, 2: 5\}"),
        ({"ways": 2}, r"\{0: 6, 1: 6\}"),
        ({"remap": False}, r"\{\d+: 6, \d+: 6, \d+: 6\}"),
    ],
)
def test_tasks_of_another_make_are_refused(settings, found):
    with pytest.raises(TaskError, match=rf"Points.task_dataset\('test'\).*6 rows .* labels 0 to 2, got {found}"):
        sample_meta_batch(Points(**settings), "test", range(2))


def digit_of(images):
    """The digit of each image [n, 64]."""
    known, labels = Digits().images()
    return labels[torch.cdist(images, known).argmin(1)]


@pytest.mark.parametrize(("ways", "sizes"), [(2, [6, 2, 2]), (3, [4, 3, 3])])
def test_held_out_classes(ways, sizes):
    seen = []
    for split in SPLITS:
        batch = sample_meta_batch(FewShotDigits(ways=ways), split, range(30))
        seen.append(set(digit_of(batch.inputs["inner"].flatten(0, 1)).tolist()))
    assert [len(digits) for digits in seen] == sizes
    assert seen[0] | seen[1] | seen[2] == set(range(10))


def test_held_out_images():
    seen = []
    for split in SPLITS:
        batch = sample_meta_batch(FewShotDigits(ways=5, held_out="images"), split, range(60))
        images = torch.cat([batch.inputs[part].flatten(0, 1) for part in PARTS])
        assert set(digit_of(images).tolist()) == set(range(10))
        seen.append({tuple(row.tolist()) for row in images})
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FewShotDigits(ways=1), r"ways >= 2.*got \(1, 5, 10\)"),
        (lambda: FewShotDigits(shots=0), r"\(3, 0, 10\)"),
        (lambda: FewShotDigits(hidden=[0]), r"hidden=\[0\]"),
        (lambda: FewShotDigits(activation="rule"), "got 'rule'"),
        (lambda: FewShotDigits(held_out="tasks"), "classes, images, got 'tasks'"),
        (lambda: FewShotMnist("x", "valid"), "'train' or 't10k', got 'valid'"),
        (lambda: sample_meta_batch(FewShotDigits(ways=4), "train", [0]), "ways must be at most 3.*got 4.*'images'"),
        (lambda: sample_meta_batch(FewShotDigits(queries=90), "train", [0]), "= 185 at most 17.*the train split has 4"),
        (
            lambda: sample_meta_batch(FewShotDigits(ways=11, held_out="images"), "test", [0]),
            "ways=11 must be at most 10",
        ),
    ],
)
def test_impossible_settings_are_refused_with_their_value(make, message):
    with pytest.raises(TaskError, match=message):
        make()


def test_mnist_from_a_folder(tmp_path):
    write_mnist(tmp_path, "t10k", rows=80)
    family = FewShotMnist(str(tmp_path), "t10k", ways=2, shots=2, queries=3, hidden=[4])
    batch = sample_meta_batch(family, "test", range(2))
    assert batch.inputs["meta"].shape == (2, 6, 784)
    with pytest.raises(TaskError, match="train-images-idx3-ubyte"):
        sample_meta_batch(FewShotMnist(str(tmp_path)), "train", [0])


def test_a_few_steps_learn_what_is_not_seen():
    batch = sample_meta_batch(FewShotDigits(), "test", range(8))
    unroll = Unroll(InnerOptimizer(GradientDescent(0.5)), batch, 40)
    end = unroll.window(unroll.start(), 40, differentiable=False).end
    x, y = batch.rows("test")
    right = [
        float(batch.accuracies(stacked_forward(batch.network, p, x), y).mean()) for p in (batch.params, end.params)
    ]
    assert right[0] < 0.6
    assert right[1] > 0.85


def test_many_tasks_are_drawn_in_little_time():
    family = FewShotDigits()
    sample_meta_batch(family, "train", [0])
    began = time.perf_counter()
    sample_meta_batch(family, "train", range(128))
    assert time.perf_counter() - began < 5


PROGRAM = """
import sys
from metatele import sample_meta_batch
from metatele.tasks import FewShotDigits
family = FewShotDigits()
assert "learn2learn" not in sys.modules, "imported only when it is used"
sample_meta_batch(family, "train", [0])
assert "learn2learn" in sys.modules
"""


def test_learn2learn_is_imported_quietly_and_when_it_is_used():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_learn2learn_one_line_names_the_way_out(monkeypatch):
    # With None in sys.modules, Python says that there is no such module.
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(ConfigError, match=r"needs learn2learn.*halted.*pip install -r") as caught:
        sample_meta_batch(FewShotDigits(), "train", [0])
    assert "\n" not in str(caught.value)
