"""metatele compare --jobs: the same runs in several processes, stopped, killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import metatele.evaluation.stages as stages
from metatele.cli import compare_command, main, side_by_side
from metatele.cli.reporting import report
from metatele.evaluation import Evaluation
from metatele.evaluation.results import plain
from metatele.meta_training.state import STATE, read_state
from metatele.support.parallel import limited_threads
from tests.conftest import heed_ctrl_c

NAMES = ("teleport", "no-teleport", "balance")
SMALL = ["--unroll.steps=2", "--unroll.window=2", "--meta.iterations=3", "--meta.tasks=2", "--validation.tasks=2",
         "--validation.every=1", "--family=jobs_families.Mine", "--optimizer.update=CoordinateUpdate",
         "--optimizer.update.hidden=3", "--optimizer.teleport=NeuronTeleport"]  # fmt: skip
FAMILY = """
import warnings
from torch import nn
from metatele.testing import ExampleFamily

class Mine(ExampleFamily):
    def __init__(self) -> None:
        super().__init__((4, 4, 2), (nn.ReLU(),), rows=6)

    def sample(self, rng):
        warnings.warn("a word of the family")
        return super().sample(rng)
"""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_command, "report", lambda *arguments, **settings: None)
    Path("jobs_families.py").write_text(FAMILY)


def files_of(folder: str) -> dict[str, bytes]:
    """The weights, and the settings, of all runs."""
    found = [Path(folder).rglob(name) for name in ("model.safetensors", "training.yaml")]
    return {str(p.relative_to(folder)): p.read_bytes() for paths in found for p in paths}


def history_of(folder: str, name: str) -> list[list[float | None]]:
    """The numbers of a run's iterations, but for the seconds."""
    return [row[:-1] for row in read_state(Path(folder) / name / STATE)[0]["history"]]


def test_several_jobs_do_what_one_does_with_the_users_own_family(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *SMALL, "--output=one"]) == 0
    one = sorted(capfd.readouterr().err.splitlines())
    assert main(["compare", *SMALL, "--output=many", "--jobs=2"]) == 0
    many = sorted(capfd.readouterr().err.splitlines())
    assert files_of("many") == files_of("one")
    assert {f"{name}/{which}/model.safetensors" for name in NAMES for which in ("best", "last")} < set(files_of("one"))
    for name in NAMES:
        assert history_of("many", name) == history_of("one", name)
    assert [line.split(": ")[:2] for line in many] == [
        [name, f"iteration {number}"] for name in sorted(NAMES) for number in (1, 2, 3)
    ]
    assert many == one
    assert "jobs" not in yaml.safe_load(Path("many/balance/training.yaml").read_text())


@pytest.mark.parametrize(("threads", "jobs", "each"), [(4, 2, 2), (4, 7, 1), (1, 2, 1), (3, 1, 3)])
def test_jobs_share_the_threads(threads: int, jobs: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(
        side_by_side, "run_all", lambda function, items, jobs, threads: given.update(each=threads) or []
    )
    with limited_threads(threads):
        assert main(["compare", *SMALL, "--output=out", f"--jobs={jobs}", "--controls", "balance"]) == 2
    assert given["each"] == each  # of three runs


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_a_number_of_jobs_that_cannot_be(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("jobs.yaml").write_text(f"jobs: {jobs}")
    for arguments in ([f"--jobs={jobs}"], ["--config=jobs.yaml"]):
        assert main(["compare", *arguments, *SMALL, "--output=out"]) == 2
        err = capsys.readouterr().err
        assert err == f"metatele: error: jobs must be a whole number of at least 1, got {jobs}\n"


def test_an_error_of_one_run_ends_all_and_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/balance").write_text("in the way")
    Path("jobs.yaml").write_text("jobs: 2")
    assert main(["compare", "--config=jobs.yaml", *SMALL, "--output=out", "--meta.iterations=1000000"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "validation loss" not in line]
    assert len([line for line in errors if line.startswith("metatele: error: ")]) == 1
    assert "out/balance" in errors[-1]
    assert not [line for line in errors if "Traceback" in line]


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    """A comparison of two seconds or more, in a process group of its own."""
    size = ["--unroll.steps=60", "--meta.iterations=15", "--validation.every=3", "--evaluation.tasks=2"]
    command = [sys.executable, "-m", "metatele", "compare", *SMALL, *size, "--evaluation.steps=2", f"--output={folder}"]
    return subprocess.Popen(
        [*command, "--jobs=2", *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip


def begun(process: "subprocess.Popen[str]", lines: int = 2) -> None:
    """Wait until its runs have been validated a few times."""
    assert process.stderr is not None
    while lines:
        line = process.stderr.readline()
        assert line, "it has ended"
        lines -= "validation loss" in line


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "LokyProcess" in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "jobs_families.py").write_text(FAMILY)
    before = Path.cwd()
    os.chdir(folder)
    try:
        _, err = (process := start(Path("out"))).communicate(timeout=300)
    finally:
        os.chdir(before)
    assert process.returncode == 0, err
    return files_of(str(folder / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "ctrl-c", "kill a worker"])
def test_a_comparison_that_is_ended_goes_on_bit_for_bit(how: str, undisturbed: dict[str, bytes]) -> None:
    process = start(Path("out"))
    begun(process)
    workers = workers_of(process)
    assert len(workers) == 2
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        os.kill(process.pid if how == "kill" else workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {"kill": -signal.SIGKILL, "ctrl-c": 130, "kill a worker": 2}[how], err
    if how == "ctrl-c":
        assert err.strip().endswith("metatele: stopped; run the same command again to continue")
    if how == "kill a worker":
        (line,) = [line for line in err.splitlines() if "validation loss" not in line and "word" not in line]
        assert line.startswith("metatele: error: one of jobs=2 processes died")
        assert line.endswith("run it again with fewer jobs")
    _, err = (again := start(Path("out"))).communicate(timeout=300)
    assert again.returncode == 0, err
    assert files_of("out") == undisturbed


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once() -> None:
    process = start(Path("out"), "--meta.iterations=1000", "--unroll.steps=4000")
    assert process.stderr is not None
    deadline = time.monotonic() + 120
    while len(workers_of(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip().endswith("metatele: interrupted")
    assert not workers_of(process)


def nothing_is_left(*arguments: object) -> None:
    """In the process that waits, whose jobs have tuned and played everything: it measures the time."""
    raise AssertionError


@pytest.mark.slow
def test_several_jobs_evaluate_as_one_does(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare_command, "report", report)
    small = ["--evaluation.tasks=4", "--evaluation.steps=3"]
    with limited_threads(1):
        assert main(["compare", *SMALL, *small, "--output=1"]) == 0
        for name in ("play", "tune"):
            monkeypatch.setattr(stages, name, nothing_is_left)
        assert main(["compare", *SMALL, *small, "--output=3", "--jobs=3"]) == 0
    one, three = (Evaluation.load(f"{jobs}/evaluation") for jobs in ("1", "3"))
    assert len(one.entries) > 10
    for a, b in zip(one.entries, three.entries, strict=True):
        assert (a.name, a.failure, a.tuning) == (b.name, b.failure, b.tuning)
        assert plain(a.runs) == plain(b.runs)
    assert not Path("3/evaluation/.unfinished").exists()
    assert "Traceback" not in capfd.readouterr().err
