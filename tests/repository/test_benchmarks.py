"""The benchmarks: contestants compute the same numbers, and a run ends in tables. Nothing here looks at a clock."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import compare, crew
from benchmarks.cells import Plan
from benchmarks.limit import Core, cores, flops, prepare
from benchmarks.own import OwnTraining, prepare_evaluation
from benchmarks.performance import BEGIN, END, section
from benchmarks.plain import PlainTraining
from benchmarks.tables import failures, first_iterations, inner_steps, speeds, tables
from benchmarks.variants import varied
from benchmarks.worker import Job
from benchmarks.workloads import WORKLOADS
from metatele.unroll.compiled import CompiledUnroll
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Window
from tests.conftest import ROOT

SMALL = {"steps": 6, "window": 3, "hidden": 6}
OPTIONS = [
    *("--workloads=dense", "--orders=first", "--batches=2", "--repeats=1", "--steps-batch=0"),
    "--change=" + ",".join(f"{name}={size}" for name, size in SMALL.items()),
]
CELL = {"kind": "training", "workload": "dense", "order": "first", "tasks": 2, "threads": 1}


class Clockwork:
    """A worker whose iterations take two seconds, without a process."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def receive(self) -> dict[str, dict[str, float]]:
        return {"ready": {"tasks": self.job.tasks, "warm_seconds": 1000.0}}

    def ask(self, word: str) -> dict[str, float]:
        return {"seconds": 2.0} if word == "go" else {}

    def close(self) -> None:
        pass


def noted(window: Callable[..., Window], played: list[type]) -> Callable[..., Window]:
    """The same, which notes whose it was."""

    def noting(play: Unroll | CompiledUnroll, *arguments: Any, **named: Any) -> Window:
        played.append(type(play))
        return window(play, *arguments, **named)

    return noting


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize(("steps", "tasks"), [(3, 1), (6, 1), (6, 2)])
def test_the_reference_computes_what_metatele_does(name: str, second: bool, steps: int, tasks: int) -> None:
    workload = varied(WORKLOADS[name].ordered(second), SMALL | {"steps": steps})
    own, plain = OwnTraining(workload, tasks, dtype=torch.float64), PlainTraining(workload, tasks, torch.float64)
    before = [w.detach().clone() for w in plain.weights]
    own()
    plain()
    for a, b, start in zip(own.trainer.inner.parameters(), plain.weights, before, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-9)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert not torch.equal(b, start)


def test_the_limit_counts_the_products() -> None:
    core = Core(rows=5, layers=[7], hidden=2, outputs=3, to_features=False)
    forward, behind = 2 * 5 * (9 * 8 + 2 * 3), 2 * 5 * (8 * 2 + 3 * 2)
    counted = sum(2 * times * a * b * c for times, (a, b, c) in core.products(window=4))
    # Each step forward; backward, to the step before it, if there is one; and each weight once, over all steps.
    assert counted == 4 * forward + 4 * behind - 2 * 5 * 8 * 2 + 4 * forward


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_limit_runs(name: str) -> None:
    workload = varied(WORKLOADS[name].ordered(True), SMALL)
    prepare(workload, 2)()
    assert all(core.to_features for core in cores(workload, 2))
    assert flops(workload, 4) == 2 * flops(workload, 2)


def test_sizes_that_a_workload_has_not() -> None:
    with pytest.raises(ValueError, match="width"):
        varied(WORKLOADS["dense"], {"width": 8})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "performance.md").write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    contestants = f"--contestants=higher,limit,before --before={ROOT}".split()
    out = run("benchmarks", *OPTIONS, *contestants, f"--output={folder / 'results.json'}", COLUMNS="100")
    assert "seconds per task-trajectory" in out
    assert max(map(len, out.splitlines())) <= 100
    return folder / "results.json"


@pytest.mark.slow
def test_a_run(results: Path) -> None:
    found = json.loads(results.read_text())
    (cell,) = found["cells"]
    assert set(cell["contestants"]) == {"higher", "limit", "before"}
    for record in cell["contestants"].values():
        assert "error" not in record
        assert len(record["seconds"]) == 1
        assert record["tasks"] == 2
    assert str(ROOT) not in results.read_text()


@pytest.mark.slow
def test_the_documentation_is_made_from_it(results: Path) -> None:
    run("benchmarks.performance", str(results), f"--docs={results.parent}")
    page = (results.parent / "performance.md").read_text()
    assert page.startswith("# Before")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| before / higher | of the limit |" in page
    assert (results.parent / "figures" / "performance_time.png").stat().st_size > 10_000


def test_who_fails_is_named_and_the_others_stay() -> None:
    made = {"environment": {"cores": 1, "versions": {}}, "cells": []}
    good, bad = {"tasks": 2, "seconds": [2.0, 4.0], "peak": 20.0, "base": 10.0}, {"error": "out of memory"}
    good |= {"prepare_seconds": 1.0, "warm_seconds": 5.0}
    made["cells"].append(CELL | {"contestants": {"higher": good, "JAX": bad | {"seconds": []}}})
    times = tables(made)[0]
    assert times.rows == [["2", "1", "1.5 ±33%", "memory"]]
    assert failures(made) == ["JAX failed at dense first 2: out of memory"]
    assert "JAX failed" in section(made)


