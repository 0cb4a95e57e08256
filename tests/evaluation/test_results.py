"""results.json: strict, whole, bit for bit, and one clear error for damage."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatele.tasks import GaussianMixture

from metatele import (
    ConfigError,
    InnerOptimizer,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation
from metatele.evaluation.results import plain
from tests.evaluation.conftest import Explode, Noise, assert_equal, quick, shown


def test_results_come_back(full):
    result, folder = full
    assert_equal(Evaluation.load(folder), result)
    assert_equal(Evaluation.load(folder / "results.json"), result)
    assert result["level"].runs[0].moves.sizes.shape == (1, 0, 3), "the example has teleports without a group"
    assert result["tele"].runs[0].accuracies
    assert result["plain"].budgets[0].tasks == 20
    assert math.inf in [t.score for t in result["SGD"].tuning.trials]
    assert not result.environment["hardware"]["device"].startswith("cuda")


def test_results_are_strict_json_whole_and_nothing_else(full):
    folder = full[1]
    text = (folder / "results.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert stored["reference"] == "plain"
    assert stored["environment"]["versions"]["torch"] == torch.__version__
    family = GaussianMixture(3, 2, rows=24, hidden=[4], batch_size=5)
    assert stored["task_seeds"] == sample_meta_batch(family, "test", range(3)).seeds.tolist()
    assert stored["settings"]["report_steps"] == [0, 2, 5]
    assert [p.name for p in folder.iterdir()] == ["results.json"]


def test_what_is_read_back_says_the_same(full):
    result, loaded = full[0], Evaluation.load(full[1])
    assert shown(loaded, 100) == shown(result, 100)
    assert [v.sentence for v in loaded.verdicts] == [v.sentence for v in result.verdicts]
    assert loaded.claims == result.claims
    assert_equal(dict(loaded.measures), dict(result.measures))


def test_diverged_entries_are_null(tmp_path):
    result = quick({"bad": InnerOptimizer(Explode())}, Noise(), tasks=8, steps=5, output=tmp_path)
    curve = json.loads((tmp_path / "results.json").read_text())["entries"][0]["runs"][0]["losses"]["inner"]
    assert None in curve[-1]
    assert None not in curve[0]
    assert_equal(Evaluation.load(tmp_path), result)


def test_results_of_a_gpu_are_read_on_a_machine_without_one(full, tmp_path):
    stored = json.loads((full[1] / "results.json").read_text())
    stored["settings"]["device"] = "cuda:7"
    stored["environment"]["hardware"]["device"] = "NVIDIA H200"
    (tmp_path / "results.json").write_text(json.dumps(stored))
    loaded = Evaluation.load(tmp_path)
    assert loaded.settings.device == "cuda:7"
    assert shown(loaded, 100) == shown(full[0], 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the results"),
        ("{", "cannot read the results"),
        ("[" * 100_000, "cannot read the results"),
        ("3", "not a results.json of format 2"),
        ('{"format": 1}', r"not a results.json of format 2 \(its format: 1\)"),
        ('{"format": 2}', "is damaged: KeyError: 'family'"),
    ],
)
def test_reading_what_is_no_result(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize("name", ["", "nowhere", "x" * 300, "a\0b", "\udcff"])
def test_reading_what_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot read the results"):
        Evaluation.load(name)


def positions(tree, path=()):
    yield path
    for key in tree if isinstance(tree, dict) else range(min(len(tree), 3)) if isinstance(tree, list) else ():
        yield from positions(tree[key], (*path, key))


OTHERS = [None, True, -1, 0, 7, 1.5, 10**400, "", "x", "1", [], [[]], [None], {}, {"a": 1}, [1, [2]], [10**30], ["x"]]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_results_are_one_clear_error(full, tmp_path, data):
    stored = json.loads((full[1] / "results.json").read_text())
    *way, last = data.draw(st.sampled_from([p for p in positions(stored) if p]))
    inside = functools.reduce(lambda tree, key: tree[key], way, stored)
    if data.draw(st.booleans()):
        del inside[last]
    else:
        inside[last] = data.draw(st.sampled_from(OTHERS))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(stored))
    try:
        loaded = Evaluation.load(path)
    except ConfigError:
        return
    assert shown(loaded, 200)
    assert loaded.verdicts is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(reference="nobody"), "reference is 'nobody'|reference 'nobody'"),
        (lambda s: s["entries"].append(s["entries"][0]), "contestants need distinct names"),
        (lambda s: s["entries"][0].update(kind="winner"), "expected one of 'checkpoint'.* got 'winner'"),
        (lambda s: s["entries"][0]["runs"][0]["losses"]["inner"].pop(), "curves of shape"),
        (lambda s: s["settings"].update(tasks=2), "curves of shape"),
        (lambda s: s["entries"][1]["runs"][0]["losses"].pop("test"), "differ in the parts"),
        (lambda s: s["settings"].update(steps=0), "steps must be a whole number"),
        (lambda s: s.update(elapsed=10**400), "OverflowError"),
    ],
)
def test_contradictions_in_results(full, tmp_path, change, message):
    stored = json.loads((full[1] / "results.json").read_text())
    change(stored)
    (tmp_path / "results.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=message):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize("values", [[0.0, -0.0, 1e-45, 3.4e38, np.nan, np.inf, -np.inf, 0.1, 1 / 3]])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_number_comes_back_bit_for_bit(values, kind):
    from numpy.typing import NDArray

    from metatele.evaluation.results import restore

    array = np.array([values, values[::-1]], kind)
    back = restore(NDArray[kind], json.loads(json.dumps(plain(array), allow_nan=False)))
    assert_equal(back, array)
    many = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    many = many[np.isfinite(many)]
    assert_equal(restore(NDArray[np.float32], json.loads(json.dumps(plain(many)))), many)
