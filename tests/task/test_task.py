"""Tasks and meta-batches: splits, parts, minibatches, seeds, and every error of a family."""

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from metatele import TaskError, TaskFamily, sample_meta_batch
from metatele.task.stack import StackedNetwork, stacked_forward
from metatele.testing import ExampleFamily, check_task_family

SPLITS = ["train", "validation", "test"]


class Family(ExampleFamily):
    """An example that a test can break: keyword arguments replace methods and attributes."""

    __module__ = "tests"

    def __init__(self, **broken):
        super().__init__(rows=12)
        for name, value in broken.items():
            setattr(self, name, value)


def draw(**broken):
    return sample_meta_batch(Family(**broken), "train", range(2))


def data(rows=12, columns=4, targets=2, targets_rows=None):
    def sample(generator):
        x = torch.randn(rows, columns, generator=generator)
        return x, torch.randn(targets_rows or rows, targets, generator=generator)

    return sample


def with_value(value, side):
    def sample(generator):
        pair = list(data()(generator))
        pair[side][1, 1] = value
        return tuple(pair)

    return sample


def test_a_task_depends_on_seed_split_and_index_only():
    family = Family(parts=(0.5, 0.25, 0.25))
    batch = sample_meta_batch(family, "train", [3, 0, 7], seed=5)
    for position, index in enumerate([3, 0, 7]):
        torch.rand(3)  # the global generator moves on
        alone = sample_meta_batch(family, "train", [index], seed=5)
        for key, value in alone.params.items():
            assert torch.equal(value[0], batch.params[key][position])
        for part in ("inner", "meta", "test"):
            assert torch.equal(alone.inputs[part][0], batch.inputs[part][position])
            assert torch.equal(alone.targets[part][0], batch.targets[part][position])
        assert alone.seeds[0] == batch.seeds[position]


def test_splits_and_seeds_are_streams_of_their_own():
    first = [sample_meta_batch(Family(), split, [0], seed) for split in SPLITS for seed in range(3)]
    assert len({float(b.inputs["inner"].sum()) for b in first}) == 9
    assert len({int(b.seeds[0]) for b in first}) == 9


def test_parts_are_disjoint_rows_in_order_where_a_family_says_so():
    family = Family(parts=(0.5, 0.25, 0.25))
    family.shuffle = False
    batch = sample_meta_batch(family, "train", [0])
    whole = sample_meta_batch(Family(), "train", [0])
    assert [batch.inputs[p].shape[1] for p in ("inner", "meta", "test")] == [6, 3, 3]
    assert torch.equal(torch.cat([batch.inputs[p] for p in ("inner", "meta", "test")], 1), whole.inputs["inner"])
    assert torch.equal(torch.cat([batch.targets[p] for p in ("inner", "meta", "test")], 1), whole.targets["inner"])
    assert not batch.shares_meta


@pytest.mark.parametrize(("parts", "shared"), [((1, 0, 0), ["meta", "test"]), ((0.5, 0.5, 0), ["test"])])
def test_a_part_without_rows_is_the_inner_part(parts, shared):
    batch = sample_meta_batch(Family(parts=parts), "train", range(2))
    moved = batch.to(torch.float64)
    for part in shared:
        assert batch.inputs[part] is batch.inputs["inner"]
        assert moved.inputs[part] is moved.inputs["inner"]
    assert batch.shares_meta == moved.shares_meta == ("meta" in shared)
    assert not sample_meta_batch(Family(parts=parts, batch_size=3), "train", range(2)).shares_meta


def minibatches(batch, part, steps):
    """The row numbers of the first steps, [steps, B, rows]."""
    return batch.minibatches(part).first(steps)


