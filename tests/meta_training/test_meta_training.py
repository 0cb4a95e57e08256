"""Meta-training learns, and its settings do what they say."""

from typing import Any

import pytest
import torch
from metatele.tasks import TeacherStudent

from metatele import (
    ConfigError,
    CoordinateUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    UnrollSettings,
    ValidationSettings,
    load_checkpoint,
    meta_train,
    sample_meta_batch,
)
from metatele.checkpoint import shipped_checkpoints
from metatele.meta_training.meta_loss import meta_loss, task_losses, trajectory_scores
from metatele.meta_training.trainer import MetaTrainer
from metatele.support.device import multiplying
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Window

FAMILY = TeacherStudent(spread=10, rows=16, hidden=8)


def train(inner: InnerOptimizer, **meta: object) -> list[float]:
    """Validation scores of a short run."""
    settings = MetaSettings(**{"iterations": 12, "tasks": 8, "lr": 1e-2, **meta})  # type: ignore[arg-type]
    unroll = UnrollSettings(steps=20, window=10, second_order=False)
    result = meta_train(inner, FAMILY, unroll, settings, ValidationSettings(tasks=8, every=3))
    return [i.validation for i in result.history if i.validation is not None]


def test_meta_training_learns_and_teleports_help_on_badly_scaled_networks() -> None:
    plain = train(InnerOptimizer(GlobalStepSize()))
    tele = train(InnerOptimizer(GlobalStepSize(), NeuronTeleport()))
    assert tele[-1] < tele[0] - 0.2
    assert tele[-1] < plain[-1] - 0.2


@pytest.mark.parametrize("loss", ["log", "sum", "final"])
def test_every_meta_loss_learns_a_step_size(loss: str) -> None:
    inner = InnerOptimizer(GradientDescent(1e-5, learn=True))
    scores = train(inner, loss=loss, lr=0.3)
    assert scores[-1] < scores[0]
    assert inner.update.log_lr.exp() > 1e-4


def test_meta_losses_by_hand() -> None:
    batch = sample_meta_batch(FAMILY, "train", range(3)).to(torch.float64)
    play = Unroll(InnerOptimizer(GradientDescent(1e-3, learn=True)), batch, 4)
    window = play.window(play.start(), 4)
    losses, initial = window.meta_losses, window.end.initial_loss
    torch.testing.assert_close(meta_loss(window, MetaSettings(loss="log"), 1), (losses + 1e-8 * initial).log().mean())
    torch.testing.assert_close(meta_loss(window, MetaSettings(loss="sum", normalise=False), 1), losses.sum(0).mean())
    torch.testing.assert_close(meta_loss(window, MetaSettings(loss="sum"), 1), (losses / initial).sum(0).mean())
    torch.testing.assert_close(meta_loss(window, MetaSettings(loss="final"), 1), (losses[-1] / initial).mean())


def test_the_meta_loss_may_grow_towards_the_horizon_and_has_a_floor() -> None:
    batch = sample_meta_batch(FAMILY, "train", range(3))
    play = Unroll(InnerOptimizer(GradientDescent(1e-4)), batch, 8)
    whole = play.window(play.start(), 8)
    logs = (whole.meta_losses + 0.01 * whole.end.initial_loss).log()
    weights = (torch.arange(8) + 0.5) ** 2
    meta = MetaSettings(growth=2.0, floor=0.01)
    parts, position = [], play.start()
    for _ in range(2):
        window = play.window(position, 4)
        position = window.end
        parts.append(meta_loss(window, meta, 8))
    expected = (weights.unsqueeze(1) * logs).sum(0).mean() * 3 / 8**3
    torch.testing.assert_close(sum(parts) / 2, expected)
    torch.testing.assert_close(meta_loss(whole, meta, 8), expected)
    torch.testing.assert_close(task_losses(whole, meta, 8, batch).mean(), expected)
    torch.testing.assert_close(trajectory_scores(whole, batch, meta).mean(), expected)


