"""The laws of a task family, and an example."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from metatele.support.seeding import seeded
from metatele.task.family import PARTS, Split, TaskFamily
from metatele.task.mixture import TaskMixture
from metatele.task.sampling import MEMBERS_TRIED, build_network, check_members, member_of, sample_meta_batch
from metatele.testing.laws import assert_law, one_task, same

ALL_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class ExampleFamily(TaskFamily):
    """A tiny regression on random data, whose default network has a symmetry of every kind.

    Args:
        widths: widths of all layers, inputs and outputs included.
        activations: what follows each linear layer but the last; None for nothing.
        bias: whether the linear layers have biases.
        rows: rows of one task; as many as inputs by default, which the data-dependent group needs.
        parts, batch_size: see `TaskFamily`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (4, 4, 3, 2),
        activations: Sequence[nn.Module | None] = (nn.LeakyReLU(0.1), None),
        bias: bool = True,
        rows: int | None = None,
        parts: tuple[float, float, float] = (1.0, 0.0, 0.0),
        batch_size: int | None = None,
    ) -> None:
        self.widths, self.activations, self.bias = widths, activations, bias
        self.rows = widths[0] if rows is None else rows
        self.parts, self.batch_size = parts, batch_size

    def network(self) -> nn.Module:
        """An MLP."""
        layers: list[nn.Module] = []
        for a, b, activation in zip(self.widths[:-1], self.widths[1:], [*self.activations, None], strict=True):
            layers += [nn.Linear(a, b, self.bias)] + ([] if activation is None else [activation])
        return nn.Sequential(*layers)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Standard normal inputs [rows, widths[0]] and targets [rows, widths[-1]]."""
        x = torch.randn(self.rows, self.widths[0], generator=generator)
        return x, torch.randn(self.rows, self.widths[-1], generator=generator)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return (prediction - target).square().mean()


def check_task_family(family: TaskFamily) -> None:
    """Check the contract of a task family; of a `TaskMixture`, that of a few members, and that equal generator states
    give equal ones.

    Equal seeds give equal tasks, different seeds different ones; a task does not depend on the meta-batch it is in,
    nor on any global random generator, which it leaves as it is; the loss of every part is finite, and
    the accuracy, where there is one, is in [0, 1]; `for_split` gives equal tasks for equal splits.

    Raises: AssertionError that names the broken law; TaskError as `sample_meta_batch` does.
    """
    if isinstance(family, TaskMixture):
        check_members(family, 0)
        for number in range(MEMBERS_TRIED):
            check_task_family(member_of(family, "train", 0, number))
        return
    name = type(family).__name__
    alone = sample_meta_batch(family, "train", [2])
    before = _global_generators()
    batch = sample_meta_batch(family, "train", [0, 1, 2])
    assert_law(_global_generators() == before, f"{name}: the global random generators are left as they are")
    _check_draws(family)
    for part in PARTS:
        for field in (batch.inputs, batch.targets):
            assert_law(len(field[part]) == 3, f"{name}: a meta-batch stacks its tasks")
        law = f"{name}: equal generator states give equal tasks, whatever else is in the meta-batch"
        same(alone.inputs[part][0], batch.inputs[part][2], 0, law)
        same(alone.targets[part][0], batch.targets[part][2], 0, law)
        x, y = batch.rows(part)
        predictions = batch.predict(batch.params, x)
        losses = batch.losses(predictions, y)
        one_by_one = torch.stack([family.loss(p, t) for p, t in zip(predictions, y, strict=True)])
        same(losses, one_by_one, 1e-5, f"{name}: losses() gives each task's loss()")
        assert_law(losses.shape == (3,) and bool(losses.isfinite().all()), f"{name}: the {part} losses are finite")
        if batch.family.measures_accuracy:
            right = batch.accuracies(predictions, y)
            fractions = right.shape == (3,) and bool(((right >= 0) & (right <= 1)).all())
            assert_law(fractions, f"{name}: the accuracy of each task is a scalar in [0, 1]")
    same(one_task(alone.params, 0), one_task(batch.params, 2), 0, f"{name}: equal generator states give equal weights")
    others = [sample_meta_batch(family, split, [0], seed) for split in ALL_SPLITS for seed in (0, 1)]
    data = [
        torch.cat([b.inputs["inner"].flatten(), b.targets["inner"].flatten().to(b.inputs["inner"])]) for b in others
    ]
    distinct = all(not torch.equal(a, b) for i, a in enumerate(data) for b in data[:i])
    assert_law(distinct, f"{name}: other generator states give other tasks")
    shapes = [{k: p.shape for k, p in build_network(family).named_parameters()} for _ in range(2)]
    assert_law(shapes[0] == shapes[1], f"{name}: network() has the same parameters at every call")


def _check_draws(family: TaskFamily) -> None:
    """Equal generator states give equal tasks in every split, whatever the global generators."""
    name = type(family).__name__
    for split in ALL_SPLITS:
        draws = []
        for global_seed in (1, 2):
            with seeded(global_seed):
                restricted = family.for_split(split)
                draws.append(restricted.sample(torch.Generator().manual_seed(0)))
                draws.append(restricted.sample(torch.Generator().manual_seed(0)))
        law = f"{name}: sample() draws from the generator passed in, not from torch's global one"
        same(draws[0], draws[1], 0, law)
        same(draws[0], draws[2], 0, f"{name}: for_split({split!r}) gives equal families at every call")


def _global_generators() -> tuple[str, ...]:
    """The states of the global generators of torch, Python and numpy."""
    with np.printoptions(threshold=10_000):
        return str(torch.get_rng_state().tolist()), str(random.getstate()), str(np.random.get_state())