def test_ratios_are_relative_to_compiled_steps_where_there_are_any() -> None:
    entries = {name: {"tasks": 2, "seconds": [s]} for name, s in (("limit", 1.0), ("higher", 6.0), ("compiled", 2.0))}
    table = speeds([CELL | {"contestants": entries}])
    assert table.title == "how many times as long as metatele with compiled steps, and the limit's share of its time"
    assert table.header[4:] == ["higher / compiled", "of the limit"]
    assert table.rows[0][4:] == ["3.00x ±0%", "50% ±0%"]
    entries["one at a time"] = entries.pop("compiled")
    table = speeds([CELL | {"contestants": entries}])
    assert table.header[4:] == ["one at a time / higher", "of the limit"]
    assert table.rows[0][4:] == ["0.33x ±0%", "17% ±0%"]


def test_without_metatele_there_are_no_ratios() -> None:
    record = {"tasks": 2, "seconds": [1.0], "prepare_seconds": 1.0, "warm_seconds": 2.0}
    made = {"cells": [CELL | {"contestants": {"limit": record}}]}
    assert [table.title.split()[0] for table in tables(made)] == ["dense,", "seconds", "peak"]


def test_the_first_iteration_counts_from_the_start() -> None:
    record = {"tasks": 2, "seconds": [1.0], "prepare_seconds": 1.5, "warm_seconds": 20.0}
    table = first_iterations([CELL | {"contestants": {"compiled": record, "JAX": {"error": "no jax", "seconds": []}}}])
    assert table.header[4:] == ["compiled", "JAX"]
    assert table.rows[0][4:] == ["21.5", "failed"]


def test_inner_steps_are_compared_in_both_orders_by_each_engine() -> None:
    cells = [(cell, jobs) for cell, jobs in Plan(workloads=["dense"]).cells() if cell["kind"] == "inner steps"]
    assert [cell["order"] for cell, _ in cells] == ["first", "second"]
    for cell, jobs in cells:
        assert cell["tasks"] == Plan().steps_batch
        assert list(jobs) == [
            f"{engine}, {what}, {steps} steps"
            for engine in ("higher", "compiled")
            for what in ("meta-training", "evaluation")
            for steps in (100, 1000)
        ]
        for name, job in jobs.items():
            kind = "evaluation" if job.evaluation else "meta-training"
            assert name == f"{job.contestant}, {kind}, {job.changes['steps']} steps"
            assert job.second == (cell["order"] == "second")
    table = inner_steps([cell | {"contestants": {"x": {"steps": 10, "seconds": [1.0]}}} for cell, _ in cells])
    assert table.rows == [["dense", order, "8", "x", "100 ±0%"] for order in ("first", "second")]


@pytest.mark.parametrize("engine", [None, "higher"])
def test_inner_steps_of_the_engines_that_are_asked_for(engine: str | None) -> None:
    contestants = ["limit"] if engine is None else ["limit", engine]
    found = [
        name for cell, jobs in Plan(contestants=contestants).cells() if cell["kind"] != "training" for name in jobs
    ]
    assert {name.split(",")[0] for name in found} == ({engine} if engine else set())


def test_an_engine_of_a_workload() -> None:
    assert WORKLOADS["dense"].by("compiled").unroll == replace(WORKLOADS["dense"].unroll, engine="compiled")


@pytest.mark.parametrize("engine", ["higher", pytest.param("compiled", marks=pytest.mark.slow)])
def test_an_evaluation_is_played_by_its_engine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    for kind in (Unroll, CompiledUnroll):
        monkeypatch.setattr(kind, "window", noted(kind.window, played))
    prepare_evaluation(varied(WORKLOADS["dense"], SMALL).by(engine), 2)()
    assert played == [{"higher": Unroll, "compiled": CompiledUnroll}[engine]]


def test_rounds_end_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "Worker", Clockwork)
    jobs = {"compiled": Job("compiled", "dense", False, 1)}
    for budget, rounds in ((0, 3), (8, 4), (100, 6)):
        (record,) = crew.measure(jobs, 6, budget, lambda text: None).values()
        assert len(record["seconds"]) == rounds


@pytest.mark.slow
def test_compiled_steps_are_timed_and_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    contestants, output = "--contestants=compiled,limit", f"--output={tmp_path / 'results.json'}"
    out = run("benchmarks", *OPTIONS, contestants, output, TMPDIR=str(tmp_path / "temporary"))
    assert "compilation included" in out
    (cell,) = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert set(cell["contestants"]) == {"compiled", "limit"}
    for record in cell["contestants"].values():
        assert "error" not in record
        assert len(record["seconds"]) == 1
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_comparisons_with_several_jobs_and_with_one_take_turns() -> None:
    small = ["--unroll.steps=2", "--unroll.window=2", "--meta.iterations=1", "--evaluation.tasks=2"]
    out = run("benchmarks.compare", "--", *small)
    assert [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")] == list(compare.STAGES)


@pytest.mark.slow
def test_processes_and_threads_take_turns() -> None:
    small = ["--unroll.steps=2", "--unroll.window=2", "--meta.tasks=2", "--validation.tasks=2"]
    out = run("benchmarks.processes", "--repeats=1", "--", *small)
    ways = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert ways == ["1 process, 1 thread", "2 processes, 1 thread each", "1 process, 2 threads"]


@pytest.mark.slow
def test_estimators_are_compared_at_equal_seconds(tmp_path: Path) -> None:
    few = ["--budget=0.2", "--seeds=1", "--horizons=100", "--estimators", "bptt", "pes"]
    out = run("benchmarks.estimators", *few, f"--output={tmp_path / 'found.json'}")
    assert "Horizon 100" in out
    for found in json.loads((tmp_path / "found.json").read_text()):
        ((first, *_, last),) = found["runs"]
        assert first[0] == 0
        assert last[0] >= 0.2
        assert last[3] > 0
