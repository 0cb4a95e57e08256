"""`metatele evaluate --contestants`: optimizers without a checkpoint."""

import json
from pathlib import Path

import pytest
import yaml

import metatele.evaluation.stages as stages
from metatele import (
    GradientDescent,
    InnerOptimizer,
    evaluate,
)
from metatele.cli import main
from tests.cli.evaluate.conftest import QUICK, names, refused, results


def contestant(update: str = "Adam", lr: float = 0.1, **more) -> dict:
    arguments = {"update": {"class_path": f"metatele.{update}", "init_args": {"lr": lr}}, **more}
    return {"class_path": "metatele.InnerOptimizer", "init_args": arguments}


RANDOM = {"class_path": "metatele.RandomTeleport", "init_args": {"last": 0}}


def entries(folder: str = "evaluation") -> dict:
    return {e["name"]: e for e in results(folder)["entries"]}


def test_contestants_take_part(capsys):
    mine = {"mine": contestant(), "moved": contestant(lr=0.2, teleport=RANDOM, order="after")}
    assert main(["evaluate", "tele", *QUICK, f"--contestants={json.dumps(mine)}"]) == 0
    assert names() == ["tele", "mine", "moved"]
    found = entries()
    update = found["mine"]["parts"]["update"]
    assert (update["class"], update["arguments"]["lr"]) == ("Adam", 0.1)
    assert found["moved"]["parts"]["teleport"]["class"] == "RandomTeleport"
    assert found["moved"]["parts"]["order"] == "after"
    assert found["mine"]["budgets"] == found["mine"]["origins"] == [None]
    assert [e["failure"] for e in found.values()] == [None] * len(found)
    assert found["moved, teleports off"]["note"] == "the same update", "nothing was meta-trained there"
    assert "meta-trained together" in found["tele, teleports off"]["note"]
    assert "moved is " in capsys.readouterr().out, "there is a verdict on it"


def test_contestants_are_what_evaluate_in_python_is_given():
    mine = {"mine": contestant("GradientDescent", 0.3)}
    assert main(["evaluate", *QUICK, f"--contestants={json.dumps(mine)}"]) == 0
    from metatele.tasks import TeacherStudent

    few = {"tasks": 2, "steps": 3, "tuning_tasks": 2, "timing_repeats": 1, "timing_tasks": 1, "baselines": "none"}
    same = evaluate(
        {"mine": InnerOptimizer(GradientDescent(0.3))}, TeacherStudent(rows=8, hidden=4), output="same", **few
    )
    assert same["mine"].runs
    assert entries()["mine"]["runs"] == entries("same")["mine"]["runs"]


def test_contestants_from_a_file_and_as_the_reference():
    Path("mine.yaml").write_text(yaml.safe_dump({"contestants": {"mine": contestant(), "other": contestant(lr=0.2)}}))
    assert main(["evaluate", *QUICK, "--config=mine.yaml", "--reference=other"]) == 0
    assert names() == ["mine", "other"]
    assert results()["reference"] == "other"


def test_contestants_in_a_grid():
    grid = f"--transfer={json.dumps({'longer': {'steps': 4}})}"
    assert main(["evaluate", *QUICK, grid, f"--contestants={json.dumps({'mine': contestant()})}"]) == 0
    assert [names(f"evaluation/{cell}") for cell in ("as-it-is", "longer")] == [["mine"], ["mine"]]


def test_a_learned_teleport_without_a_record_makes_no_complete_claim(capsys):
    neuron = {"class_path": "metatele.NeuronTeleport", "init_args": {"hidden": 3}}
    update = {"class_path": "metatele.CoordinateUpdate", "init_args": {"hidden": 3}}
    both = {
        name: {"class_path": "metatele.InnerOptimizer", "init_args": {"update": update, **more}}
        for name, more in {"fresh": {"teleport": neuron}, "twin": {}}.items()
    }
    assert main(["evaluate", *QUICK, f"--contestants={json.dumps(both)}"]) == 0
    assert "INCOMPLETE" in (out := capsys.readouterr().out)
    assert "the record of the meta-training of 'fresh'" in out


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mine": 3}, "contestants"),
        (3, "contestants"),
        ({"mine": {"class_path": "metatele.Nope"}}, "metatele.Nope"),
        ({"mine": {"class_path": "subprocess.Popen"}}, "subprocess.Popen"),
        ({"mine": contestant("Nope")}, "Nope"),
        ({"mine": contestant(lr=-1)}, "lr"),
        ({"mine": contestant(speed=3)}, "speed"),
        ({"tele": contestant()}, "two contestants are called 'tele'"),
        ({"": contestant()}, "the name of a checkpoint must be a non-empty string, got ''"),
    ],
)
def test_bad_contestants_are_one_line_before_any_work(capsys, monkeypatch, given, named):
    monkeypatch.setattr(stages, "play", lambda *_: pytest.fail("worked"))
    assert named in refused(capsys, "tele", *QUICK, f"--contestants={json.dumps(given)}")
    assert not list(Path().glob("evaluation/**/*"))


def test_contestants_are_not_run_again(capsys):
    assert main(["evaluate", *QUICK, f"--contestants={json.dumps({'mine': contestant()})}", "--output=first"]) == 0
    error = refused(capsys, "--rerun=first", "--output=second")
    assert "the checkpoint 'mine' was handed over as an object" in error
    error = refused(capsys, "--rerun=first", f"--contestants={json.dumps({'mine': contestant()})}")
    assert "leave --contestants out" in error
