"""The evaluator as a whole: reproducible, its settings checked before any work."""

import json
import random

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent

import metatele.evaluation.evaluator as evaluator
import metatele.evaluation.stages as stages
from metatele import (
    ConfigError,
    DenseUpdate,
    InnerOptimizer,
    OutputError,
    RandomTeleport,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation, Options, Settings, evaluate
from metatele.evaluation.results import plain
from tests.evaluation.conftest import FAMILY, RULES, Broken, gd, learned, quick, tuned_at_once


def numbers(result: Evaluation) -> str:
    """Everything but wall-clock and memory."""
    plain_result = plain(result)
    del plain_result["elapsed"]
    for e in plain_result["entries"]:
        e["cost"] = None
    return json.dumps(plain_result)


def test_same_call_same_numbers_and_the_global_streams_stay(monkeypatch):
    monkeypatch.setattr(stages, "tune", tuned_at_once)

    def call(global_seed):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        inner = learned(1, RandomTeleport())
        unbound = InnerOptimizer(DenseUpdate(hidden=3))  # draws its weights only when it meets a network
        states = torch.random.get_rng_state(), str(np.random.get_state()), random.getstate()
        result = quick({"r": inner, "t": learned(2, True), "u": unbound}, baselines="plain", tasks=2, steps=2)
        assert torch.equal(torch.random.get_rng_state(), states[0])
        assert (str(np.random.get_state()), random.getstate()) == states[1:]
        assert result["u"].failure is None
        return numbers(result)

    assert call(1) == call(2)


def test_seed_changes_the_tasks():
    assert not set(quick({"a": gd()}).task_seeds) & set(quick({"a": gd()}, seed=1).task_seeds)


def test_test_tasks_are_played_when_all_is_chosen(monkeypatch):
    order = []
    monkeypatch.setattr(stages, "tune", lambda *a, **k: order.append("tune") or tuned_at_once(*a, **k))
    monkeypatch.setattr(
        evaluator, "sample_meta_batch", lambda f, split, *r: order.append(split) or sample_meta_batch(f, split, *r)
    )
    result = quick({"a": learned(1, True)}, baselines=True, progress=lambda stage, *_: order.append(stage.split()[0]))
    tried = order.index("test")
    assert set(order[:tried]) == {"train"}
    first = order.index("test", tried + 1)
    assert order[:first].count("tune") == len(RULES)
    assert not {"tune", "recording", "train"} & set(order[first:])
    assert not set(sample_meta_batch(FAMILY, "train", range(2)).seeds.tolist()) & set(result.task_seeds)


@pytest.mark.parametrize("chunk", [None, 2])
def test_progress_counts_to_its_end_and_never_back(monkeypatch, chunk):
    monkeypatch.setattr(stages, "tune", tuned_at_once)
    calls = []
    inners = {"a": [learned(1, True), learned(2, True)], "bad": InnerOptimizer(Broken("raise", 1))}
    quick(inners, baselines=True, tasks=5, chunk=chunk, progress=lambda *call: calls.append(call), timing_repeats=2)
    assert calls[0] == ("recording the teleports of a", 0, 1)
    calls = calls[1:]
    done, totals = [c[1] for c in calls], {c[2] for c in calls}
    assert calls[0][:2] == ("tuning SGD", 0)
    assert calls[-1][0] == "done"
    assert len(totals) == 1
    assert done == sorted(done)
    assert done[-1] in totals
    assert done[-2] < done[-1], "the last piece of work is counted, once"


def test_size_free_checkpoint_runs_on_other_widths_and_depths():
    wide = TeacherStudent(6, 9, 3, depth=3, rows=10)
    assert quick({"a": learned(1, True)}, wide)["a"].runs[0].losses["inner"].shape == (5, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "tasks must be a whole number of at least 1, got 0"),
        ({"steps": -2}, "steps must be a whole number of at least 1, got -2"),
        ({"steps": 2.0}, "steps must be a whole number of at least 1, got 2.0"),
        ({"tuning_tasks": 0}, "tuning_tasks must be a whole number of at least 1, got 0"),
        ({"timing_repeats": 0}, "timing_repeats must be a whole number of at least 1, got 0"),
        ({"timing_tasks": 0}, "timing_tasks must be a whole number of at least 1, got 0"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1, got 0"),
        ({"report_steps": [5]}, r"a report step must be in \[0, 4\], got 5"),
        ({"report_steps": [-1]}, r"a report step must be in \[0, 4\], got -1"),
        ({"report_steps": ["x"]}, "a report step must be .* got 'x'"),
        ({"report_steps": 3}, "report_steps must be .* got 3"),
        ({"baselines": "all"}, "baselines must be one of plain, teleports, none, got 'all'"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used"),
        ({"reference": "x"}, "'x' is not a contestant"),
        ({"seed": "zero"}, "seed must be a whole number"),
    ],
)
def test_impossible_settings(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        quick({"a": gd()}, output=tmp_path, **settings)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_unwritable_folder_is_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluator, "sample_meta_batch", lambda *_: pytest.fail("worked"))
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file/x"):
        quick({"a": gd()}, output=tmp_path / "file" / "x")


def test_full_disk_is_one_clear_error_and_keeps_the_old_results(tmp_path, monkeypatch):
    result = quick({"a": gd()}, output=tmp_path)
    old = (tmp_path / "results.json").read_text()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metatele.support.files.os.replace", full_disk)
    with pytest.raises(OutputError, match=r"cannot write .*results\.json: No space left on device"):
        result.save(tmp_path)
    assert (tmp_path / "results.json").read_text() == old
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"], "no temporary file stays"


# --- settings ------------------------------------------------------------------------------------


def test_settings_and_keywords_are_the_same_evaluation():
    few = Settings(2, 3, seed=5, tuning_tasks=2, timing_tasks=1, timing_repeats=1, report_steps=(1,), baselines=False)
    given = {"gd": gd(0.1)}
    a = evaluate(given, FAMILY, few, options=Options(title="both"))
    b = evaluate(given, FAMILY, tasks=2, steps=3, seed=5, tuning_tasks=2, timing_tasks=1, timing_repeats=1,
                 report_steps=[1], baselines="none", title="both")  # fmt: skip
    assert a.settings == b.settings
    assert (a.title, a.settings.chunk, a.settings.reported) == ("both", 1024, (1, 3))
    assert numbers(a) == numbers(b)


def test_a_keyword_replaces_a_setting():
    few = Settings(2, 4, tuning_tasks=2, timing_tasks=1, timing_repeats=1, report_steps=(3,), baselines="none")
    result = evaluate({"gd": gd(0.1)}, FAMILY, few, steps=2)
    assert (result.settings.tasks, result.settings.steps) == (2, 2)
    assert result.settings.reported == (2,), "the other length's step 3 is not there"


def test_what_is_no_setting_is_named():
    with pytest.raises(ConfigError, match=r"no argument 'taks'; it takes .*tasks"):
        evaluate({"gd": gd(0.1)}, FAMILY, taks=3)


@pytest.mark.parametrize(("steps", "reported"), [(5, (5,)), (30, (10, 30)), (100, (10, 30, 100))])
def test_steps_that_are_reported_by_default(steps, reported):
    assert Settings(steps=steps).reported == reported
    assert Settings(steps=steps, report_steps=()).reported == (steps,)
