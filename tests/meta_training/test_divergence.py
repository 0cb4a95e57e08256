"""Tasks that diverge while an optimizer is meta-trained: what they count, and that they push it back."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from metatele import (
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    TaskFamily,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training.meta_loss import meta_loss
from metatele.meta_training.settings import MetaLossName
from metatele.unroll.trajectory import Window

STEPS = 12


class Bowl(TaskFamily):
    """w^2 / 2 times a curvature from 1 to 4: gradient descent diverges when its step size is above 2 / curvature."""

    def network(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return (1 + 3 * torch.rand((), generator=generator)).sqrt().expand(2, 1), torch.zeros(2, 1)

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).square().mean() / 2

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        network.weight.data.uniform_(0.5, 1, generator=generator)  # type: ignore[operator, union-attr]


def play(lr: float, tasks: int = 6) -> Unroll:
    batch = sample_meta_batch(Bowl(), "train", range(tasks)).to(torch.float64)
    inner = InnerOptimizer(GradientDescent(lr, learn=True))
    unroll = Unroll(inner, batch, STEPS, second_order=True)
    inner.double()
    return unroll


def scored(unroll: Unroll, loss: MetaLossName, piece: int | None = None) -> tuple[Window, float, float]:
    """A window, its meta-loss, and the derivative with respect to the logarithm of the step size."""
    unroll.inner.zero_grad()
    window, value = unroll.gradient(unroll.start(), STEPS, lambda w: meta_loss(w, MetaSettings(loss=loss), 1), piece)
    slope = unroll.inner.update.log_lr.grad
    return window, value, 0.0 if slope is None else float(slope)


def surrogate(window: Window, loss: MetaLossName) -> float:
    """What is differentiated, by hand: see `meta_loss`."""
    total = 0.0
    for task, losses in enumerate(window.meta_losses.T.tolist()):
        initial = float(window.end.initial_loss[task])
        sound = losses[: int(window.end.stopped_at[task])]
        dies = len(sound) < len(losses)
        relative = [x / initial for x in sound]
        if loss == "log":
            score = [math.log(r + 1e-8) for r in relative]
        else:
            score = [1 + math.log(r) if dies and r > 1 else r for r in relative]
        score += score[-1:] * (STEPS - len(score))
        total += {"log": sum(score) / STEPS, "sum": sum(score), "final": score[-1]}[loss]
    return total / len(window.end.alive)


@pytest.mark.parametrize("lr", [0.3, 1.5, 20.0], ids=["none diverges", "some do", "all do"])
@pytest.mark.parametrize("loss", ["log", "sum", "final"])
def test_the_losses_before_a_task_diverges_push_back(loss: MetaLossName, lr: float) -> None:
    unroll = play(lr)
    window, value, slope = scored(unroll, loss)
    stops = window.end.stopped_at
    dead = int((~window.end.alive).sum())
    assert dead == {0.3: 0, 1.5: dead, 20.0: 6}[lr]
    assert lr != 1.5 or 0 < dead < 6
    eps, ends = 1e-6, []
    for sign in (1, -1):
        unroll.inner.update.log_lr.data += sign * eps
        moved = unroll.window(unroll.start(), STEPS, differentiable=False)
        unroll.inner.update.log_lr.data -= sign * eps
        assert torch.equal(moved.end.stopped_at, stops)
        ends.append(surrogate(moved, loss))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6)
    if dead:
        assert slope > 0, "a smaller step size is asked for"
        assert value > (math.log(1e6) / STEPS if loss == "log" else 1e5) * dead / 6
    for piece in (1, 5):
        _, again, same = scored(unroll, loss, piece)
        assert (again, same) == (pytest.approx(value, rel=1e-12), pytest.approx(slope, rel=1e-9))


@pytest.mark.parametrize("loss", ["log", "sum", "final"])
def test_a_task_that_diverged_before_counts_and_has_no_gradient(loss: MetaLossName) -> None:
    unroll = play(0.3, tasks=2)
    begin = replace(unroll.window(unroll.start(), 4, differentiable=False).end, alive=torch.tensor([True, False]))
    begin = replace(begin, stopped_at=torch.tensor([4, 2]))
    alone = play(0.3, tasks=1)
    start = alone.window(alone.start(), 4, differentiable=False).end
    found: list[Any] = []
    for game, position in ((unroll, begin), (alone, start)):
        game.inner.zero_grad()
        _, value = game.gradient(position, 4, lambda w: meta_loss(w, MetaSettings(loss=loss), 1))
        found.append((value, float(game.inner.update.log_lr.grad)))
    (value, slope), (own, its) = found
    bar, initial = float(begin.bar[1]), float(begin.initial_loss[1])
    price = {"log": math.log(bar + 1e-8 * initial), "sum": 4 * bar / initial, "final": bar / initial}[loss]
    assert value == pytest.approx((own + price) / 2, rel=1e-9)
    assert slope == pytest.approx(its / 2, rel=1e-9)


def test_where_no_task_is_left_nothing_is_learned() -> None:
    unroll = play(0.3, tasks=2)
    begin = replace(unroll.start(), alive=torch.tensor([False, False]))
    begin = replace(begin, stopped_at=torch.tensor([-1, -1]))
    unroll.inner.zero_grad()
    window, value = unroll.gradient(begin, 4, lambda w: meta_loss(w, MetaSettings(loss="log"), 1))
    assert unroll.inner.update.log_lr.grad is None
    assert value == pytest.approx(float((begin.bar + 1e-8 * begin.initial_loss).log().mean()))
    assert window.end.step == 4
    assert window.end.alive.tolist() == [False, False]


@pytest.mark.parametrize("loss", ["log", "sum", "final"])
@pytest.mark.parametrize("engine", ["higher", "compiled"])
def test_meta_training_comes_back_from_where_every_task_diverges(engine: str, loss: str) -> None:
    """It used to stay there for ever: no task was left to give a gradient."""
    inner = InnerOptimizer(GradientDescent(10.0, learn=True))
    unroll = UnrollSettings(STEPS, STEPS, engine=engine)  # type: ignore[arg-type]
    meta = MetaSettings(iterations=40, tasks=4, loss=loss, lr=0.3, schedule="constant")  # type: ignore[arg-type]
    history = meta_train(inner, Bowl(), unroll, meta, ValidationSettings(tasks=4, every=40)).history
    assert history[0].diverged == 4
    assert history[0].skipped == 0
    assert history[-1].diverged == 0
    assert history[-1].validation_diverged == 0
    assert history[-1].meta_loss < history[0].meta_loss


def test_a_window_without_a_gradient_leaves_the_weights() -> None:
    """Adam's momentum, which led to where every task diverges at once, must not lead on."""
    inner = InnerOptimizer(GradientDescent(1e9, learn=True))
    before = inner.update.log_lr.detach().clone()
    meta = MetaSettings(iterations=3, tasks=2, lr=0.1)
    result = meta_train(inner, Bowl(), UnrollSettings(4, 2), meta, ValidationSettings(tasks=2), initialise=False)
    assert [i.diverged for i in result.history] == [2, 2, 2]
    assert [i.gradient_norm for i in result.history] == [0.0, 0.0, 0.0]
    assert torch.equal(inner.update.log_lr, before)
