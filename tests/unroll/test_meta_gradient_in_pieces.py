"""Windows whose graph is held a piece at a time: the same meta-gradient, for less memory."""

from dataclasses import replace

import pytest
import torch
from metatele.tasks import PaperRegression, TeacherStudent

from metatele import (
    ConfigError,
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    sample_meta_batch,
)
from metatele.meta_training.meta_loss import meta_loss
from metatele.meta_training.trainer import MetaTrainer

OPTIMIZERS = {
    "dense": lambda: InnerOptimizer(
        DenseUpdate(hidden=5), DenseTeleport(hidden=4, symmetry="data_dependent"), "after", moments="keep"
    ),
    "size-free": lambda: InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3)),
    "size-free, after, reset": lambda: InnerOptimizer(
        CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3), "after", moments="reset"
    ),
    "step size": lambda: InnerOptimizer(GlobalStepSize(hidden=4), NeuronTeleport(hidden=3, last=3)),
    "gradient descent": lambda: InnerOptimizer(GradientDescent(0.01, learn=True)),
}
STEPS = 12


def family(name):
    if name == "dense":
        return PaperRegression(size=4)
    # Enough coordinates for the LSTM to run in blocks, or few.
    sizes = (10, 16, 4) if name == "size-free" else (4, 5, 2)
    return TeacherStudent(*sizes, rows=12, batch_size=6)


def play(name, second_order=True, tasks=3):
    batch = sample_meta_batch(family(name), "train", range(tasks)).to(torch.float64)
    inner = OPTIMIZERS[name]()
    unroll = Unroll(inner, batch, STEPS, second_order)
    inner.double().initialise(3)
    return unroll


def gradient(unroll, piece, loss="log", begin=None, length=STEPS):
    unroll.inner.zero_grad()
    window, value = unroll.gradient(
        begin or unroll.start(), length, lambda w: meta_loss(w, MetaSettings(loss=loss), 1), piece
    )
    return window, value, [p.grad for p in unroll.inner.parameters() if p.requires_grad]


@pytest.mark.parametrize("piece", [1, 3, 5, 11, 12, 100])
@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pieces_give_the_gradient_of_the_whole(name, second_order, piece):
    unroll = play(name, second_order)
    whole, value, expected = gradient(unroll, None)
    window, found, grads = gradient(unroll, piece)
    assert found == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(window.meta_losses, whole.meta_losses.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(window.inner_losses, whole.inner_losses, rtol=1e-9, atol=0)
    assert not window.meta_losses.requires_grad
    assert window.end.step == whole.end.step == STEPS
    for p in whole.end.params:
        torch.testing.assert_close(window.end.params[p], whole.end.params[p], rtol=1e-9, atol=1e-12)
    scale = max(float(g.abs().max()) for g in expected)
    assert scale > 0
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("loss", ["sum", "final"])
def test_every_meta_loss(loss):
    unroll = play("size-free")
    middle = unroll.window(unroll.start(), 5, differentiable=False).end
    _, value, expected = gradient(unroll, None, loss, middle, 7)
    _, found, grads = gradient(unroll, 2, loss, middle, 7)
    assert found == pytest.approx(value, rel=1e-12)
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("piece", [1, 3, 5])
@pytest.mark.parametrize("name", ["step size", "size-free"])
def test_a_task_that_diverges(name, piece):
    unroll = play(name)
    for part in ("inner", "meta"):
        unroll.batch.inputs[part][1] *= 6 if name == "step size" else 1e3
    begin = unroll.start()
    if name == "size-free":  # its steps are bounded: it has to start beyond the bar
        begin = replace(begin, initial_loss=torch.zeros_like(begin.initial_loss))
    whole, value, expected = gradient(unroll, None, begin=begin)
    window, found, grads = gradient(unroll, piece, begin=begin)
    assert window.end.alive.tolist() == whole.end.alive.tolist() == [True, False, True]
    assert torch.equal(window.end.stopped_at, whole.end.stopped_at)
    assert name == "size-free" or 0 < int(whole.end.stopped_at[1]) < STEPS - 1  # in the middle of the window
    assert found == pytest.approx(value, rel=1e-12)
    for g, e in zip(grads, expected, strict=True):
        assert bool(g.isfinite().all())
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)


def test_all_diverge_at_once():
    unroll = play("size-free")
    begin = unroll.start()
    begin = replace(begin, params={k: torch.full_like(p, 1e30) for k, p in begin.params.items()})
    _, value, grads = gradient(unroll, 3, begin=begin)
    assert value == pytest.approx(float(begin.bar.log().mean()))
    assert all(g is None or not bool(g.any()) for g in grads)


@pytest.mark.parametrize("name", ["dense", "size-free"])
def test_meta_training_gives_the_same_weights(name, monkeypatch):
    monkeypatch.setattr("metatele.meta_training.trainer.DTYPE", torch.float64)
    found = []
    for checkpoint in (None, 2):
        inner = play(name).inner  # bound, and in float64
        unroll = UnrollSettings(STEPS, 6, True, checkpoint)
        meta = MetaSettings(iterations=3, tasks=3)
        trainer = MetaTrainer(inner, [family(name)], unroll, meta, ValidationSettings(1, 3))
        trainer.initialise()
        trainer.enter()
        iterations = list(trainer.iterations())
        found.append((inner.state_dict(), [i.meta_loss for i in iterations]))
    (weights, losses), (others, other_losses) = found
    assert losses == pytest.approx(other_losses, rel=1e-9)
    for key in weights:
        torch.testing.assert_close(weights[key], others[key], rtol=1e-7, atol=1e-9)


def test_the_graph_is_that_of_a_piece(monkeypatch):
    unroll = play("size-free")
    lengths = []
    plain = unroll._play

    def spy(begin, length, differentiable, *patched):
        lengths.append((length, differentiable))
        return plain(begin, length, differentiable, *patched)

    monkeypatch.setattr(unroll, "_play", spy)
    gradient(unroll, 5)
    assert lengths == [(5, False), (5, False), (2, False), (2, True), (5, True), (5, True)]


@pytest.mark.parametrize("checkpoint", [0, -1, 1.5])
def test_bad_settings(checkpoint):
    with pytest.raises(ConfigError, match=r"unroll\.checkpoint"):
        UnrollSettings(checkpoint=checkpoint)
