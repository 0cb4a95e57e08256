"""What drawn tasks must do: each row meets its own target, and every part of every task runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metatele import MetateleError, TaskError, TaskFamily, sample_meta_batch


def family(
    loss, targets, outputs: int = 1, squeeze: bool = False, accuracy=None, rows: int = 12, head=()
) -> TaskFamily:
    """Regression of three inputs; `targets` makes them of inputs and a generator."""

    class Made(TaskFamily):
        def network(self):
            layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs), *head]
            return nn.Sequential(*layers, *([nn.Flatten(0)] if squeeze else []))

        def sample(self, generator):
            x = torch.randn(rows, 3, generator=generator)
            return x, targets(x, generator)

        def loss(self, prediction, target):
            return loss(prediction, target)

    if accuracy is not None:
        Made.accuracy = lambda self, prediction, target: accuracy(prediction, target)
    return Made()


def mse(p, y):
    return (p - y).square().mean()


def agree(p, y):
    return ((p > 0) == (y > 0)).float().mean()


def values(x, g):
    return x.sum(1)


def column(x, g):
    return x.sum(1, keepdim=True)


def classes(n: int):
    return lambda x, g: torch.randint(n, (len(x),), generator=g)


@pytest.mark.parametrize(
    "made",
    [
        family(mse, values),
        family(mse, lambda x, g: x.sum(1).round().long()),
        family(lambda p, y: (p - y.float()).abs().mean(), lambda x, g: x.sum(1) > 0),
        family(mse, column, squeeze=True),
        family(lambda p, y: F.smooth_l1_loss(p, y.double().float()), lambda x, g: x.sum(1).double()),
        family(mse, values, outputs=12),  # as many outputs as rows: compared column by column
        family(mse, lambda x, g: x.sum(1), outputs=1, rows=2),
        family(lambda p, y: mse(p.squeeze(1), y), values, accuracy=agree),
        family(mse, column, accuracy=lambda p, y: agree(p, y.squeeze(1))),
    ],
)
def test_rows_that_are_compared_with_other_rows_are_refused(made):
    with pytest.raises(TaskError, match="compared with targets of other rows"):
        sample_meta_batch(made, "train", range(2))


@pytest.mark.parametrize(
    "made",
    [
        family(mse, column, accuracy=agree),
        family(mse, values, squeeze=True),
        family(lambda p, y: mse(p.squeeze(1), y), values, accuracy=lambda p, y: agree(p.squeeze(1), y)),
        family(F.cross_entropy, classes(4), outputs=4, rows=4, accuracy=lambda p, y: (p.argmax(1) == y).float().mean()),
        family(lambda p, y: F.cross_entropy(p, y, weight=torch.tensor([1.0, 5.0])), classes(2), outputs=2, rows=2),
        family(lambda p, y: (p.softmax(1).gather(1, y[:, None]) - 1).square().mean(), classes(3), outputs=3, rows=3),
        family(lambda p, y: F.nll_loss(p.log(), y), classes(5), outputs=5, rows=5, head=[nn.Softmax(-1)]),
        family(mse, lambda x, g: torch.zeros(len(x))),  # of equal targets it makes no difference
        family(lambda p, y: p.square().mean(), values),  # nor if they are not looked at
        family(mse, column, outputs=3),
        family(lambda p, y: (p.sort(0).values - y.sort(0).values).square().mean(), column),  # two sets of numbers
        family(lambda p, y: (p.mean() - y.mean()).square(), column),
        family(lambda p, y: (torch.arange(12.0)[:, None] * (p - y).square()).mean(), column),  # an order of rows
        family(mse, values, rows=1),
    ],
)
def test_rows_with_targets_of_their_own_are_taken(made):
    assert sample_meta_batch(made, "train", range(2)).tasks == 2


class Labels(TaskFamily):
    """Four classes, and sometimes a label that there is not."""

    parts, shuffle = (0.5, 0.25, 0.25), False

    def __init__(self, bad) -> None:
        self.bad = bad

    def network(self):
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))

    def sample(self, generator):
        x, y = torch.randn(16, 3, generator=generator), torch.randint(4, (16,), generator=generator)
        self.bad(y, generator)
        return x, y

    def loss(self, prediction, target):
        return F.cross_entropy(prediction, target)


def last(y, generator):
    y[-1] = 4


def rarely(y, generator):
    y[0] = 4 if torch.rand((), generator=generator) < 0.3 else y[0]


@pytest.mark.parametrize(
    ("bad", "where"),
    [(last, "the test rows of task 1 of the train"), (rarely, "the inner rows of task [1-9][0-9]? of the train")],
)
def test_bad_data_is_named_wherever_it_is(bad, where):
    with pytest.raises(MetateleError, match=where):
        sample_meta_batch(Labels(bad), "train", range(1, 12))