def test_growth_is_refused_where_it_says_nothing() -> None:
    with pytest.raises(ConfigError, match="growth weighs the steps of loss 'log', not of 'end'"):
        MetaSettings(loss="end", growth=1.0)


def test_a_window_that_does_not_divide_the_trajectory_ends_with_a_shorter_one() -> None:
    settings = MetaSettings(iterations=1, tasks=2)
    unroll = UnrollSettings(steps=5, window=2, second_order=False)
    result = meta_train(InnerOptimizer(GlobalStepSize()), FAMILY, unroll, settings, ValidationSettings(2, 1))
    assert result.finished


def test_the_cosine_schedule_ends_near_zero_and_parts_have_their_own_step_sizes() -> None:
    trainer = MetaTrainer(
        InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3)),
        [FAMILY],
        UnrollSettings(2, 1),
        MetaSettings(iterations=100, lr=0.1, teleport_lr=0.01),
        ValidationSettings(tasks=2),
    )
    trainer.enter()
    lrs = []
    for trainer.done in (0, 50, 99):
        trainer.meta_optimizer.update(trainer.done)
        lrs.append([g["lr"] for g in trainer.meta_optimizer.adam.param_groups])
    torch.testing.assert_close(torch.tensor(lrs[0]), torch.tensor([0.1, 0.01]))
    torch.testing.assert_close(torch.tensor(lrs[1]), torch.tensor([0.05, 0.005]))
    assert max(lrs[2]) < 1e-4


def test_validation_and_training_tasks_are_not_the_same() -> None:
    seeds = [set(sample_meta_batch(FAMILY, s, range(50)).seeds.tolist()) for s in ("train", "validation", "test")]
    assert len(set.union(*seeds)) == 150


def test_something_must_be_learned() -> None:
    with pytest.raises(ConfigError, match="nothing to meta-train: GradientDescent and Stay"):
        meta_train(InnerOptimizer(GradientDescent()), FAMILY)


@pytest.mark.parametrize("name", sorted(shipped_checkpoints()))
def test_shipped_checkpoints_run_on_other_sizes_and_carry_their_cards(name: str) -> None:
    inner = load_checkpoint(name)
    batch = sample_meta_batch(TeacherStudent(inputs=5, hidden=7, outputs=2, depth=3), "test", range(4))
    play = Unroll(inner, batch, 30)
    window = play.window(play.start(), 30, differentiable=False)
    assert window.end.alive.all()
    assert (window.meta_losses[-1] < 0.5 * window.end.initial_loss).all()
    card = (shipped_checkpoints()[name] / "README.md").read_text()
    assert all(part in card for part in ("## Command", "metatele ", "--config", "seed 0", "## Measured"))


def test_the_shipped_quickstart_pair_gives_what_its_cards_say() -> None:
    batch = sample_meta_batch(TeacherStudent(spread=10), "test", range(32))
    loss = {}
    for name in ("quickstart-teleport", "quickstart-no-teleport"):
        play = Unroll(load_checkpoint(name), batch, 100)
        loss[name] = play.window(play.start(), 100, differentiable=False).meta_losses.log().mean(1).exp()
    tele, plain = loss.values()
    assert tele[29] < 0.93 * plain[29]
    assert tele[99] < 0.93 * plain[99]
    assert tele[29] < 0.03


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_matrices_in_tf32_are_asked_for_and_only_inside(
    before: bool, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], Unroll._play

    def window(*arguments: Any, **options: Any) -> Window:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return original(*arguments, **options)

    monkeypatch.setattr(Unroll, "_play", window)
    unroll = UnrollSettings(steps=2, window=1, tf32=tf32)
    meta, validation = MetaSettings(iterations=1, tasks=2), ValidationSettings(tasks=2)
    with multiplying(before):
        meta_train(InnerOptimizer(GlobalStepSize(hidden=2)), FAMILY, unroll, meta, validation)
        assert torch.backends.cuda.matmul.allow_tf32 is before
    assert seen == [before or tf32] * 3  # two windows and the validation's
    assert not torch.backends.cuda.matmul.allow_tf32
