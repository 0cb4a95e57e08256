"""`metatele evaluate`: checkpoints, settings, bad input and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from metatele.tasks import PaperRegression

import metatele.evaluation.stages as stages
from metatele import (
    DenseUpdate,
    Evaluation,
    InnerOptimizer,
    sample_meta_batch,
    save_checkpoint,
)
from metatele.cli import checkpoints, main
from metatele.evaluation import Tuning
from metatele.meta_training import read_budget
from tests.cli.evaluate.conftest import FAMILY, FEW, QUICK, RECORD, make, names, refused, results
from tests.conftest import heed_ctrl_c


def test_meta_seeds_are_one_contestant(capsys, reports):
    make("other", 1)
    assert main(["evaluate", "both=tele,other", "alone=other", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "both (2 meta-seeds)" in " ".join(out.split())
    assert "report: evaluation/report.html" in out
    both = results()["entries"][0]
    assert [len(both["runs"]), both["name"]] == [2, "both"]
    assert [o["source"] for o in both["origins"]] == ["tele", "other"]
    assert len({o["sha256"] for o in both["origins"]}) == 2
    assert both["budgets"][0] == {
        "tasks": 20,
        "steps": 5,
        "families": [["TeacherStudent", '{"hidden": 4, "rows": 8}']],
        "seed": 3,
        "start": None,
    }
    (made, folder), *more = reports
    assert isinstance(made, Evaluation)
    assert (folder, more) == (Path("evaluation"), [])


def test_seeds_that_are_no_seeds_of_one_recipe(capsys):
    make("wide", hidden=4)
    make("longer", 1, record={**RECORD, "unroll": {"steps": 50}})
    assert "the seeds of 'a' differ in more than their weights" in refused(capsys, "a=tele,wide", *QUICK)
    assert "unequal budgets (20 trajectories of 5 steps" in refused(capsys, "a=tele,longer", *QUICK)
    assert "'a' hold the same optimizer twice" in refused(capsys, "a=tele,tele", *QUICK)
    assert "no checkpoint 'nowhere'" in refused(capsys, "a=tele,nowhere", *QUICK)
    error = refused(capsys, "tele", "./tele", *QUICK)
    assert "name them, as in tele-2=./tele" in error
    assert "tele=FOLDER,FOLDER" in error


@pytest.mark.parametrize(
    ("folder", "given", "name"),
    [
        ("lr=0.1", "lr=0.1", "lr=0.1"),
        ("a,b", "a,b", "a,b"),
        ("a,b", "x=a,b", "x"),
        ("runs/lr=0.1/best", "x=runs/lr=0.1", "x"),
        ("runs/lr=0.1", "x=y=runs/lr=0.1", "x=y"),
        ("runs/some/best", "runs/some", "some"),
        ("runs/some/best", "runs/some/best", "some"),
        ("[b]", "[b]", "[b]"),
        ("tele2", "\udcff=tele2", "\udcff"),
    ],
)
def test_names_and_folders(folder, given, name):
    make(folder, 5)
    assert checkpoints._split_name(given)[1] in ([folder], [folder.removesuffix("/best")])
    assert list(checkpoints.load_all([given])) == [name]


def test_odd_names_are_shown():
    make("x", 5)
    assert main(["evaluate", "[/b]=x", "[red]=tele", *QUICK]) == 0
    assert names() == ["[/b]", "[red]"]


def test_the_family_of_training_is_the_default():
    assert main(["evaluate", "tele", *FEW, "--baselines=none"]) == 0
    spec = results()["family_spec"]
    assert (spec["class_path"], spec["init_args"]["rows"]) == ("metatele.tasks.TeacherStudent", 8)


@pytest.mark.parametrize(
    ("given", "count", "stored"),
    [
        ("plain", 7, "plain"),
        ("true", 7, "plain"),
        ("none", 0, "none"),
        ("false", 0, "none"),
        ("teleports", 21, "teleports"),
    ],
)
def test_baselines(monkeypatch, given, count, stored):
    monkeypatch.setattr(stages, "tune", lambda rule, batch, steps, *rest: Tuning("constant", 0.1, 1.0, (), 2, steps))
    assert main(["evaluate", "tele", *FAMILY, *FEW, f"--baselines={given}"]) == 0
    found = results()
    assert sum(e["kind"] == "baseline" for e in found["entries"]) == count
    assert found["settings"]["baselines"] == stored


def test_another_evaluation_in_the_folder_is_not_written_over(capsys):
    assert main(["evaluate", "tele", *QUICK]) == 0
    before = Path("evaluation/results.json").read_text()
    assert main(["evaluate", "tele", *QUICK]) == 0, "the same one may be made again"
    capsys.readouterr()
    for other in (["other=tele", *QUICK], ["tele", *QUICK, "--seed=5"], ["tele", *QUICK, "--family.hidden=7"]):
        assert main(["evaluate", *other]) == 2
        assert "evaluation holds another evaluation (TeacherStudent, 2 tasks, " in capsys.readouterr().err
    assert json.loads(Path("evaluation/results.json").read_text())["entries"][0]["name"] == "tele"
    assert len(before) > 0
    assert main(["evaluate", "other=tele", *QUICK, "--overwrite=true"]) == 0
    assert results()["entries"][0]["name"] == "other"


def test_chunks_and_other_settings_arrive():
    more = ["--chunk=1", "--seed=4", "--report_steps=[1]", "--reference=tele"]
    assert main(["evaluate", "tele", *QUICK, *more]) == 0
    stored = results()
    expected = {"chunk": 1, "seed": 4, "report_steps": [1, 3], "tasks": 2, "steps": 3, "tuning_tasks": 2}
    assert stored["settings"] == stored["settings"] | expected
    assert stored["reference"] == "tele"
    Path("settings.yaml").write_text(yaml.safe_dump({"chunk": 2, "tasks": 3, "family": RECORD["family"]}))
    assert main(["evaluate", "tele", "--config=settings.yaml", *FEW[1:], "--baselines=none", "--overwrite=true"]) == 0
    assert results()["settings"] == results()["settings"] | {"chunk": 2, "tasks": 3}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["tele", "--tasks=0"], "tasks must be a whole number of at least 1, got 0"),
        (["tele", "--steps=0"], "steps must be a whole number of at least 1, got 0"),
        (["tele", "--steps=1.5"], "1.5"),
        (["tele", "--chunk=0"], "chunk must be a whole number of at least 1, got 0"),
        (["tele", "--chunk=few"], '"chunk": Expected'),
        (["tele", "--tuning_tasks=-1"], "tuning_tasks must be"),
        (["tele", "--timing_repeats=0"], "timing_repeats must be"),
        (["tele", "--baselines=some"], '"baselines": Expected'),
        (["tele", "--report_steps=[7]"], "a report step must be in [0, 3], got 7"),
        (["tele", "--reference=him"], "reference 'him'"),
        (["tele", "--device=abacus"], "abacus"),
        (["tele", "--family=Digits", "--family.rows=100000"], "rows=100000"),
        (["tele", "--family.hiden=3"], "hiden"),
        (["tele", "--modules=[nowhere]"], "cannot import 'nowhere' of --modules"),
        (["tele", "--config=missing.yaml"], "missing.yaml"),
        (["tele", "--speed=3"], "speed"),
        (["nowhere"], "no checkpoint 'nowhere'"),
        (["x" * 300], "no checkpoint"),
        (["a="], "neither a checkpoint nor"),
        (["a=tele,,tele"], "neither a checkpoint nor"),
        (["SGD=tele", "--baselines=plain"], "two contestants would be called 'SGD'"),
        (["tele", "--output=file/x"], "file/x"),
        (["--baselines=none"], "nothing to evaluate"),
        (["tele", "--transfer=3"], "transfer"),
        (["tele", "--transfer={a: {speed: 3}}"], "transfer.a: unknown key 'speed'; use class_path, init_args"),
        (["tele", "--transfer={a: {init_args: 3}}"], "init_args must be arguments by name, got 3"),
        (["tele", "--transfer={a: {class_path: 3}}"], "class_path must be a string, got 3"),
        (["tele", "--transfer={a: {steps: 0}}"], "transfer.a.steps must be a whole number of at least 1, got 0"),
        (["tele", "--transfer={a: {tasks: many}}"], "transfer.a.tasks must be a whole number of at least 1, got"),
        (["tele", "--transfer={a: {}, A: {}}"], "the transfer 'A' has the name, or the folder, of another one"),
        (["tele", "--transfer={as it is: {}}"], "'as it is' has the name"),
        (["tele", "--transfer={a: {init_args: {hiden: 3}}}"], "transfer 'a': "),
        (["tele", "--transfer={a: {init_args: {hidden: 0}}}"], "transfer 'a': inputs, hidden"),
        (["tele", "--transfer={a: {init_args: {activation: step}}}"], "transfer 'a': activation must be one of"),
        (["tele", "--transfer={a: {init_args: {spread: 9, activation: tanh}}}"], "transfer 'a': spread=9"),
        (["tele", "--transfer={a: {class_path: Digits, init_args: {rows: 100000}}}"], "transfer 'a': rows=100000"),
        (["tele", "--transfer={a: {class_path: nowhere.Sine}}"], "transfer 'a': "),
        (["tele", "--transfer={a: {class_path: subprocess.Popen}}"], "transfer 'a': "),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_any_work(capsys, monkeypatch, arguments, named):
    Path("file").write_text("")
    monkeypatch.setattr(stages, "play", lambda *_: pytest.fail("worked"))
    monkeypatch.setattr(stages, "tune", lambda *_: pytest.fail("worked"))
    assert named in refused(capsys, *QUICK, *arguments)
    assert not list(Path().glob("evaluation/**/*")), "nothing is left behind"


def test_without_a_family(capsys):
    make("bare", record=None)
    assert "name a checkpoint to evaluate, or a task family" in refused(capsys)
    error = refused(capsys, "bare", *FEW)
    assert "does not record what it was meta-trained on; name the task family with --family" in error


def test_a_dense_checkpoint_on_another_size(capsys):
    batch = sample_meta_batch(PaperRegression(size=4), "train", range(1))
    inner = InnerOptimizer(DenseUpdate(hidden=3))
    inner.bind(batch.network, batch.params)
    save_checkpoint(inner, "dense")
    error = refused(capsys, "dense", "--family=PaperRegression", "--family.size=5", *FEW)
    assert "dense: this dense optimizer was made for" in error


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stages, "clock", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["evaluate", "tele", *QUICK]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "metatele: interrupted\n")
    assert not Path("evaluation/results.json").exists()
    monkeypatch.setattr(stages, "play", lambda *_: pytest.fail("played again"))
    assert main(["evaluate", "tele", *QUICK]) == 0
    assert not any(e["failure"] for e in results()["entries"])


def test_a_real_ctrl_c():
    arguments = [*FAMILY, "--tasks=2", "--steps=100000", "--tuning_tasks=1", "--baselines=none"]
    child = subprocess.Popen(
        [sys.executable, "-m", "metatele", "evaluate", "tele", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=heed_ctrl_c,
    )
    while not Path("evaluation").exists():  # it has begun
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    assert (out, err) == ("", "metatele: interrupted\n")
    # Python ends by the signal itself if it came while a string was executed (as dataclasses do): 130 to a shell, too.
    assert child.returncode in (130, -signal.SIGINT)


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metatele.support.files.os.replace", full_disk)
    assert "No space left on device" in refused(capsys, "tele", *QUICK)


def test_the_record_of_a_checkpoint_does_not_run_code(capsys, tele):
    Path("evil.py").write_text("open('boom', 'w')\nfrom metatele.tasks import TeacherStudent\n")
    for name in ("[1]", "evil.TeacherStudent", "metatele.tasks.regression.nn.Linear", "subprocess.Popen"):
        (tele / "training.yaml").write_text(f"family: {{class_path: {name}, init_args: {{}}}}")
        assert "--family" in refused(capsys, "tele")
        assert main(["evaluate", "tele", *QUICK]) == 0, "with a family of one's own it is only a record"
    (tele / "training.yaml").write_text("!!python/object/apply:os.system ['touch boom']")
    refused(capsys, "tele")
    assert read_budget("tele") is None
    assert not Path("boom").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "a: [",
        "family: {class_path: X}",
        "{family: {class_path: X}, meta: {iterations: .inf, tasks: 2}, unroll: {steps: 3}}",
        "{family: {class_path: X}, meta: {iterations: 1, tasks: 2}, unroll: {steps: .nan}}",
        "{family: {class_path: X}, meta: {iterations: 1, tasks: 2}, unroll: {steps: many}}",
        "{family: 3, meta: {iterations: 1, tasks: 2}, unroll: {steps: 3}}",
        "{family: {class_path: X, init_args: &a {b: *a}}, meta: {iterations: 1, tasks: 2}, unroll: {steps: 3}}",
        "{family: {class_path: X, init_args: {1: 2, b: 3}}, meta: {iterations: 1, tasks: 2}, unroll: {steps: 3}}",
        "family: " + "[" * 3000,
        "\xff",
    ],
)
def test_damaged_records_are_no_record(capsys, tele, text):
    (tele / "training.yaml").write_text(text, encoding="latin-1")
    assert read_budget("tele") is None
    refused(capsys, "tele", *FEW)


def test_when_every_contestant_fails_the_exit_code_says_so(capsys, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no luck")

    monkeypatch.setattr("metatele.evaluation.stages.play", fail)
    assert main(["evaluate", "tele", *QUICK, "--output=failed"]) == 2
    assert "every contestant failed, 'tele' by RuntimeError while playing: no luck" in capsys.readouterr().err
