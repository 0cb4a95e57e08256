"""All fast paths at once: meta-training gives, to rounding, what it gives without any of them."""

import math
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch
from metatele.tasks import PaperRegression, TeacherStudent
from torch import nn
from torch.func import functional_call, vmap

import metatele.task.stack
from metatele import (
    CeloUpdate,
    CoordinateUpdate,
    DenseStepSize,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    NeuronTeleport,
    RandomTeleport,
    SmallMLPUpdate,
    TensorUpdate,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    sample_meta_batch,
)
from metatele.meta_training import trainer
from metatele.parts.point import State
from metatele.symmetry import HiddenLayer, matrices
from metatele.task.params import flatten, map_params, per_task, unflatten
from metatele.task.stack import NONE
from metatele.testing import ExampleFamily
from metatele.unroll.higher import cores
from metatele.unroll.higher.cores import Taps
from metatele.update.classical import adam_moments
from metatele.update.size_free import LEAST_SQUARE

RELATIVE = 1e-9
COORDINATES = 6  # hidden size of the cores that play coordinates
SQUARE = ExampleFamily((3, 3, 3, 2), (nn.LeakyReLU(0.2),) * 2)  # two layers on the data, as many rows as inputs
CASES = {
    "dense, after, data": (
        lambda: InnerOptimizer(DenseUpdate(5), DenseTeleport(5, symmetry="data_dependent"), "after"),
        SQUARE,
    ),
    "dense, paper": (
        lambda: InnerOptimizer(
            DenseUpdate(4, inputs="raw"), DenseTeleport(4, inputs="raw", symmetry="data_dependent"), "after"
        ),
        PaperRegression(size=3),
    ),
    "dense, before": (lambda: InnerOptimizer(DenseUpdate(4, layers=2), DenseTeleport(4)), ExampleFamily()),
    "step size": (
        lambda: InnerOptimizer(DenseStepSize(4), DenseTeleport(4, size="fixed", symmetry="general_linear"), "after"),
        ExampleFamily(),
    ),
    "size-free": (
        lambda: InnerOptimizer(CoordinateUpdate(COORDINATES), NeuronTeleport(4)),
        TeacherStudent(rows=8, hidden=5),
    ),
    "size-free, after, minibatches": (
        lambda: InnerOptimizer(CoordinateUpdate(COORDINATES, layers=2), NeuronTeleport(3, layers=2), "after"),
        ExampleFamily(rows=24, batch_size=4, parts=(0.5, 0.5, 0.0)),
    ),
    "global step size": (
        lambda: InnerOptimizer(GlobalStepSize(4, layers=2), NeuronTeleport(4)),
        TeacherStudent(rows=8),
    ),
    "tensors": (lambda: InnerOptimizer(TensorUpdate(5, per_coordinate=2), NeuronTeleport(4)), TeacherStudent(rows=8)),
    "tensors, after, minibatches": (
        lambda: InnerOptimizer(TensorUpdate(5), NeuronTeleport(3, layers=2), "after"),
        ExampleFamily(rows=24, batch_size=4, parts=(0.5, 0.5, 0.0)),
    ),
    "small MLP": (
        lambda: InnerOptimizer(SmallMLPUpdate(5, step=0.05), NeuronTeleport(4)),
        TeacherStudent(rows=8),
    ),
    "Celo, after, minibatches": (
        lambda: InnerOptimizer(CeloUpdate(5, units=4), NeuronTeleport(3, layers=2), "after"),
        ExampleFamily(rows=24, batch_size=4, parts=(0.5, 0.5, 0.0)),
    ),
    "no biases": (
        lambda: InnerOptimizer(GlobalStepSize(4), RandomTeleport()),
        ExampleFamily(activations=(nn.Tanh(), None), bias=False),
    ),
}


