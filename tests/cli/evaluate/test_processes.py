"""`torchrun -m metatele evaluate`: the numbers of one process; errors, kills and Ctrl-C end all, and are told once."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from metatele.cli import main
from tests.cli.evaluate.conftest import FAMILY, make, numbers, results
from tests.conftest import heed_ctrl_c
from tests.processes import children_of, torchrun

pytestmark = pytest.mark.slow

SMALL = [*FAMILY, "--tasks=6", "--chunk=2", "--steps=3", "--tuning_tasks=2", "--timing_repeats=1", "--timing_tasks=1"]
EVALUATE = ("-m", "metatele", "evaluate")
TROUBLE = """
import os, time
from metatele import State, Update
from metatele.tasks import TeacherStudent

class Slow(Update):
    # Gradient descent that takes its time.
    def start(self, params):
        return State()
    def propose(self, point, state):
        time.sleep(0.1)
        return {name: -0.1 * g for name, g in point.gradient.items()}, state

class Failing(Slow):
    def propose(self, point, state):
        raise ValueError(f"no step from {float(sum(p.sum() for p in point.params.values()))}")

class Unlucky(TeacherStudent):
    drawn = 0
    def sample(self, generator):
        Unlucky.drawn += 1
        if os.environ.get("RANK") == "1" and Unlucky.drawn > 12:
            raise ValueError("bad luck of one process")
        return super().sample(generator)
"""


@pytest.fixture(autouse=True)
def _trouble(tmp_path: Path) -> None:
    (tmp_path / "trouble.py").write_text(TROUBLE)


def updates(**named: str) -> str:
    """--contestants of updates by name."""
    specs = (f"{name}: {{class_path: metatele.InnerOptimizer, init_args: {{update: trouble.{update}}}}}"
             for name, update in named.items())  # fmt: skip
    return f"--contestants={{{', '.join(specs)}}}"


def told(size: int, *arguments: str) -> tuple[int, str]:
    """The exit code of torchrun and what all have said."""
    process = torchrun(Path(), size, *EVALUATE, *arguments)
    out, _ = process.communicate(timeout=200)
    return process.returncode, out


def test_several_processes_write_the_results_of_one() -> None:
    make("other", 1)
    arguments = ["both=tele,other", "tele", *SMALL, "--baselines=teleports", updates(bad="Failing")]
    for size in (1, 2, 3):
        code, out = told(size, *arguments, f"--output={size}")
        assert code == 0, out
        assert out.count(f"report: {size}/report.html") == 1
        assert out.count("Verdicts (") == 1
        assert numbers(str(size)) == numbers("1")
        assert sorted(os.listdir(str(size))) == sorted(os.listdir("1"))
        assert ".unfinished" not in os.listdir(str(size))
    (failure,) = {e["failure"] for e in results("1")["entries"] if e["name"] == "bad"}
    assert failure.startswith("ValueError while playing: no step from ")


def test_a_transfer_grid_and_a_rerun() -> None:
    arguments = ["tele", *SMALL, "--baselines=none", "--transfer={wide: {init_args: {hidden: 9}}}"]
    for size in (1, 2):
        code, out = told(size, *arguments, f"--output={size}")
        assert code == 0, out
        assert out.count("all side by side") == 1
    assert numbers("1/wide") == numbers("2/wide")
    assert sorted(os.listdir("1")) == sorted(os.listdir("2"))
    code, out = told(2, "--rerun=1/wide/results.json", "--output=again")
    assert (code, out.count("the losses are equal, bit for bit")) == (0, 1), out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", *SMALL], "there is no checkpoint 'nowhere'"),
        (["tele", *SMALL, "--tasks=0"], "tasks must be a whole number of at least 1, got 0"),
        (["tele", *SMALL, "--wrong=1"], "wrong"),
        (["tele", *SMALL, "--device=cuda:77"], "cannot be used"),
        (["tele", *SMALL, "--output=trouble.py/out"], "cannot write to the folder trouble.py/out"),
        (["tele", *SMALL, "--output=full"], "full holds another evaluation"),
        (["tele", *SMALL, "--family=trouble.Unlucky"], "ValueError: bad luck of one process"),
        (
            [*SMALL, "--baselines=none", updates(a="Failing")],
            "every contestant failed, 'a' by ValueError while playing",
        ),
    ],
)
def test_an_error_is_told_once_and_ends_all(arguments: list[str], said: str) -> None:
    if "--output=full" in arguments:
        assert main(["evaluate", "tele", *SMALL, "--baselines=none", "--tasks=1", "--output=full"]) == 0
    process = torchrun(Path(), 2, *EVALUATE, *arguments)
    out, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    (line,) = [line for line in out.splitlines() if line.startswith("metatele: error:")]
    assert said in line
    assert "metatele/" not in out, "no traceback of ours"
    codes = [line for line in out.splitlines() if "exitcode" in line]
    assert any("exitcode  : 2" in code for code in codes), out
    assert not any("exitcode  : 1 " in code for code in codes), out


def begin(*more: str, **options: Any) -> Any:
    """Two processes that have finished some pieces, and are at others for a while."""
    slow = updates(a="Slow", b="Slow", c="Slow", d="Slow")
    arguments = (*SMALL, "--baselines=none", "--steps=10", slow)
    process = torchrun(Path(), 2, *more, *EVALUATE, *arguments, **options)
    while len(list(Path("evaluation/.unfinished").glob("*.json"))) < 3:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    return process


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_costs_the_pieces_that_it_was_at(victim: int) -> None:
    process = begin("--max-restarts=1")
    os.kill(children_of(process.pid)[victim], signal.SIGKILL)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert out.count("report: evaluation/report.html") == 1
    assert os.listdir("evaluation").count(".unfinished") == 0
    killed = numbers("evaluation")
    for name in os.listdir("evaluation"):
        Path("evaluation", name).unlink()
    assert begin().wait(timeout=200) == 0
    assert numbers("evaluation") == killed


def test_all_are_killed_and_the_same_command_goes_on() -> None:
    process = begin()
    kept = {path: path.stat().st_mtime_ns for path in Path("evaluation/.unfinished").glob("*.json")}
    for child in children_of(process.pid):
        os.kill(child, signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    again = begin()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "not made again"
    assert again.wait(timeout=200) == 0


def test_ctrl_c_ends_all() -> None:
    process = begin(preexec_fn=heed_ctrl_c, start_new_session=True)
    children = children_of(process.pid)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert out.count("metatele: interrupted") == 1
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert begin().wait(timeout=200) == 0
