"""Meta-training on several processes is meta-training on one, to rounding; no process waits for one that is gone."""

import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from metatele.tasks import GaussianMixture, TeacherStudent

import metatele.meta_training.trainer as trainer
from metatele import (
    ConfigError,
    CoordinateUpdate,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    UnrollSettings,
    ValidationSettings,
    meta_train,
)
from metatele.meta_training.state import read_state
from tests import processes
from tests.conftest import heed_ctrl_c
from tests.processes import children_of, free_port, join

CASES = ("log", "sum", "pieces", "diverging", "es", "pes", "flights")
CONFIG = """
family: {class_path: metatele.tasks.TeacherStudent, init_args: {inputs: 3, hidden: 4, outputs: 2, rows: 8}}
optimizer:
  update: {class_path: metatele.CoordinateUpdate, init_args: {hidden: 4}}
  teleport: {class_path: metatele.NeuronTeleport, init_args: {hidden: 4}}
unroll: {steps: 4, window: 2}
meta: {iterations: 60, tasks: 5, lr: 1.0e-2}
validation: {tasks: 3, every: 2}
"""


def run(case: str, output: Path, **more: Any) -> Any:
    """Five tasks a meta-batch, so that two or three processes have unequal shares; in float64."""
    torch.set_num_threads(1)
    trainer.DTYPE = torch.float64
    families = [TeacherStudent(3, 4, 2, rows=8, spread=3, batch_size=4), GaussianMixture(4, rows=40, hidden=[5])]
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3, last=1))
    unroll = UnrollSettings(5, 2, checkpoint=1 if case == "pieces" else None)
    if case == "compiled":
        families, unroll = families[:1], replace(unroll, engine="compiled")
    meta, initialise = MetaSettings(iterations=4, tasks=5, lr=1e-2, loss="sum" if case == "sum" else "log"), True
    if case in ("es", "pes", "flights"):
        unroll = replace(unroll, steps=(5, 7), second_order=case == "flights", in_flight=3, random_start=True)
        meta = replace(meta, estimator="bptt" if case == "flights" else case, average=0.5)
    if case == "diverging":  # so fast that some tasks, or all of one process, explode
        inner, initialise = InnerOptimizer(GradientDescent(0.8, learn=True), NeuronTeleport(hidden=3)), False
        inner.initialise(0)
    validation = ValidationSettings(3, 2)
    return meta_train(
        inner, families, unroll, meta, validation, seed=2, output=output, initialise=initialise, **more
    ).history


def work(rank: int, size: int, port: int, case: str, folder: str, more: dict[str, Any]) -> None:
    join(rank, size, port)
    history = run(case, Path(folder), **more)
    torch.save([tuple(i) for i in history], f"{folder}/history-{rank}.pt")
    dist.destroy_process_group()


def of_processes(size: int, case: str, folder: Path, **more: Any) -> list[list[tuple[Any, ...]]]:
    """The histories that `size` processes have seen."""
    mp.spawn(work, (size, free_port(), case, str(folder), more), nprocs=size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"history-{rank}.pt", weights_only=True) for rank in range(size)]


def weights(folder: Path, which: str = "last") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / which / "model.safetensors")
    return found


def assert_same(folder: Path, other: Path, rtol: float = 1e-9) -> None:
    for which in ("last", "best"):
        expected, found = weights(folder, which), weights(other, which)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("log", 2),
        ("pes", 2),
        pytest.param("compiled", 2, marks=pytest.mark.slow),
        *(pytest.param(c, 3, marks=pytest.mark.slow) for c in CASES),
    ],
)
def test_several_processes_are_one(case: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    alone = run(case, tmp_path / "one")
    (tmp_path / "many").mkdir()
    histories = of_processes(size, case, tmp_path / "many")
    assert case != "diverging" or 0 < alone[0].diverged < 5
    for history in histories:
        for one, many in zip(alone, history, strict=True):
            for expected, found in zip(one[:-1], many[:-1], strict=True):  # but for the seconds
                assert found == (None if expected is None else pytest.approx(expected, rel=1e-9))
    assert_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["log", "es", "pes", "flights"])
