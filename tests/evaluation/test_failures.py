"""Contestants that fail: reported, while the others finish."""

import warnings

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent
from torch import nn

import metatele.evaluation.evaluator as evaluator
import metatele.evaluation.stages as stages
from metatele import (
    CheckpointError,
    DenseUpdate,
    InnerOptimizer,
    OutputError,
    TaskError,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation
from metatele.evaluation.play.run import play
from metatele.evaluation.results import plain
from metatele.testing import ExampleFamily
from tests.evaluation.conftest import FAMILY, Broken, Noise, assert_equal, gd, learned, quick, shown, tuned_at_once

FAILURES = {
    "raise": "RuntimeError while playing: the first line",
    "memory": "MemoryError while playing: ",
    "shapes": "RuntimeError while playing: ",
    "names": "KeyError while playing: ",
    "nothing": "TypeError while playing: ",
}


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("when", [0, 3])
def test_one_that_crashes_is_reported_and_the_others_finish(what, when, without):
    result = quick({"tele": learned(1, True), "bad": InnerOptimizer(Broken(what, when)), "plain": learned(2)})
    bad = result["bad"]
    assert bad.failure.startswith(FAILURES[what])
    assert "\n" not in bad.failure
    assert (bad.runs, bad.cost, bad.diverged) == ((), None, 0)
    names = [e.name for e in result.ran if not e.name.startswith("bad")]
    assert names == [e.name for e in without.entries if e.name != "plain + balance"]
    for name in names:
        for mine, theirs in zip(result[name].runs, without[name].runs, strict=True):
            assert plain(mine) == plain(theirs), "bit-equal to an evaluation without it"
    assert "failed: " in shown(result, 80)
    assert all(v.outcome == "not decided" for v in result.verdicts if "bad" in (v.name, v.against))
    assert result.part == "inner"
    assert "bad" not in result.measures


@pytest.fixture(scope="module")
def without():
    return quick({"tele": learned(1, True), "plain": learned(2)})


def test_one_that_crashes_in_a_later_chunk_only(monkeypatch):
    calls = []

    def fragile(inner, batch, at):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("only now")
        return play(inner, batch, at)

    monkeypatch.setattr(stages, "play", fragile)
    result = quick({"a": gd(0.1), "b": gd(0.2)}, Noise(), tasks=2, chunk=1)
    assert result["a"].failure == "ValueError while playing: only now"
    assert result["b"].runs[0].tasks == 2
    assert len(calls) == 4


def test_one_that_crashes_while_it_is_timed_has_no_runs(monkeypatch):
    monkeypatch.setattr(stages, "clock", lambda *_: 1 / 0)
    result = quick({"a": gd(0.1)}, Noise())
    assert result["a"].failure == "ZeroDivisionError while timing: division by zero"
    assert result["a"].runs == ()


def test_one_that_crashes_while_it_is_tuned(monkeypatch):
    def moody(rule, *rest, **more):
        if rule == "momentum":
            raise RuntimeError("no")
        return tuned_at_once(rule, *rest, **more)

    monkeypatch.setattr(stages, "tune", moody)
    result = quick({}, Noise(), baselines=True)
    assert [e.name for e in result.entries if e.failure] == ["momentum"]
    assert result["momentum"].failure == "RuntimeError while tuning: no"
    assert result["momentum"].tuning is None


def test_a_full_disk_is_nobodys_failure():
    with pytest.raises(OutputError, match="No space left"):
        quick({"a": InnerOptimizer(Broken("disk", 1))})


def test_ctrl_c_is_nobodys_failure(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick({"a": gd()})


@pytest.fixture
def misfits():
    dense = InnerOptimizer(DenseUpdate(hidden=4))
    batch = sample_meta_batch(FAMILY, "train", range(1))
    dense.bind(batch.network, batch.params)
    return {"ok": gd(), "my dense": dense, "tele": learned(1, True)}


TANH = TeacherStudent(4, 6, 2, rows=12, activation="tanh")


def test_what_cannot_run_is_a_clear_error_before_any_test_task(misfits, monkeypatch):
    drawn = []

    def spy(family, split, *rest):
        drawn.append(split)
        return sample_meta_batch(family, split, *rest)

    monkeypatch.setattr(evaluator, "sample_meta_batch", spy)
    with pytest.raises(CheckpointError, match=r"^my dense: this dense optimizer was made for .* size-free"):
        quick(misfits, TANH)
    assert set(drawn) == {"train"}


def test_what_cannot_run_is_a_failed_contestant_when_it_is_not_strict(misfits):
    result = quick(misfits, TANH, strict=False)
    assert result["my dense"].failure.startswith("CheckpointError while playing: this dense optimizer was made for")
    assert [e.name for e in result.ran] == ["ok", "tele"]


def test_where_teleports_cannot_act_they_are_idle_and_that_is_said(misfits):
    tele = misfits["tele"]
    with pytest.warns(UserWarning, match=r"^tele: its teleports stay idle: no symmetry of kind 'scaling'") as said:
        result = quick({"tele": tele, "update": InnerOptimizer(tele.update)}, TANH)
    assert len(said) == 1
    assert result["tele"].note.startswith("its teleports stay idle: no symmetry")
    assert not result["update"].note
    for mine, other in zip(result["tele"].runs, result["update"].runs, strict=True):
        assert mine.losses["inner"].tolist() == other.losses["inner"].tolist()
    assert tele.teleport.moves, "the checkpoint that was given is as it was"
    result = quick({"tele": tele})
    assert "idle" not in result["tele"].note, "where they can act"


def test_every_contestant_fails(tmp_path):
    result = quick({"a": InnerOptimizer(Broken("raise", 0)), "b": InnerOptimizer(Broken("memory", 2))}, output=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.ran == ()
        assert shown(result, 100).count("failed: ") == 3
        assert {v.outcome for v in result.verdicts} == {"not decided"}
        assert (result.claims, dict(result.measures), result.part) == ((), {}, "inner")
    assert len(result.task_seeds) == 3
    assert_equal(Evaluation.load(tmp_path), result)


class Spoiled(ExampleFamily):
    """Some tasks begin with a loss that is NaN."""

    def __init__(self, share: float) -> None:
        super().__init__((3, 4, 2), (nn.ReLU(),), rows=6)
        self.share = share

    def sample(self, generator):
        x, y = super().sample(generator)
        return x, y + 100 * (torch.rand((), generator=generator) < self.share)

    def loss(self, prediction, target):
        error = super().loss(prediction, target)
        return torch.where(target.max() > 50, torch.nan, 1.0) * error


def test_tasks_that_begin_at_nan_are_left_out_and_told():
    with pytest.warns(UserWarning, match=r"test split that begin with a loss that is not finite are left out.*: \d+"):
        result = quick({"a": gd()}, Spoiled(0.3), tasks=20)
    assert len(set(result.task_seeds)) == 20
    assert np.isfinite(result["a"].losses("inner", 0)).all()
    with pytest.raises(TaskError, match=r"begin with a loss that is not finite|is nan at the initial weights"):
        quick({"a": gd()}, Spoiled(0.95), tuning_tasks=20)
    with pytest.raises(TaskError, match="is nan at the initial weights"):
        quick({"a": gd()}, Spoiled(1.0))