def test_a_minibatch_epoch_sees_no_row_twice():
    batch = sample_meta_batch(Family(batch_size=5), "train", range(3))
    index = minibatches(batch, "inner", 12)
    assert index.shape == (12, 3, 5)
    for task in range(3):
        seen = index[:, task].flatten()
        for epoch in range(6):  # of two minibatches; two of the twelve rows are left over
            assert len(set(seen[10 * epoch : 10 * (epoch + 1)].tolist())) == 10
        assert set(seen.tolist()) == set(range(12))
        assert not torch.equal(seen[:10], seen[10:20])
    assert not torch.equal(index[:, 0], index[:, 1])
    assert torch.equal(index, minibatches(batch, "inner", 12))
    assert torch.equal(index[:7], minibatches(batch, "inner", 7)), "a longer trajectory begins like a shorter one"
    alone = sample_meta_batch(Family(batch_size=5), "train", [2])
    assert torch.equal(minibatches(alone, "inner", 12)[:, 0], index[:, 2])
    assert not torch.equal(minibatches(batch, "meta", 12), index)


def test_minibatches_may_be_asked_for_in_any_order_and_few_are_held():
    batch = sample_meta_batch(Family(batch_size=5), "train", range(2))
    expected, drawn = minibatches(batch, "inner", 1000), batch.minibatches("inner")
    for step in (999, 3, 255, 256, 300, 255, 0, 700):
        assert torch.equal(drawn[step], expected[step])
        assert sum(len(block) for block in drawn._blocks.values()) <= 2 * 256


def test_rows_picks_the_rows_of_each_task():
    batch = sample_meta_batch(Family(batch_size=5), "train", range(2))
    index = minibatches(batch, "inner", 1)[0]
    x, y = batch.rows("inner", index)
    for task in range(2):
        assert torch.equal(x[task], batch.inputs["inner"][task, index[task]])
        assert torch.equal(y[task], batch.targets["inner"][task, index[task]])


@pytest.mark.parametrize("size", [12, 100, None])
def test_a_minibatch_of_all_rows_is_the_full_batch(size):
    assert sample_meta_batch(Family(batch_size=size), "train", [0]).minibatches("inner") is None


def test_the_stack_is_a_loop_over_networks():
    batch = sample_meta_batch(Family(), "train", range(3))
    outputs = StackedNetwork(batch.network, batch.params)(batch.inputs["inner"])
    for task in range(3):
        network = batch.family.network()
        network.load_state_dict({k: p[task] for k, p in batch.params.items()})
        torch.testing.assert_close(outputs[task], network(batch.inputs["inner"][task]))
    assert torch.equal(outputs, stacked_forward(batch.network, batch.params, batch.inputs["inner"]))


def test_types_are_moved_but_labels_stay():
    class Labels(Family):
        def sample(self, generator):
            return torch.randn(12, 4, generator=generator), torch.randint(2, (12,), generator=generator)

        def loss(self, prediction, target):
            return nn.functional.cross_entropy(prediction, target)

    batch = sample_meta_batch(Labels(), "train", range(2))
    moved = batch.to(torch.float64)
    assert moved.inputs["inner"].dtype == torch.float64
    assert moved.targets["inner"].dtype == torch.int64
    assert {p.dtype for p in moved.params.values()} == {torch.float64}
    assert torch.equal(moved.seeds, batch.seeds)


def test_the_global_generator_is_left_as_it_is():
    def sample(generator):
        nn.Linear(3, 3)  # a family may build a network, which draws from the global generator
        return data()(generator)

    before = torch.get_rng_state()
    draw(sample=sample)
    assert torch.equal(before, torch.get_rng_state())


def test_initial_weights_differ_between_tasks():
    batch = draw()
    assert all(not torch.equal(p[0], p[1]) for p in batch.params.values())


def test_no_task_is_an_error():
    with pytest.raises(TaskError, match="at least one task"):
        sample_meta_batch(Family(), "train", [])


def changing(generator):
    rows = int(torch.randint(3, 400, (), generator=generator))
    return torch.randn(rows, 4, generator=generator), torch.randn(rows, 2, generator=generator)


