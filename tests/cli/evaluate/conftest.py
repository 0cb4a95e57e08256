"""What the tests of `metatele evaluate` share: a checkpoint, few tasks, and what was written."""

import json
from pathlib import Path

import pytest
import yaml

from metatele import (
    CoordinateUpdate,
    InnerOptimizer,
    NeuronTeleport,
    evaluate,
    save_checkpoint,
)
from metatele.cli import evaluate_command, main, reporting

FEW = ["--tasks=2", "--steps=3", "--tuning_tasks=2", "--timing_repeats=1", "--timing_tasks=1"]
FAMILY = ["--family=TeacherStudent", "--family.rows=8", "--family.hidden=4"]
QUICK = [*FAMILY, *FEW, "--baselines=none"]
RECORD = {
    "family": {"class_path": "metatele.tasks.TeacherStudent", "init_args": {"rows": 8, "hidden": 4}},
    "meta": {"iterations": 10, "tasks": 2},
    "unroll": {"steps": 5},
    "seed": 3,
}
GRID = {
    "wide": {"init_args": {"hidden": 9}},
    "deep": {"init_args": {"depth": 3}},
    "smooth": {"init_args": {"activation": "tanh"}},
    "minibatches": {"init_args": {"batch_size": 2}},
    "long": {"steps": 30, "tasks": 1},
    "other": {"class_path": "GaussianMixture", "init_args": {"rows": 24}},
}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """What is handed to the report, which has its own tests."""
    seen = []
    for module in (reporting, evaluate_command):
        monkeypatch.setattr(module, "write_report", lambda evaluation, folder: seen.append((evaluation, folder)))
    return seen


@pytest.fixture
def worked(monkeypatch):
    """The names of the families that an evaluation was begun on."""
    begun = []

    def noted(checkpoints, family, *settings, **others):
        begun.append(type(family).__name__)
        return evaluate(checkpoints, family, *settings, **others)

    monkeypatch.setattr(reporting, "evaluate", noted)
    return begun


def make(folder: str, seed: int = 0, teleport: bool = True, hidden: int = 3, record=RECORD) -> Path:
    inner = InnerOptimizer(CoordinateUpdate(hidden), NeuronTeleport(hidden=3) if teleport else None)
    inner.initialise(seed)
    return save_checkpoint(inner, Path(folder), training="" if record is None else yaml.safe_dump(record))


@pytest.fixture(autouse=True)
def tele():
    return make("tele")


def results(folder: str = "evaluation") -> dict:
    return json.loads(Path(folder, "results.json").read_text())


def names(folder: str = "evaluation") -> list[str]:
    return [e["name"] for e in results(folder)["entries"] if e["kind"] == "checkpoint"]


def numbers(folder: str) -> dict:
    stored = results(folder)
    del stored["elapsed"]
    for entry in stored["entries"]:
        entry.pop("cost")
    return stored


def refused(capsys, *arguments: str) -> str:
    """Run `metatele evaluate` that must be refused: exit code 2 and one line on stderr; the line."""
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("metatele: error: ")
    assert err.count("\n") == 1, err
    return err