def test_a_run_goes_on_with_another_number_of_processes(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    run(case, tmp_path / "one")
    (tmp_path / "many").mkdir()
    of_processes(3, case, tmp_path / "many", stop=stop_at_once)
    record, _ = read_state(tmp_path / "many" / "state.safetensors")
    assert len(record["history"]) == 1
    assert len(record["flights"]) == (0 if case == "log" else 2)
    of_processes(2, case, tmp_path / "many", resume=True)
    assert_same(tmp_path / "one", tmp_path / "many")


def stop_at_once() -> bool:
    """Asked of one process, it stops all."""
    return dist.get_rank() == 1


def differ(rank: int, port: int, folder: str) -> None:
    """Each process wants a run of its own."""
    join(rank, 2, port)
    small = UnrollSettings(2, 1), MetaSettings(1, 2), ValidationSettings(2)
    with pytest.raises(ConfigError, match="2 processes share the tasks of each meta-batch, but were given different"):
        meta_train(InnerOptimizer(CoordinateUpdate(hidden=2)), TeacherStudent(rows=4), *small, seed=rank)
    (Path(folder) / str(rank)).touch()
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_want_different_runs_are_refused(tmp_path: Path) -> None:
    mp.spawn(differ, (free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    assert len(list(tmp_path.iterdir())) == 2


def torchrun(folder: Path, size: int, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    (folder / "c.yaml").write_text(CONFIG)
    return processes.torchrun(folder, size, *arguments, **options)


TRAIN = ("-m", "metatele", "meta-train", "--config=c.yaml", "--output=run")


@pytest.mark.slow
def test_a_killed_process_costs_the_iterations_since_the_last_checkpoint(tmp_path: Path) -> None:
    """torchrun starts the processes anew, and they go on; the end is that of a run that nobody disturbed."""
    alone = tmp_path / "alone"
    alone.mkdir()
    done = torchrun(alone, 1, *TRAIN)
    assert "best checkpoint" in done.communicate(timeout=300)[0]
    rng, state = random.Random(0), tmp_path / "run" / "state.safetensors"
    process = torchrun(tmp_path, 2, "--max-restarts=5", *TRAIN)
    killed = 0.0
    for victim in (1, 0):
        while not state.is_file() or state.stat().st_mtime <= killed:  # until these processes have saved something
            time.sleep(0.02)
            assert process.poll() is None, process.communicate()[0]
        time.sleep(rng.uniform(0, 0.2))
        os.kill(children_of(process.pid)[victim], signal.SIGKILL)
        time.sleep(2)  # for the other one to end
        killed = time.time()
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert told.count("exitcode: -9") == 2
    assert "best checkpoint" in told
    history = read_state(state)[0]["history"]
    assert [row[0] for row in history] == list(range(1, 61))
    expected = read_state(alone / "run" / "state.safetensors")[0]["history"]
    assert [row[1] for row in history] == pytest.approx([row[1] for row in expected], rel=1e-2)
    for key, value in weights(alone / "run").items():  # float32: rounding grows over 60 meta-updates
        torch.testing.assert_close(weights(tmp_path / "run")[key], value, rtol=1e-2, atol=1e-2)


def machines(folder: Path, *arguments: str) -> list["subprocess.Popen[str]"]:
    """Two torchruns with a process each, as on two machines."""
    (folder / "c.yaml").write_text(CONFIG)
    where = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    how = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", where, "--local-addr=127.0.0.1"]
    return [processes.torchrun_with(folder, [*how, "--max-restarts=3"], *arguments) for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [None, 0, 1])
def test_several_machines(victim: int | None, tmp_path: Path) -> None:
    """Each counts the failures of its own process only, and is told of those of the other one."""
    alone = tmp_path / "alone"
    alone.mkdir()
    torchrun(alone, 1, *TRAIN).communicate(timeout=300)
    both = machines(tmp_path, *TRAIN)
    state = tmp_path / "run" / "state.safetensors"
    while not state.is_file():
        time.sleep(0.1)
        assert [process.poll() for process in both] == [None, None]
    if victim is not None:
        os.kill(children_of(both[victim].pid)[0], signal.SIGKILL)
    told = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "".join(told).count("best checkpoint") == 1
    assert "".join(told).count("exitcode: -9") == (victim is not None)
    assert "holds a run already" not in "".join(told)
    history = read_state(state)[0]["history"]
    assert [row[0] for row in history] == list(range(1, 61))
    expected = read_state(alone / "run" / "state.safetensors")[0]["history"]
    assert [row[1] for row in history] == pytest.approx([row[1] for row in expected], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--meta.lr=-1"], ["--family=unlucky.Unlucky"]])
def test_an_error_on_several_machines_is_told_once(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "unlucky.py").write_text(UNLUCKY)
    both = machines(tmp_path, *TRAIN, *more)
    began = time.monotonic()
    told = "".join(process.communicate(timeout=200)[0] for process in both)
    assert 0 not in [process.returncode for process in both]
    assert time.monotonic() - began < 100
    said = [line for line in told.splitlines() if line.startswith("metatele: error:")]
    assert 1 <= len(said) <= 4, "once in each of the rounds that torchrun makes"
    assert all("meta.lr must be above 0" in line or "bad luck of one process" in line for line in said), said


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_together_and_saves(tmp_path: Path) -> None:
    process = torchrun(tmp_path, 2, *TRAIN, "--meta.iterations=100000", preexec_fn=heed_ctrl_c, start_new_session=True)
    state = tmp_path / "run" / "state.safetensors"
    while not state.is_file():
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told, _ = process.communicate(timeout=60)
    (line,) = [line for line in told.splitlines() if line.startswith("metatele: stopped after")]
    done = len(read_state(state)[0]["history"])
    assert f"stopped after {done} iterations; continue with: metatele meta-train --resume run" in line
    again = torchrun(tmp_path, 3, "-m", "metatele", "meta-train", "--resume=run", f"--meta.iterations={done + 2}")
    assert "best checkpoint" in again.communicate(timeout=120)[0]
    assert len(read_state(state)[0]["history"]) == done + 2


AGAIN = """
from pathlib import Path
from metatele import *
from metatele.tasks import TeacherStudent
for seed in range(4):
    small = UnrollSettings(2, 1), MetaSettings(1, 2), ValidationSettings(2)
    meta_train(InnerOptimizer(CoordinateUpdate(hidden=2)), TeacherStudent(rows=4), *small, seed=seed)
    evaluate({}, TeacherStudent(rows=4), tasks=2, steps=1, tuning_tasks=1, timing_repeats=1, chunk=1 + seed)
assert not [t for t in Path("/proc/self/task").iterdir() if "gloo" in (t / "comm").read_text()]
print("all four")
"""


@pytest.mark.slow
def test_a_script_may_meta_train_and_evaluate_again_and_again(tmp_path: Path) -> None:
    """Each time with a process group of its own, which reads no addresses of the one before, and of which no threads
    are left: they would end a process whose interpreter is gone."""
    (tmp_path / "again.py").write_text(AGAIN)
    told, _ = torchrun(tmp_path, 2, "again.py").communicate(timeout=120)
    assert told.count("all four") == 2, told


UNLUCKY = """
import os
from metatele.tasks import TeacherStudent
class Unlucky(TeacherStudent):
    drawn = 0
    def sample(self, generator):
        Unlucky.drawn += 1
        if os.environ["RANK"] == "1" and Unlucky.drawn > 20:
            raise ValueError("bad luck of one process")
        return super().sample(generator)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--meta.tasks=1"], "meta.tasks is 1, fewer than the 2 processes; start fewer"),
        (["--validation.tasks=1"], "validation.tasks is 1, fewer than the 2 processes; start fewer"),
        (["--meta.sigma=0"], "meta.sigma must be above 0 and finite, got 0"),
        (
            ["--meta.estimator=pes", "--unroll.second_order=false", "--meta.pairs=1"],
            "meta.pairs is 1, fewer than the 2 processes; start fewer",
        ),
        (["--meta.lr=-1"], "meta.lr must be above 0 and finite"),
        (["--family=unlucky.Unlucky"], "ValueError: bad luck of one process"),
        (["report"], "report runs in one process, only meta-train and evaluate in several; start it without torchrun"),
    ],
)
def test_an_error_ends_all_processes_and_is_told_once(tmp_path: Path, more: list[str], said: str) -> None:
    (tmp_path / "unlucky.py").write_text(UNLUCKY)
    began = time.monotonic()
    process = torchrun(tmp_path, 2, *(TRAIN[:2] if more == ["report"] else TRAIN), *more)
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - began < 100  # it would hang for half an hour
    (line,) = [line for line in told.splitlines() if line.startswith("metatele: error:")]
    assert said in line
    assert "meta-train: iteration 60" not in told