BROKEN = [
    ({"network": lambda: nn.ReLU()}, r"Family.network\(\).*parameters, got ReLU\(\)"),
    ({"network": lambda: "mlp"}, r"nn\.Module with parameters, got 'mlp'"),
    (
        {"sample": lambda g: torch.ones(3, 4)},
        r"sample\(\) of task 0 of the train split must return two tensors.*Tensor",
    ),
    ({"sample": lambda g: (torch.ones(3, 4), [1, 2, 3])}, "two tensors.*tuple"),
    ({"sample": data(targets_rows=7)}, r"inputs \(12, 4\) and targets \(7, 2\) must have the same number"),
    ({"sample": lambda g: (torch.ones(0, 4), torch.ones(0, 2))}, r"\(0, 4\).*at least 1"),
    ({"sample": lambda g: (torch.tensor(1.0), torch.tensor(1.0))}, r"inputs \(\) and targets \(\)"),
    ({"sample": with_value(float("nan"), 0)}, "inputs hold 1 values that are NaN or infinite"),
    ({"sample": with_value(float("inf"), 1)}, "targets hold 1 values that are NaN or infinite"),
    ({"sample": changing}, r"different shapes for different tasks: .*\(\d+, 4\)"),
    ({"sample": data(columns=5)}, r"do not run on inputs \(12, 5\) and targets \(12, 2\), "),
    ({"loss": lambda p, t: (p - t[:5]).square().mean()}, "the network and the loss do not run"),
    ({"loss": lambda p, t: (p - t).square().mean(1)}, r"loss\(\) must return a scalar, got shape \(12,\)"),
    ({"loss": lambda p, t: t.square().mean()}, "does not depend on the network's parameters"),
    ({"loss": lambda p, t: p.mean() / 0}, r"loss\(\) is -?inf at the initial weights"),
    ({"loss": lambda p, t: (p - 1e6).mean().log()}, r"loss\(\) is nan at the initial weights"),
    ({"parts": (0.5, 0.5, 0.5)}, r"sum to 1, got \(0\.5, 0\.5, 0\.5\)"),
    ({"parts": (0.0, 0.5, 0.5)}, r"inner > 0.*got \(0\.0, 0\.5, 0\.5\)"),
    ({"parts": (1.5, -0.5, 0.0)}, r"got \(1\.5, -0\.5, 0\.0\)"),
    ({"parts": (0.5, 0.5)}, r"three fractions.*got \(0\.5, 0\.5\)"),
    ({"parts": (0.02, 0.49, 0.49)}, "12 rows split by .* leave none for the inner part"),
    ({"parts": (0.98, 0.01, 0.01)}, "12 rows split by .* leave none for the meta part"),
    ({"parts": (math.nan, 0.0, 0.0)}, "got .nan"),
    ({"parts": "abc"}, "got abc"),
    ({"batch_size": 2.5}, "got 2.5"),
    ({"loss": lambda p, t: {}["x"]}, "KeyError: 'x'"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1 or None, got 0"),
    ({"batch_size": -3}, "got -3"),
    ({"for_split": lambda split: None}, r"for_split\('train'\) must return a task family, got None"),
    ({"accuracy": lambda p, t: {}["x"]}, r"accuracy\(\) does not run on .*\(12, 2\) and .*\(12, 2\): KeyError: 'x'"),
    ({"accuracy": lambda p, t: 0.5}, r"accuracy\(\) does not run"),
    ({"accuracy": lambda p, t: (p > t).double().mean(1)}, r"accuracy\(\) must return a scalar, got shape \(12,\)"),
    ({"accuracy": lambda p, t: (p == p).double().sum()}, r"accuracy\(\) must be in \[0, 1\], got 24"),
    ({"accuracy": lambda p, t: p.mean() * math.nan}, r"accuracy\(\) must be in \[0, 1\], got nan"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[f"{next(iter(b))}-{i}" for i, (b, _) in enumerate(BROKEN)])
def test_a_broken_family_is_refused_with_the_value(broken, message):
    with pytest.raises(TaskError, match=message) as caught:
        draw(**broken)
    assert str(caught.value).startswith("Family")


def test_every_task_is_checked():
    def sample(generator):
        x, y = data()(generator)
        return (x.log(), y) if generator.initial_seed() in bad else (x, y)

    bad = {int(sample_meta_batch(Family(), "test", [4]).seeds[0])}
    with pytest.raises(TaskError, match="task 4 of the test split: inputs hold"):
        sample_meta_batch(Family(sample=sample), "test", range(6))


@pytest.mark.parametrize(
    ("sample", "law"),
    [
        (lambda g: (torch.randn(12, 4), torch.randn(12, 2)), "not from torch's global one"),
        (lambda g: (torch.ones(12, 4), torch.ones(12, 2)), "other generator states give other tasks"),
    ],
    ids=["global", "constant"],
)
def test_the_conformance_check_names_the_law(sample, law):
    with pytest.raises(AssertionError, match=law):
        check_task_family(Family(sample=sample))


class PerSplit(Family):
    """Each split has data of its own size and parts of its own."""

    scales: ClassVar = {"train": 1.0, "validation": 10.0, "test": 100.0}

    def for_split(self, split):
        scale = self.scales[split]
        return Family(
            sample=lambda g: tuple(scale * t for t in data()(g)),
            loss=lambda p, t: scale * (p - t).square().mean(),
            parts=(0.5, 0.25, 0.25) if split == "test" else (1.0, 0.0, 0.0),
        )


def test_each_split_is_drawn_from_its_own_family():
    for split, scale in PerSplit.scales.items():
        batch = sample_meta_batch(PerSplit(), split, range(3))
        assert scale / 2 < float(batch.inputs["inner"].std()) < 2 * scale
        assert batch.inputs["inner"].shape[1] == (6 if split == "test" else 12)
        x, y = batch.rows("inner")
        predictions = stacked_forward(batch.network, batch.params, x)
        expected = scale * (predictions - y).square().mean((1, 2))
        torch.testing.assert_close(batch.losses(predictions, y), expected)
        assert batch.split == batch.to(torch.float64).split == split
    check_task_family(PerSplit())


def test_a_family_that_holds_nothing_out_is_the_same_in_every_split():
    family = Family()
    assert [sample_meta_batch(family, split, [0]).family for split in SPLITS] == [family] * 3


def test_whatever_for_split_draws_is_equal_and_leaves_the_global_stream_alone():
    def for_split(split):
        scale = float(torch.rand(()))
        return Family(sample=lambda g: tuple(scale * t for t in data()(g)))

    family, before = Family(for_split=for_split), torch.get_rng_state()
    batches = [sample_meta_batch(family, "train", [0]) for _ in range(2)]
    assert torch.equal(batches[0].inputs["inner"], batches[1].inputs["inner"])
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(AssertionError, match=r"for_split\('train'\) gives equal families"):
        check_task_family(family)


class Signs(Family):
    """Predictions are right where they have the sign of their targets."""

    def accuracy(self, prediction, target):
        return (prediction.sign() == target.sign()).all(1).float().mean()


def test_the_accuracy_of_each_task():
    batch = sample_meta_batch(Signs(parts=(0.5, 0.25, 0.25)), "train", range(4))
    assert batch.family.measures_accuracy
    x, y = batch.rows("meta")
    predictions = stacked_forward(batch.network, batch.params, x)
    found = batch.accuracies(predictions, y)
    assert found.shape == (4,)
    for task in range(4):
        right = sum(int((p * t > 0).all()) for p, t in zip(predictions[task], y[task], strict=True))
        assert float(found[task]) == pytest.approx(right / 3)
    assert len(set(found.tolist())) > 1
    assert batch.accuracies(y, y).tolist() == [1.0] * 4
    assert batch.accuracies(-y, y).tolist() == [0.0] * 4
    check_task_family(Signs())


def test_a_family_without_an_accuracy_says_so():
    batch = draw()
    assert not batch.family.measures_accuracy
    with pytest.raises(NotImplementedError, match="Family measures no accuracy"):
        batch.accuracies(*batch.rows("inner"))


def test_the_check_looks_at_the_accuracy_of_every_part():
    family = Signs(parts=(0.5, 0.25, 0.25), accuracy=lambda p, t: t.new_tensor(float(len(t) != 3) - 1).abs() * 2)
    with pytest.raises(AssertionError, match=r"the accuracy of each task is a scalar in \[0, 1\]"):
        check_task_family(family)


def test_the_base_class_asks_for_three_methods():
    with pytest.raises(TypeError, match="abstract"):
        TaskFamily()
    assert TaskFamily.__abstractmethods__ == {"network", "sample", "loss"}


def test_the_global_stream_of_a_task_is_not_its_generator():
    class FromConstructor(Family):
        def sample(self, generator):
            return torch.rand(12, 4, generator=generator), torch.rand(12, 2)  # the second one is the mistake

    batch = sample_meta_batch(FromConstructor(), "train", range(2))
    x, y = (batch.rows("inner")[i].flatten(1)[:, :24] for i in (0, 1))
    assert not torch.equal(x, y)


def test_an_initialise_that_only_changes_weights_sees_the_same_ones_for_every_task():
    class Scaled(Family):
        def initialise(self, network, generator):
            for p in network.parameters():
                p.data.mul_(1.5)

    together = sample_meta_batch(Scaled(), "train", [0, 1, 2])
    alone = sample_meta_batch(Scaled(), "train", [2])
    for name, p in together.params.items():
        assert torch.equal(p[2], alone.params[name][0])


def test_the_default_initialise_draws_every_parameter():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return x @ self.w

    batch = sample_meta_batch(Family(network=Own), "train", range(2))
    assert not torch.equal(batch.params["w"][0], batch.params["w"][1])


@pytest.mark.parametrize("method", ["for_split", "network", "sample", "initialise"])
def test_what_a_users_method_raises_is_one_line_that_says_where(method):
    def broken(*_):
        return {}["boo"]

    with pytest.raises(TaskError, match=rf"Family\.{method}\(\) raised KeyError: 'boo' \(.*test_task\.py:\d+\)"):
        draw(**{method: broken})


def test_an_unknown_split_and_a_class_in_place_of_an_object_are_refused():
    with pytest.raises(TaskError, match="got 'tset'"):
        sample_meta_batch(Family(), "tset", [0])
    with pytest.raises(TaskError, match="expected an instance of TaskFamily"):
        sample_meta_batch(Family, "test", [0])


def test_predictions_and_targets_that_broadcast_against_each_other_are_refused():
    class Column(Family):
        def network(self):
            return nn.Linear(4, 1)

        def sample(self, generator):
            x = torch.rand(12, 4, generator=generator)
            return x, x.sum(1)

        def loss(self, prediction, target):
            return (prediction - target).square().mean()

    class Squeezed(Column):
        def loss(self, prediction, target):
            return (prediction.squeeze(1) - target).square().mean()

    with pytest.raises(TaskError, match=r"\(12, 1\) are compared with targets of other rows, which are \(12,\)"):
        sample_meta_batch(Column(), "train", range(2))
    assert sample_meta_batch(Squeezed(), "train", range(2)).tasks == 2


# --- losses of all tasks at once -----------------------------------------------------------------


class Stacked(ExampleFamily):
    """It computes twice the loss at once, so that it can be told which of the two counts."""

    def losses(self, predictions, targets):
        return 2 * (predictions - targets).square().mean((1, 2))


class Other(Stacked):
    def loss(self, prediction, target):
        return 5 * (prediction - target).square().mean()


class Both(Other):
    def losses(self, predictions, targets):
        return 3 * super().losses(predictions, targets)


class Inherits(Stacked):
    pass


class FasterMixin:
    def losses(self, predictions, targets):
        return 7 * (predictions - targets).square().mean((1, 2))


class Mixed(FasterMixin, ExampleFamily):
    pass


class LossMixin:
    def loss(self, prediction, target):
        return 11 * (prediction - target).square().mean()


class MixedLoss(LossMixin, Stacked):
    pass


@pytest.mark.parametrize(
    ("family", "factor"),
    [(ExampleFamily, 1), (Stacked, 2), (Inherits, 2), (Other, 5), (Both, 6), (Mixed, 7), (MixedLoss, 11)],
)
def test_losses_count_for_the_loss_that_they_were_written_for(family, factor):
    batch = sample_meta_batch(family(), "train", range(3))
    targets = batch.targets["inner"]
    expected = factor * (targets + 1 - targets).square().mean((1, 2))
    torch.testing.assert_close(batch.losses(targets + 1, targets), expected)
    one = family()
    one.loss = lambda prediction, target: 0 * prediction.sum() + 13
    batch = dataclasses.replace(batch, family=one)
    assert batch.losses(targets + 1, targets).tolist() == [13] * 3
