"""The benchmarks: contestants compute the same numbers, and a run ends in tables. Nothing here looks at a clock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.limit import Core, cores, flops, prepare
from benchmarks.own import OwnTraining
from benchmarks.performance import BEGIN, END, section
from benchmarks.plain import PlainTraining
from benchmarks.tables import failures, tables
from benchmarks.variants import varied
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
SMALL = {"steps": 6, "window": 3, "hidden": 6}


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
    options = ["--workloads=dense", "--orders=first", "--batches=2", "--repeats=1", "--steps-batch=0"]
    contestants = f"--contestants=metatele,limit,before --before={ROOT}".split()
    small = "--change=" + ",".join(f"{name}={size}" for name, size in SMALL.items())
    out = run("benchmarks", *options, *contestants, small, f"--output={folder / 'results.json'}", COLUMNS="100")
    assert "seconds per task-trajectory" in out
    assert max(map(len, out.splitlines())) <= 100
    return folder / "results.json"


def test_a_run(results: Path) -> None:
    found = json.loads(results.read_text())
    (cell,) = found["cells"]
    assert set(cell["contestants"]) == {"metatele", "limit", "before"}
    for record in cell["contestants"].values():
        assert "error" not in record
        assert len(record["seconds"]) == 1
        assert record["tasks"] == 2
    assert str(ROOT) not in results.read_text()


def test_the_documentation_is_made_from_it(results: Path) -> None:
    run("benchmarks.performance", str(results), f"--docs={results.parent}")
    page = (results.parent / "performance.md").read_text()
    assert page.startswith("# Before")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| before / metatele | of the limit |" in page
    assert (results.parent / "figures" / "performance_time.png").stat().st_size > 10_000


def test_who_fails_is_named_and_the_others_stay() -> None:
    made = {"environment": {"cores": 1, "versions": {}}, "cells": []}
    good, bad = {"tasks": 2, "seconds": [2.0, 4.0], "peak": 20.0, "base": 10.0}, {"error": "out of memory"}
    cell = {"kind": "training", "workload": "dense", "order": "first", "tasks": 2, "threads": 1}
    made["cells"].append(cell | {"contestants": {"metatele": good, "JAX": bad | {"seconds": []}}})
    times = tables(made)[0]
    assert times.rows == [["2", "1", "1.5 ±33%", "memory"]]
    assert failures(made) == ["JAX failed at dense first 2: out of memory"]
    assert "JAX failed" in section(made)
