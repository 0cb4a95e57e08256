"""The order of a task's rows: how they are cut into parts, and what is said of labels that one part alone holds."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metatele import TaskFamily, sample_meta_batch
from metatele.task import contract
from metatele.task.family import PARTS


class Sorted(TaskFamily):
    """A table of three classes, one after the other; the first column is the row's number."""

    parts = (0.5, 0.25, 0.25)

    def __init__(self, shuffle: bool = True, classes: int = 3, rows: int = 60) -> None:
        self.shuffle, self.classes, self.rows = shuffle, classes, rows

    def network(self):
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, self.classes))

    def sample(self, generator):
        x = torch.randn(self.rows, 3, generator=generator)
        x[:, 0] = torch.arange(self.rows)
        return x, torch.arange(self.rows) * self.classes // self.rows

    def loss(self, prediction, target):
        return F.cross_entropy(prediction, target)


@pytest.fixture(autouse=True)
def _nobody_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "_warned", set())


def test_a_sorted_table_is_cut_into_parts_of_all_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = sample_meta_batch(Sorted(), "train", range(4))
    orders = torch.cat([batch.inputs[p][:, :, 0] for p in PARTS], 1).long()
    assert [batch.inputs[p].shape[1] for p in PARTS] == [30, 15, 15]
    for task, order in enumerate(orders):
        assert sorted(order.tolist()) == list(range(60)), "each row is in one part"
        labels = torch.cat([batch.targets[p][task] for p in PARTS])
        assert torch.equal(labels, order * 3 // 60), "with its own target"
        assert all(set(batch.targets[p][task].tolist()) == {0, 1, 2} for p in PARTS)
    assert len({tuple(order.tolist()) for order in orders}) == 4, "each task has an order of its own"
    again = sample_meta_batch(Sorted(), "train", [2])
    assert all(torch.equal(again.inputs[p][0], batch.inputs[p][2]) for p in PARTS), "which is its own alone"
    sorted_family = sample_meta_batch(Sorted(False), "train", [2])
    for name, weight in again.params.items():
        assert torch.equal(weight, sorted_family.params[name]), "no other draw depends on it"


def test_rows_without_parts_stay_in_order():
    family = Sorted()
    family.parts = (1.0, 0.0, 0.0)
    assert torch.equal(sample_meta_batch(family, "train", [0]).inputs["inner"][0, :, 0], torch.arange(60.0))


def test_labels_that_were_never_trained_on_are_spoken_of_once():
    said = (
        r"Sorted: the meta rows of task 5 of the test split hold the label 2, .* do not hold; Sorted.shuffle is False"
    )
    with pytest.warns(UserWarning, match=said):
        batch = sample_meta_batch(Sorted(False, classes=4), "test", [5])
    assert torch.equal(batch.inputs["inner"][0, :, 0], torch.arange(30.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_meta_batch(Sorted(False, classes=4), "test", [6])


def test_few_rows_of_many_classes_are_spoken_of_too():
    with pytest.warns(UserWarning, match=r"which its inner rows, the ones that are trained on, do not hold$"):
        sample_meta_batch(Sorted(classes=20, rows=24), "train", range(3))


def test_targets_that_are_no_labels_are_not_spoken_of():
    class Values(Sorted):
        def sample(self, generator):
            x, y = super().sample(generator)
            return x, F.one_hot(y, self.classes).float()

        def loss(self, prediction, target):
            return (prediction - target).square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_meta_batch(Values(False), "train", range(2))
