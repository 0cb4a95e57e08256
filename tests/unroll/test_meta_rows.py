"""Steps are scored on all rows of the meta part, if that is asked for, whatever the minibatches are."""

import copy
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from metatele.tasks import GaussianMixture

from metatele import (
    ConfigError,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    TaskFamily,
    TensorUpdate,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training import trainer
from metatele.unroll.compiled import CompiledUnroll, Programs, program, programs

PARTS = {"unseen rows": (0.5, 0.5, 0.0), "the inner rows": (1.0, 0.0, 0.0)}


def family_of(parts: tuple[float, float, float], batch_size: int | None = 4) -> TaskFamily:
    return GaussianMixture(3, classes=2, rows=24, hidden=[5], parts=parts, batch_size=batch_size)


def batch_of(parts: tuple[float, float, float], batch_size: int | None = 4, all_meta_rows: bool = True) -> MetaBatch:
    batch = sample_meta_batch(family_of(parts, batch_size), "train", range(3)).to(torch.float64)
    return replace(batch, all_meta_rows=all_meta_rows)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_both_engines_score_on_all_of_them(parts, monkeypatch):
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: lambda values: graph(*values))
    monkeypatch.setattr(programs, "compiling", nullcontext)
    inner, batch = InnerOptimizer(TensorUpdate(4)), batch_of(parts)
    inner.initialise(3)
    inner.double()
    minibatches = Unroll(inner, replace(batch, all_meta_rows=False), 9)
    found = []
    for play in (Unroll(inner, batch, 9), CompiledUnroll(Programs(), inner, batch, 9)):
        position, losses, expected = play.start(), [], []
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="unroll.engine")  # falling back on 'higher'
            for _ in range(3):
                window = play.window(position, 1, differentiable=False)
                position = window.end
                losses.append(window.meta_losses[-1])
                expected.append(minibatches.evaluate(position.params, "meta"))
                inner.zero_grad()
                play.gradient(position, 2, lambda w: w.meta_losses.log().mean())
        slopes = torch.cat([p.grad.flatten() for p in inner.parameters() if p.grad is not None])
        found.append((torch.stack(losses), slopes))
        torch.testing.assert_close(found[-1][0], torch.stack(expected))
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-10)
    drawn = minibatches.window(minibatches.start(), 3, differentiable=False)
    assert not torch.allclose(drawn.meta_losses, found[0][0], rtol=1e-3), "minibatches give other losses"
    same = Unroll(inner, batch, 9).window(minibatches.start(), 3, differentiable=False)
    torch.testing.assert_close(same.inner_losses, drawn.inner_losses)  # the inner loop sees its minibatches


def test_it_stays_when_tasks_are_taken_or_moved():
    batch = batch_of(PARTS["unseen rows"])
    for moved in (batch.take([2, 0]), batch.to(torch.float32)):
        assert moved.minibatches("meta") is None
        assert moved.minibatches("inner") is not None


def test_full_batches_are_what_they_were():
    batch = batch_of(PARTS["the inner rows"], None)
    assert batch.shares_meta
    assert batch.minibatches("inner") is None


@pytest.mark.parametrize("estimator", ["bptt", "pes"])
def test_meta_training_takes_it_phase_by_phase_and_says_so(estimator, tmp_path, monkeypatch):
    played = []
    sampled = trainer.MetaTrainer.begin

    def noted(self, *given, **named):
        flight = sampled(self, *given, **named)
        played.append(flight.batch.minibatches("meta") is None)
        return flight

    monkeypatch.setattr(trainer.MetaTrainer, "begin", noted)
    by_derivative = estimator == "bptt"
    unroll = UnrollSettings(6, 3, second_order=by_derivative, all_meta_rows=True)
    phases = [{"iterations": 2}, {"iterations": 1, "all_meta_rows": False}]
    meta = MetaSettings(3, 2, estimator=estimator, phases=phases)
    settings = ValidationSettings(2, 2)
    training = trainer.MetaTrainer(
        InnerOptimizer(TensorUpdate(4)), [family_of((0.5, 0.5, 0.0))], unroll, copy.deepcopy(meta), settings
    )
    assert all(batch.minibatches("meta") is None for batch in training.tests.batches)
    meta_train(
        InnerOptimizer(TensorUpdate(4)), family_of((0.5, 0.5, 0.0)), unroll, meta, settings, output=tmp_path / "run"
    )
    assert played == [True, True, False]
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert [", scored on all meta rows" in line for line in card.splitlines() if line.startswith("- iter")] == [
        True,
        False,
    ]


def test_a_wrong_value_is_named():
    with pytest.raises(ConfigError, match=r"unroll.all_meta_rows must be true or false, got 2"):
        UnrollSettings(all_meta_rows=2)