@contextmanager
def fast():
    """Small blocks, so that the coordinates of small networks fill some; all cores but those of coordinates are held to
    be large. Yields what has played the cells' steps."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "CACHE", 0)
        patch.setattr(cores, "WORTH_A_BLOCK", 32)
        patch.setattr(cores, "is_small", lambda core: core.hidden == COORDINATES)
        for kind in (cores.TappingCells, cores.BlockedCells):
            patch.setattr(kind, "step", lambda *a, kind=kind, step=kind.step: seen.append(kind) or step(*a))
        yield seen


def propose_by_tensor(self, point, state):
    """What `CoordinateUpdate` proposes, one parameter tensor at a time up to the LSTM."""
    mean, square, m, v = adam_moments(point.gradient, state, point.step, self.BETAS)
    g = flatten(point.gradient)
    root = map_params(lambda p: (p + LEAST_SQUARE).sqrt(), v)
    size = (g.square().mean(1, keepdim=True) + LEAST_SQUARE).sqrt()
    scale = {k: (p.flatten(1).square().mean(1) + LEAST_SQUARE).sqrt() for k, p in point.params.items()}
    direction = flatten({k: m[k] / root[k] for k in m})
    columns = [
        direction,
        g / flatten(root),
        (flatten(root) / size).log() / 3,
        (size.log() / 5).expand_as(g),
        flatten({k: p / per_task(scale[k], p) for k, p in point.params.items()}),
        torch.full_like(g, math.log1p(point.step) / 3),
    ]
    out, memory = self.core(torch.stack(columns, dim=2).flatten(0, 1), state.memory)
    out = out.reshape(*g.shape, 2)
    step = -self.lr * (3 * out[..., 1].tanh()).exp() * (direction + 3 * out[..., 0])
    return unflatten(step, point.params), State((mean,), (square,), memory)


@contextmanager
def plain():
    """None of the fast paths."""
    original, adam = metatele.task.stack.stacked_forward, torch.optim.Adam

    def by_vmap(network, params, inputs, constants=NONE):
        return vmap(lambda p, x: functional_call(network, p, (x,)))({**constants, **params}, inputs)

    with fast() as seen, pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("metatele") and getattr(module, "stacked_forward", None) is original:
                patch.setattr(module, "stacked_forward", by_vmap)
        patch.setattr("metatele.unroll.higher.unroll.cores_played", lambda *a, **k: nullcontext(Taps([])))
        patch.setattr(matrices, "exp_pair", lambda t: (torch.linalg.matrix_exp(t), torch.linalg.matrix_exp(-t)))
        patch.setattr(HiddenLayer, "sees_data", property(lambda self: False, lambda self, value: None), raising=False)
        patch.setattr(
            MetaBatch, "losses", lambda self, predictions, targets: vmap(self.family.loss)(predictions, targets)
        )
        patch.setattr(CoordinateUpdate, "propose", propose_by_tensor)
        patch.setattr(torch.optim, "Adam", lambda groups, **options: adam(groups, foreach=False))
        yield seen


def assert_same(found, expected):
    """Equal relative to the largest number of a tensor."""
    assert len(found) == len(expected)
    for a, e in zip(found, expected, strict=True):
        a, e = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(e, dtype=torch.float64)
        assert bool(e.isfinite().all())
        torch.testing.assert_close(a, e, rtol=0, atol=RELATIVE * float(e.abs().max()))


def window(case, second_order):
    """All numbers of the second window of an unroll, and its meta-gradient."""
    make, family = CASES[case]
    batch = sample_meta_batch(family, "train", range(4)).to(torch.float64)
    inner = make().double()
    unroll = Unroll(inner, batch, 6, second_order)
    inner.double().initialise(3)
    begin = unroll.window(unroll.start(), 2).end
    found = unroll.window(begin, 4)
    assert bool(found.end.alive.all())
    unlearned = unroll.window(begin, 4, differentiable=False)
    state = found.end.state
    gradient = torch.autograd.grad(found.meta_losses.log().mean(), list(inner.parameters()), allow_unused=True)
    gradient = [torch.zeros(()) if g is None else g for g in gradient]
    assert any(float(g.abs().max()) > 1e-6 for g in gradient)
    return [
        found.meta_losses.detach(),
        unlearned.meta_losses,
        found.inner_losses,
        found.gradient_norms,
        flatten(found.end.params),
        flatten(unlearned.end.params),
        *state.update.memory,
        *state.teleport.memory,
        *(flatten(p) for p in (*state.update.covectors, *state.update.squares)),
        *gradient,
    ]


def meta_train(case, second_order):
    """What a few iterations of meta-training tell, and the weights that they end with."""
    make, family = CASES[case]
    training = trainer.MetaTrainer(
        make(),
        [family],
        UnrollSettings(steps=6, window=4, second_order=second_order),
        MetaSettings(iterations=3, tasks=3, lr=1e-2, teleport_lr=3e-3, clip=0.3),
        ValidationSettings(tasks=2, every=1),
    )
    training.inner.double()
    training.initialise()
    training.enter()
    before = [p.detach().clone() for p in training.inner.parameters()]
    numbers, gradients = [], []
    for iteration in training.iterations():
        assert (iteration.diverged, iteration.skipped) == (0, 0)
        numbers += [iteration.meta_loss, iteration.gradient_norm, iteration.validation]
        gradients += [p.grad.clone() for p in training.inner.parameters() if p.grad is not None]
    learned = [p.detach() for p in training.inner.parameters()]
    assert all(p.dtype == torch.float64 for p in learned)
    assert any(not torch.equal(b, p) for b, p in zip(before, learned, strict=True))
    return [*numbers, *gradients, *learned]


@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("whole", [window, meta_train], ids=["window", "meta-training"])
def test_the_fast_paths_give_the_same(whole, case, second_order, monkeypatch):
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    with plain() as played:
        expected = whole(case, second_order)
    assert not played
    with fast() as played:
        found = whole(case, second_order)
    wanted = [cores.BlockedCells] * ("size-free" in case) + [cores.TappingCells] * (whole is meta_train)
    assert set(played) == set(wanted)
    assert_same(found, expected)
