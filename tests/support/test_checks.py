"""Settings with numpy's numbers, which sweeps are made of, are those with Python's."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent

from metatele import (
    ConfigError,
    CoordinateUpdate,
    InnerOptimizer,
    MetaSettings,
    MetateleError,
    NeuronTeleport,
    UnrollSettings,
    ValidationSettings,
    evaluate,
    load_checkpoint,
    meta_train,
    save_checkpoint,
)
from metatele.evaluation.settings import Settings
from metatele.support.checks import above_zero, at_least, plain_numbers, within


def test_numpys_numbers_are_numbers():
    at_least(1, n=np.int64(1), m=np.uint8(200))
    above_zero(lr=np.float32(0.1))
    within(0, 1, share=np.float64(0.5))
    for wrong in (np.int64(0), np.float64(2.0), np.bool_(True), True, 1.0, "1"):
        with pytest.raises(ConfigError, match="n must be a whole number of at least 1"):
            at_least(1, n=wrong)
    found = plain_numbers({"a": [np.int64(1), (np.float64(0.5), "x")], "b": np.bool_(True), "c": None})
    assert found == {"a": [1, (0.5, "x")], "b": True, "c": None}
    assert json.loads(json.dumps(found))["a"] == [1, [0.5, "x"]]


@pytest.mark.parametrize(
    "settings",
    [
        UnrollSettings(np.int64(4), np.int32(2), np.bool_(True), np.int64(1)),
        MetaSettings(np.int64(3), tasks=np.int16(2), lr=np.float32(0.5)),
        ValidationSettings(np.int64(2), np.int64(1)),
        Settings(tasks=np.int64(2), seed=np.int64(3), chunk=np.int64(1), report_steps=(np.int64(1),), steps=np.int8(2)),
    ],
)
def test_settings_hold_pythons_numbers(settings):
    json.dumps(asdict(settings))
    assert all(not isinstance(v, np.generic) for v in asdict(settings).values())


def test_a_run_with_numpys_numbers_is_the_run_with_pythons(tmp_path):
    seeds = {"numpy": np.int64(3), "python": 3}
    for name, seed in seeds.items():
        number = type(seed)
        inner = InnerOptimizer(CoordinateUpdate(number(3)), NeuronTeleport(hidden=number(3), last=number(2)))
        meta = MetaSettings(iterations=number(2), tasks=number(2))
        unroll, validation = UnrollSettings(number(4), number(2)), ValidationSettings(number(2), number(1))
        family = TeacherStudent(rows=number(8), hidden=number(4), batch_size=number(4))
        meta_train(inner, family, unroll, meta, validation, seed=seed, output=tmp_path / name)
    numpy, python = ((tmp_path / name / "last" / "model.safetensors").read_bytes() for name in seeds)
    assert numpy == python
    inner = InnerOptimizer(CoordinateUpdate(3), NeuronTeleport(hidden=3, last=2))
    family = TeacherStudent(rows=8, hidden=4, batch_size=4)
    again = (UnrollSettings(4, 2), MetaSettings(iterations=3, tasks=2), ValidationSettings(2, 1))
    assert len(meta_train(inner, family, *again, seed=3, output=tmp_path / "numpy", resume=True).history) == 3


def test_a_checkpoint_keeps_pythons_numbers(tmp_path):
    inner = InnerOptimizer(CoordinateUpdate(np.int64(3), lr=np.float64(0.02)), NeuronTeleport(bound=np.float32(0.5)))
    inner.initialise(0)
    loaded = load_checkpoint(save_checkpoint(inner, tmp_path / "c"))
    assert loaded.update.arguments() == {"hidden": 3, "layers": 1, "lr": 0.02}
    for key, value in inner.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])


def test_an_evaluation_with_numpys_numbers():
    family, inner = TeacherStudent(rows=8, hidden=4), InnerOptimizer(CoordinateUpdate(3))
    inner.initialise(0)
    small = {"tuning_tasks": 2, "timing_repeats": 1, "baselines": False}
    found = [
        evaluate({"a": inner}, family, tasks=n(3), steps=n(2), seed=n(1), **small)["a"].runs[0].losses["inner"]
        for n in (int, np.int64)
    ]
    assert np.array_equal(*found)


def test_errors_are_one_line():
    error = MetateleError("two\nlines\tand \x1b[2J")
    assert str(error) == "two lines and \\x1b[2J"
