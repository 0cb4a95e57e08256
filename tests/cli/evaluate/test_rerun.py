"""`metatele evaluate --rerun`: evaluations that are made again."""

import json
from pathlib import Path

import pytest

import metatele.evaluation.stages as stages
from metatele import (
    CoordinateUpdate,
    InnerOptimizer,
    evaluate,
)
from metatele.cli import main
from metatele.evaluation import Tuning
from tests.cli.evaluate.conftest import FAMILY, FEW, GRID, QUICK, make, numbers, refused, results


def test_rerun_gives_the_same_numbers(capsys):
    make("other", 1)
    make("plain", 2, teleport=False)
    more = ["--seed=2", "--report_steps=[1]", "--chunk=1", "--reference=plain", "--output=first"]
    assert main(["evaluate", "both=tele,other", "plain", *QUICK, *more]) == 0
    for source, output in (("first/results.json", "second"), ("first", "third")):
        assert main(["evaluate", "--rerun", source, "--output", output]) == 0
        assert numbers(output) == numbers("first")
    assert main(["evaluate", "--rerun=first", "--output=first"]) == 0, "in its own place"
    assert numbers("first") == numbers("second")


def test_rerun_of_a_cell_with_a_contestant_that_failed():
    grid = f"--transfer={json.dumps({'smooth': GRID['smooth']})}"
    assert main(["evaluate", "tele", *QUICK, grid]) == 0
    assert main(["evaluate", "--rerun=evaluation/smooth", "--output=again"]) == 0
    assert numbers("again") == numbers("evaluation/smooth")
    assert results("again")["title"] == "smooth"


def test_rerun_of_baselines_alone(monkeypatch):
    monkeypatch.setattr(stages, "tune", lambda rule, batch, steps, *rest: Tuning("constant", 0.1, 1.0, (), 2, steps))
    assert main(["evaluate", *FAMILY, *FEW, "--output=first"]) == 0
    assert main(["evaluate", "--rerun=first", "--output=second"]) == 0
    assert numbers("first") == numbers("second")


@pytest.fixture
def first():
    assert main(["evaluate", "tele", *QUICK, "--output=first"]) == 0


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["tele"], "tele"),
        (["--steps=4"], "--steps"),
        (["--tasks=9"], "--tasks"),
        (["--family=Digits"], "--family"),
        (["--baselines=none"], "--baselines"),
        (["--transfer={a: {steps: 2}}"], "--transfer"),
        (["--device=cuda"], "--device"),
        (["--reference=tele"], "--reference"),
        (["--chunk=2"], "--chunk"),
    ],
)
def test_rerun_takes_nothing_else(capsys, first, extra, named):
    error = refused(capsys, "--rerun=first", "--output=second", *extra)
    assert f"--rerun takes everything from first; leave {named} out" in error
    assert not Path("second").exists()


def test_rerun_of_a_checkpoint_that_has_changed_or_gone(capsys, first, tele):
    make("tele", 1)
    error = refused(capsys, "--rerun=first", "--output=second")
    assert "tele is not the checkpoint that was evaluated as 'tele': it has changed since" in error
    config = tele / "config.json"
    make("tele", 0)
    config.write_text(config.read_text() + "\n")
    assert "has changed since" in refused(capsys, "--rerun=first", "--output=second")
    tele.rename("elsewhere")
    assert "no checkpoint 'tele'" in refused(capsys, "--rerun=first", "--output=second")
    assert not Path("second").exists()


def test_rerun_of_what_cannot_be_made_again(capsys):
    inner = InnerOptimizer(CoordinateUpdate(hidden=3))
    few = {"tasks": 1, "steps": 1, "tuning_tasks": 1, "timing_repeats": 1, "baselines": "none"}
    from metatele.tasks import TeacherStudent

    evaluate({"a": inner}, TeacherStudent(rows=8), output="python", **few)
    assert "does not say how its task family was made; evaluate from Python" in refused(capsys, "--rerun=python")
    spec = {"class_path": "metatele.tasks.TeacherStudent", "init_args": {"rows": 8}}
    evaluate({"a": inner}, TeacherStudent(rows=8), output="objects", family_spec=spec, **few)
    assert "the checkpoint 'a' was handed over as an object" in refused(capsys, "--rerun=objects")


@pytest.mark.parametrize("source", ["nowhere", "tele", "x" * 300, ""])
def test_rerun_of_nothing(capsys, source):
    assert "cannot read the results" in refused(capsys, f"--rerun={source}", "--output=second")


def test_rerun_of_results_whose_family_is_none(capsys, first):
    stored = results("first")
    for spec in ({"class_path": "subprocess.Popen", "init_args": {}}, {"class_path": "nowhere.X"}, {"a": 1}, {}):
        Path("first/results.json").write_text(json.dumps({**stored, "family_spec": spec}))
        refused(capsys, "--rerun=first", "--output=second")
    assert not Path("second").exists()


def test_rerun_imports_no_module_of_its_record(capsys, first):
    """A family of one's own is made again when its module is named; sizes that would take all memory are refused."""
    Path("own_of_rerun.py").write_text(
        "from metatele.tasks import TeacherStudent\nopen('IMPORTED', 'w')\nclass Own(TeacherStudent):\n    pass\n"
    )
    stored = results("first")
    spec = {"class_path": "own_of_rerun.Own", "init_args": stored["family_spec"]["init_args"]}
    Path("first/results.json").write_text(json.dumps({**stored, "family_spec": spec}))
    assert "import the module that defines it with --modules" in refused(capsys, "--rerun=first", "--output=second")
    assert not Path("IMPORTED").exists()
    assert main(["evaluate", "--rerun=first", "--output=second", "--modules=[own_of_rerun]"]) == 0
    assert "the losses are equal, bit for bit" in capsys.readouterr().out
    for rows in (10**12, str(10**12), [[10**12]]):
        spec = {"class_path": "metatele.tasks.TeacherStudent", "init_args": {"rows": rows}}
        Path("first/results.json").write_text(json.dumps({**stored, "family_spec": spec}))
        assert "rows: 1000000000000, more than 100000" in refused(capsys, "--rerun=first", "--output=third")
