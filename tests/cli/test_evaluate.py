"""metatele evaluate: meta-seeds, transfer grids, repeated evaluations, and what a clumsy or hostile user types."""

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
    CoordinateUpdate,
    DenseUpdate,
    Evaluation,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    evaluate,
    sample_meta_batch,
    save_checkpoint,
)
from metatele.cli import checkpoints, evaluate_command, main, reporting
from metatele.cli.transfer import Variant, Variation, base_variant, folder_name, variants_of
from metatele.errors import ConfigError
from metatele.evaluation import Tuning
from metatele.meta_training import read_budget
from tests.conftest import ROOT, heed_ctrl_c

FEW = ["--tasks=2", "--steps=3", "--tuning_tasks=2", "--timing_repeats=1", "--timing_tasks=1"]
FAMILY = ["--family=TeacherStudent", "--family.rows=8", "--family.hidden=4"]
QUICK = [*FAMILY, *FEW, "--baselines=none"]
RECORD = {
    "family": {"class_path": "metatele.tasks.TeacherStudent", "init_args": {"rows": 8, "hidden": 4}},
    "meta": {"iterations": 10, "tasks": 2},
    "unroll": {"steps": 5},
    "seed": 3,
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


# --- checkpoints and meta-seeds ------------------------------------------------------------------


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


# --- settings ------------------------------------------------------------------------------------


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
        (["a="], "no checkpoint"),
        (["a=tele,,tele"], "no checkpoint"),
        (["SGD=tele", "--baselines=plain"], "two contestants would be called 'SGD'"),
        (["tele", "--output=file/x"], "file/x"),
        (["--baselines=none"], "nothing to evaluate"),
        (["tele", "--transfer=3"], "transfer"),
        (["tele", "--transfer={a: {speed: 3}}"], "transfer.a: unknown key 'speed'; use class_path, init_args"),
        (["tele", "--transfer={a: {init_args: 3}}"], "init_args must be arguments by name, got 3"),
        (["tele", "--transfer={a: {class_path: 3}}"], "class_path must be a text, got 3"),
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


# --- the records beside a checkpoint -------------------------------------------------------------


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


# --- transfer grids ------------------------------------------------------------------------------

GRID = {
    "wide": {"init_args": {"hidden": 9}},
    "deep": {"init_args": {"depth": 3}},
    "smooth": {"init_args": {"activation": "tanh"}},
    "minibatches": {"init_args": {"batch_size": 2}},
    "long": {"steps": 30, "tasks": 1},
    "other": {"class_path": "GaussianMixture", "init_args": {"rows": 24}},
}


@pytest.mark.slow
def test_a_transfer_grid(capsys, reports):
    assert main(["evaluate", "tele", *QUICK, f"--transfer={json.dumps(GRID)}", "--report_steps=[3]"]) == 0
    out = capsys.readouterr().out
    assert "all side by side: evaluation/report.html" in out
    found = {name: results(f"evaluation/{name}") for name in ("as-it-is", *GRID)}
    assert sorted(p.name for p in Path("evaluation").iterdir()) == sorted(found)
    for name, r in found.items():
        assert r["title"] == name.replace("as-it-is", "as it is")
        assert r["settings"]["steps"] == GRID.get(name, {}).get("steps", 3)
        failed = {e["name"] for e in r["entries"] if e["failure"]}
        assert failed == ({"tele"} if name == "smooth" else set())
    own = {name: r["family_spec"]["init_args"] for name, r in found.items()}
    assert (own["wide"]["hidden"], own["wide"]["rows"]) == (9, 8), "what is not named stays"
    assert (own["long"]["hidden"], own["deep"]["depth"]) == (4, 3)
    assert found["smooth"]["entries"][0]["failure"].startswith("SymmetryError while playing")
    assert "failed: SymmetryError" in " ".join(out.split())
    assert found["other"]["family"] == "GaussianMixture"
    assert found["other"]["entries"][0]["runs"][0]["accuracies"]
    assert found["long"]["settings"]["report_steps"] == [3, 30]
    assert len(found["minibatches"]["entries"][0]["runs"][0]["at"]) == 4
    *single, (together, folder) = reports
    assert [where.name for _, where in single] == list(found)
    assert [e.title for e in together] == ["as it is", *GRID]
    assert folder == Path("evaluation")


def test_a_cell_equals_the_evaluation_on_its_own():
    cells = json.dumps({"wide": GRID["wide"]})
    assert main(["evaluate", "tele", *QUICK, f"--transfer={cells}"]) == 0
    assert main(["evaluate", "tele", *QUICK, "--family.hidden=9", "--output=alone"]) == 0
    cell, alone = numbers("evaluation/wide"), numbers("alone")
    assert cell.pop("title") == "wide"
    assert alone.pop("title") == ""
    assert cell == alone


def test_report_steps_beyond_the_end_of_a_cell():
    assert main(["evaluate", "tele", *QUICK, "--report_steps=[1, 3]", "--transfer={short: {steps: 2}}"]) == 0
    assert results("evaluation/short")["settings"]["report_steps"] == [1, 2]


def test_a_checkpoint_that_cannot_run_as_it_is_is_an_error(capsys, worked):
    smooth = ["--family.activation=tanh", "--transfer={rough: {init_args: {activation: relu}}}"]
    assert "tele: no symmetry of kind 'scaling'" in refused(capsys, "tele", *QUICK, *smooth)
    assert worked == ["TeacherStudent"]
    assert not list(Path("evaluation").glob("*/results.json"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "transfer").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_grids_can_be_made(path, tele):
    given = yaml.safe_load(path.read_text())
    base = base_variant(given["family"], given["steps"], given["tasks"])
    cells = variants_of(base, {name: Variant.of(name, cell) for name, cell in given["transfer"].items()})
    assert len(cells) == len(given["transfer"]) + 1
    parser = evaluate_command.Evaluate("evaluate").make_parser()
    parsed = parser.parse_args(["tele", "--config", str(path)])
    assert set(parsed.transfer) == set(given["transfer"])
    if path.stem != "mnist":  # its files are not ours to give
        for cell in cells.values():
            evaluate_command._usable_family(parser, cell, 0)


def test_cells():
    base = Variation("as it is", {"class_path": "metatele.tasks.Digits", "init_args": {"rows": 9, "hidden": [3]}}, 5, 6)
    cells = variants_of(base, {
        "same": Variant(init_args={"rows": 8}),
        "named": Variant("metatele.tasks.Digits", {"rows": 8}),
        "short": Variant("Digits", {"rows": 8}, 7, 8),
        "other": Variant("TeacherStudent", {"rows": 8}),
    })  # fmt: skip
    kept = {"class_path": "metatele.tasks.Digits", "init_args": {"rows": 8, "hidden": [3]}}
    assert [cells[n].family for n in ("same", "named", "short")] == [kept] * 3
    assert cells["other"].family == {"class_path": "TeacherStudent", "init_args": {"rows": 8}}
    assert [(c.steps, c.tasks) for c in cells.values()] == [(5, 6)] * 3 + [(7, 8), (5, 6)]
    assert base.family["init_args"]["rows"] == 9, "the base is left alone"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("leaky ReLU", "leaky-relu"), ("../../x", "x"), ("", "variant"), ("..", "variant"), ("a" * 300, "a" * 100)],
)
def test_folders_of_cells(name, folder):
    assert folder_name(name) == folder


def test_cells_with_one_folder():
    with pytest.raises(ConfigError, match="the transfer 'b!' has the name, or the folder"):
        variants_of(Variation("a", {"class_path": "x", "init_args": {}}, 1, 1), {"b": Variant(), "b!": Variant()})


# --- optimizers without a checkpoint -------------------------------------------------------------


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
        ({"": contestant()}, "the name of a checkpoint must be a text, got ''"),
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


# --- evaluations that are made again -------------------------------------------------------------


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
