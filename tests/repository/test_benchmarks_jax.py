"""The JAX contestant of the benchmark computes what metatele does."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from metatele.tasks import Digits, PaperRegression

from metatele import (
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    NeuronTeleport,
    TensorUpdate,
    UnrollSettings,
    ValidationSettings,
)
from metatele.meta_training.meta_loss import meta_loss
from metatele.meta_training.trainer import MetaTrainer
from metatele.unroll.higher.unroll import Unroll

jax = pytest.importorskip("jax", reason="the JAX contestant of the benchmark needs jax, which metatele does not")
contestant = pytest.importorskip("benchmarks.jax_contestant", reason="benchmarks run from a checkout only")
workloads = pytest.importorskip("benchmarks.workloads")

TASKS, TOLERANCE = 6, 1e-9  # tasks for two of the blocks that the tensor workload is played in
SMALL = {
    "dense": lambda: InnerOptimizer(DenseUpdate(12), DenseTeleport(12, symmetry="data_dependent"), "after"),
    "size-free": lambda: InnerOptimizer(CoordinateUpdate(7), NeuronTeleport(5)),
    "tensor": lambda: InnerOptimizer(TensorUpdate(7)),
}
FAMILIES = {
    "dense": PaperRegression(5),
    "size-free": Digits(classes=4, rows=48, hidden=[6], parts=(0.5, 0.5, 0.0), batch_size=8),
    "tensor": Digits(classes=4, rows=48, hidden=[6, 5], parts=(0.5, 0.5, 0.0), batch_size=8),
}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[f"{name}, {order} order" for name in SMALL for order in ("first", "second")])
def workload(request):
    name, order = request.param.removesuffix(" order").split(", ")
    unroll = UnrollSettings(12, 4, order == "second")
    return replace(workloads.WORKLOADS[name], inner=SMALL[name], family=FAMILIES[name], unroll=unroll)


def problem(workload) -> tuple[InnerOptimizer, MetaBatch]:
    inner, batch = workload.problem(TASKS)
    return inner.double(), batch.to(torch.float64)


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        error = np.abs(np.asarray(found[name]) - right).max()
        assert error <= TOLERANCE * np.abs(right).max(), (name, error)


def test_losses_and_meta_gradient(workload):
    inner, batch = problem(workload)
    play = Unroll(inner, batch, workload.unroll.steps, workload.unroll.second_order)
    window = play.window(play.start(), workload.unroll.window)
    meta_loss(window, MetaSettings(loss="log"), 1).backward()
    loop = contestant.inner_loop(inner, batch, workload.unroll)
    run = jax.jit(lambda weights, data: loop.window(weights, data, loop.start(data), 0))
    gradient, losses, _ = run(contestant.learned_weights(inner), loop.data)
    assert_close({"losses": losses}, {"losses": window.meta_losses.detach().numpy()})
    assert_close(gradient, {name: p.grad.numpy() for name, p in inner.named_parameters()})


def test_learned_weights_after_two_iterations(workload):
    inner, batch = problem(workload)
    meta = workload.meta(TASKS)
    other = contestant.compile_for(inner, batch, workload.unroll, meta)
    trainer = MetaTrainer(inner, [workload.family], workload.unroll, meta, ValidationSettings(1, 1))
    inner.double()  # the trainer trains in float32; the weights came from there
    trainer.enter()
    for _ in range(2):
        flight = trainer.begin(0, batch)
        while not flight.done:
            trainer.advance(flight)
        other()
    assert_close(other.weights, {name: p.detach().numpy() for name, p in inner.named_parameters()})


def test_full_size_in_single_precision():
    with jax.enable_x64(False):
        run = contestant.prepare(workloads.WORKLOADS["dense"], 1)
        run()
    assert run.compile_seconds > 0
    assert run.losses.shape == (100, 1)
    assert run.losses.dtype == np.float32
    assert np.isfinite(run.losses).all()
