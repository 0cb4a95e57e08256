"""The commands that users type, good input and bad."""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport, load_checkpoint, save_checkpoint
from metatele.cli import main
from metatele.cli.main import COMMANDS, load_command
from metatele.experiments import Experiment
from tests.conftest import ROOT, need_learn2learn

EXPERIMENTS = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
TRANSFER = sorted((ROOT / "configs" / "transfer").glob("*.yaml"))  # test_evaluate.py has those
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*EXPERIMENTS, *TRANSFER})
SMALL = ["--family", "TeacherStudent", "--family.rows=8", "--optimizer.update", "CoordinateUpdate",
         "--optimizer.update.hidden=3", "--unroll.steps=4", "--unroll.window=2", "--meta.iterations=2",
         "--meta.tasks=2", "--validation.tasks=2", "--validation.every=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    inner = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))
    inner.initialise(0)
    return save_checkpoint(inner, tmp_path / "tele")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused: exit code 2 and one line on stderr; the line."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("metatele: error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_windows_in_pieces_train_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for name, extra in (("whole", []), ("pieces", ["--unroll.checkpoint=1"])):
        assert main(["meta-train", *SMALL, *extra, "--output", name]) == 0
    resolved = yaml.safe_load(Path("pieces/training.yaml").read_text())
    assert resolved["unroll"]["checkpoint"] == 1
    whole, pieces = (load_checkpoint(f"{name}/last").state_dict() for name in ("whole", "pieces"))
    for key in whole:
        torch.testing.assert_close(pieces[key], whole[key], rtol=1e-3, atol=1e-5)
    capsys.readouterr()
    assert "unroll.checkpoint" in refused(capsys, "meta-train", *SMALL, "--unroll.checkpoint=0", "--output=none")


@pytest.mark.slow
def test_compiled_steps_train_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("higher", "compiled"):
        assert main(["meta-train", *SMALL, "--unroll.engine", engine, "--output", engine]) == 0
    assert yaml.safe_load(Path("compiled/training.yaml").read_text())["unroll"]["engine"] == "compiled"
    by_higher, compiled = (load_checkpoint(f"{engine}/last").state_dict() for engine in ("higher", "compiled"))
    for key in by_higher:
        torch.testing.assert_close(compiled[key], by_higher[key], rtol=1e-3, atol=1e-5)
    assert "Warning" not in capsys.readouterr().err


def fail_with(message: str) -> None:
    raise RuntimeError(message)


def test_an_engine_that_cannot_compile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to do."""

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", fail)
    line = refused(capsys, "meta-train", *SMALL, "--unroll.engine=compiled", "--output=none")
    assert "no compiler; it needs a C++ compiler" in line
    assert f"a temporary folder without spaces (it is {tempfile.gettempdir()})" in line
    log = "CppCompileError\nCommand:\n/usr/bin/g++ my files/x.cpp\n\nOutput:\ng++: error: files/x.cpp: No such file\n"
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", lambda *_, **__: fail_with(log))
    line = refused(capsys, "meta-train", *SMALL, "--unroll.engine=compiled", "--output=none")
    assert "could not compile: g++: error: files/x.cpp: No such file; it needs" in line, "the compiler's own line"
    for name in ("higher", "compiled"):
        assert name in refused(capsys, "meta-train", *SMALL, "--unroll.engine=jax", "--output=none")
    assert main(["meta-train", *SMALL, "--output=none"]) == 0  # nothing is in the way of another try


def test_meta_train_writes_what_it_promises(tmp_path: Path) -> None:
    assert main(["meta-train", *SMALL, "--optimizer.teleport=NeuronTeleport", "--output", "run"]) == 0
    names = {p.relative_to("run").as_posix() for p in Path("run").rglob("*") if p.is_file()}
    files = {"config.json", "model.safetensors", "README.md", "training.yaml"}
    assert {f"{part}/{f}" for part in ("best", "last") for f in files} <= names
    assert {"training.yaml", "state.safetensors"} <= names
    assert any(n.startswith("tensorboard/events") for n in names)
    resolved = yaml.safe_load(Path("run/training.yaml").read_text())
    assert resolved["meta"]["iterations"] == 2
    assert resolved["optimizer"]["teleport"]["init_args"]["bound"] == 1.0


def test_tensorboard_holds_the_scalars() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["meta-train", *SMALL, "--output", "run"]) == 0
    events = EventAccumulator("run/tensorboard").Reload()
    assert {"meta_training/meta_loss", "meta_training/validation", "meta_training/gradient_norm"} <= set(
        events.Tags()["scalars"]
    )
    assert [e.step for e in events.Scalars("meta_training/meta_loss")] == [1, 2]


def test_resolved_config_gives_the_same_run() -> None:
    assert main(["meta-train", *SMALL, "--output", "a"]) == 0
    assert main(["meta-train", "--config", "a/training.yaml", "--output", "b"]) == 0
    assert Path("a/last/model.safetensors").read_bytes() == Path("b/last/model.safetensors").read_bytes()


def test_evaluate_on_the_family_of_training_and_on_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta-train", *SMALL, "--optimizer.teleport=NeuronTeleport", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--tasks", "3", "--steps", "5"]) == 0
    assert "TeacherStudent" in capsys.readouterr().out
    results = json.loads(Path("evaluation/results.json").read_text())
    assert results["family_spec"]["init_args"]["rows"] == 8
    assert len(results["task_seeds"]) == 3
    arguments = ["--family", "Digits", "--family.hidden=[9, 8]", "--tasks=3", "--steps=5", "--output=other"]
    assert main(["evaluate", "mine=run", *arguments]) == 0
    out = capsys.readouterr().out
    assert "Digits" in out
    assert "mine" in out
    written = {p.name for p in Path("other").iterdir()}
    assert {"results.json", "results.csv", "report.html"} <= written
    assert {Path(name).suffix for name in written} == {".json", ".csv", ".html", ".png", ".pdf"}


@pytest.mark.slow
def test_compare_trains_three_with_equal_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", *SMALL, "--optimizer.teleport=NeuronTeleport", "--output=out", "--evaluation.tasks=3"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name in ("teleport", "no-teleport", "balance", "Adam"):
        assert name in out
    states = [Path("out") / name / "state.safetensors" for name in ("teleport", "no-teleport", "balance")]
    assert all(s.is_file() for s in states)
    stamps = [s.stat().st_mtime_ns for s in states]
    assert main(arguments) == 0, "a second call only evaluates"
    assert stamps == [s.stat().st_mtime_ns for s in states]


def test_compare_refuses_before_any_time_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    tele = [*SMALL, "--optimizer.teleport=NeuronTeleport", "--output=out"]
    assert "evaluation.tasks must be" in refused(capsys, "compare", *tele, "--evaluation.tasks=0")
    assert "evaluation.steps must be" in refused(capsys, "compare", *tele, "--evaluation.steps=0")
    assert "compare needs an optimizer that teleports" in refused(capsys, "compare", *SMALL, "--output=out")
    assert not Path("out").exists()


def test_compare_leaves_out_a_control_that_has_nothing_to_learn(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--optimizer.update=GradientDescent", "--optimizer.teleport=NeuronTeleport", "--evaluation.tasks=2"]
    settings = [a for a in SMALL if "optimizer" not in a and a != "CoordinateUpdate"]
    assert main(["compare", *settings, *arguments, "--output=out"]) == 0
    out = capsys.readouterr().out
    assert "no-teleport: left out" in out
    assert "balance: left out" in out


def test_a_name_with_an_equals_sign_and_markup_in_a_folder(checkpoint: Path) -> None:
    checkpoint.rename("lr=0.1")
    family = ["--family=TeacherStudent", "--tasks=2", "--steps=2", "--baselines=false"]
    assert main(["evaluate", "lr=0.1", *family, "--output=ev[/b]"]) == 0
    assert Path("ev[/b]/results.json").is_file()


MIXED = ["--family", "Mixture", "--family.widths=[4,6]", "--family.depths=[1,1]", "--family.rows=[16,20]",
         "--optimizer.update", "GlobalStepSize", "--optimizer.update.hidden=3", "--unroll.steps=4", "--unroll.window=2",
         "--meta.iterations=2", "--meta.tasks=2", "--validation.tasks=2", "--validation.every=1"]  # fmt: skip


def test_a_mixture_is_trained_on_and_evaluated_on_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few rows: not all labels are among them
        assert main(["meta-train", *MIXED, "--output", "run", "--validation_family", "PaperRegression"]) == 0
        assert "metatele evaluate run --family metatele.tasks.PaperRegression" in capsys.readouterr().out
        assert "name one of its members" in refused(capsys, "evaluate", "run")
        family = "--family.rows=8", "--tasks=2", "--steps=3", "--output=evaluation"
        assert main(["evaluate", "run", "--family", "TeacherStudent", *family]) == 0
        capsys.readouterr()
        teleport = "--optimizer.teleport", "NeuronTeleport"
        assert "Mixture is a mixture of families" in refused(capsys, "compare", *MIXED, *teleport, "--output=none")
    assert yaml.safe_load(Path("run/training.yaml").read_text())["validation_family"]["class_path"].endswith(
        "Regression"
    )
    assert not Path("none").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=[p.stem for p in CONFIGS])
def test_every_shipped_config_runs(path: Path) -> None:
    need_learn2learn(str(path.relative_to(ROOT)))
    short = ["--meta.iterations=1", "--meta.tasks=2", "--unroll.steps=2", "--unroll.window=1", "--validation.tasks=2"]
    short += ["--unroll.curriculum=0", "--meta.phases=null"]
    small = []
    for part in ("update", "teleport"):
        spec = (yaml.safe_load(path.read_text())["optimizer"]).get(part)
        name = spec["class_path"] if isinstance(spec, dict) else spec
        if name and "Dense" in name:
            small.append(f"--optimizer.{part}.hidden=4")
    assert main(["meta-train", "--config", str(path), *short, *small, "--output=run"]) == 0


def test_phases_ranges_and_baselines_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    phases = "[{iterations: 1, learn: update}, {iterations: 2, estimator: pes, second_order: false, steps: [3, 5]}]"
    new = [f"--meta.phases={phases}", "--meta.average=0.9", "--validation.baselines=[SGD]", "--unroll.steps=[2, 4]"]
    assert main(["meta-train", *SMALL, *new, "--unroll.window=2", "--unroll.in_flight=2", "--output=run"]) == 0
    assert "iteration 3: meta-loss" in (told := capsys.readouterr().err)
    assert "of the best baseline" in told
    assert "iterations 2 to 3: update and teleport by pes" in Path("run/best/README.md").read_text()
    assert main(["meta-train", "--resume=run"]) == 0
    capsys.readouterr()
    assert "cannot resume run with other settings" in refused(capsys, "meta-train", "--resume=run", "--meta.sigma=0.5")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[p.stem for p in EXPERIMENTS])
def test_every_shipped_experiment_can_be_made(path: Path) -> None:  # they are run, small, in their own tests
    parser = load_command("experiment").make_parser()
    made = parser.instantiate(parser.parse_args(["--config", str(path)]))
    assert isinstance(made.experiment, Experiment)
    assert f"metatele experiment --config configs/experiments/{path.name}" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--meta.tasks=0"], "meta.tasks must be a whole number of at least 1, got 0"),
        (["--unroll.window=5"], "window=5, steps=4"),
        (["--meta.lr=-1"], "meta.lr must be above 0 and finite, got -1"),
        (["--meta.lr=.nan"], "meta.lr must be above 0 and finite, got nan"),
        (["--meta.tasks=many"], "many"),
        (["--meta.speed=3"], "meta.speed"),
        (["--optimizer.update.hiden=3"], "hiden"),
        (["--optimizer.update.hidden=0"], "hidden must be a whole number of at least 1, got 0"),
        (["--optimizer.update=Nadam"], "Nadam"),
        (["--optimizer.teleport=NeuronTeleport", "--optimizer.teleport.bound=-1"], "-1"),
        (["--optimizer.order=sideways"], "sideways"),
        (["--family=nowhere.Sine"], "nowhere"),
        (["--family.rows=-3"], "-3"),
        (["--validation.every=0"], "validation.every must be a whole number of at least 1, got 0"),
        (["--optimizer.update=Adam"], "nothing to meta-train: Adam"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--resume=missing"], "no run to resume in missing"),
        (["--device=quantum"], "quantum"),
        (["--device=meta"], "meta"),
        (["--meta.iteration=1"], "meta.iteration"),
        (["--optimizer.teleport=NeuronTeleport", "--family=tanh_family.Tanh"], "known for Sequential(Linear, Tanh"),
        (["--meta.lr=1e300"], "1e+300"),
        (["--unroll.steps=[9, 4]"], "the shortest length and then the longest, got [9, 4]; write [4, 9]"),
        (["--unroll.steps=[4]"], "unroll.steps"),
        (["--unroll.second_order=null"], "second_order"),
        (["--meta.sigma=0"], "meta.sigma must be above 0 and finite, got 0"),
        (["--meta.estimator=pes"], "unroll.second_order is of no use to estimator 'pes'"),
        (["--meta.estimator=reinforce"], "reinforce"),
        (
            ["--optimizer.update=TorchUpdate", "--optimizer.teleport=NeuronTeleport"],
            "of TorchUpdate, which pass no",
        ),
        (["--meta.phases=[{iterations: 1}, {iterations: 1, learn: teleport}]"], "phase 2 trains nothing"),
        (["--meta.phases=[{iterations: 1, rate: 3}]"], "rate"),
        (["--meta.phases=3"], "phases"),
        (["--validation.baselines=[Nadam]"], "Nadam"),
    ],
)
def test_bad_settings(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    Path("tanh_family.py").write_text(
        "import torch\nfrom metatele.tasks import TeacherStudent\nclass Tanh(TeacherStudent):\n"
        "    def network(self):\n"
        "        return torch.nn.Sequential(torch.nn.Linear(10, 3), torch.nn.Tanh(), torch.nn.Linear(3, 4))\n"
    )
    assert named in refused(capsys, "meta-train", *SMALL, *arguments, "--output=run")
    assert not Path("run").exists() or not any(Path("run").iterdir()), "nothing may be half-written"


@pytest.mark.parametrize(
    "text",
    ["meta: 3", "meta: {iterations: x}", "a: [", "speed: 1", "\t", "family: 3", "\xff", "[" * 5000, "meta: null"],
)
def test_bad_config_files(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("bad.yaml").write_text(text, encoding="latin-1")
    refused(capsys, "meta-train", "--config=bad.yaml", *SMALL[3:], "--output=run")
    assert not Path("run").exists()


def test_missing_settings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "family is missing" in refused(capsys, "meta-train", "--optimizer.update=CoordinateUpdate")
    assert "required: optimizer.update" in refused(capsys, "meta-train", "--family=TeacherStudent")
    assert "name a checkpoint to evaluate, or a task family" in refused(capsys, "evaluate")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("return torch.ones(3, 2), torch.ones(4, 1)", "inputs (3, 2) and targets (4, 1)"),
        ("return torch.ones(3, 2) / 0, torch.ones(3, 1)", "6 values that are NaN or infinite"),
        ("return torch.ones(3, 5), torch.ones(3, 1)", "do not run on inputs (3, 5)"),
        ("return torch.ones(3, 2)", "must return two tensors"),
    ],
)
def test_bad_families(
    capsys: pytest.CaptureFixture[str], body: str, named: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    module = f"bad_family_{abs(hash(body))}"
    Path(f"{module}.py").write_text(f"""
import torch
from metatele import TaskFamily
class Bad(TaskFamily):
    def network(self): return torch.nn.Linear(2, 1)
    def sample(self, generator): {body}
    def loss(self, prediction, target): return (prediction - target).square().mean()
""")
    assert named in refused(capsys, "meta-train", *SMALL[3:], "--family", f"{module}.Bad", "--output=run")
    assert not Path("run").exists()


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert "file/run" in refused(capsys, "meta-train", *SMALL, "--output=file/run")


def test_help_names_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "metatele", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in COMMANDS)


def test_a_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a command is missing; use one of meta-train, evaluate" in refused(capsys)
    assert "there is no command 'evaluat'" in refused(capsys, "evaluat", "--help")
    assert "there is no command '--tasks=3'" in refused(capsys, "--tasks=3", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_what_a_newcomer_needs(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    subject = {"experiment": "--experiment", "report": "evaluations"}.get(command, "--family")
    assert subject in out
    assert "--output" in out
    assert err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta: {iterations: 1}\nmeta: {lr: 0.1}\n", "line 2: the key 'meta' is there already, in line 1"),
        ("unroll: []\n", "unroll must be a section with settings of its own, got []"),
        ("config: {a: 1}\n", "a configuration cannot name others"),
        ("seed: !!int x\n", "not what its tag says"),
        ("seed: " + "9" * 5000 + "\n", "not what its tag says"),
        ('output: "a\\0b"\n', "cannot write to the folder"),
    ],
)
def test_bad_configurations_are_one_line(capsys, text, message) -> None:
    Path("c.yaml").write_text(text)
    line = refused(capsys, "meta-train", *SMALL, "--config", "c.yaml")
    assert message in line
    assert len(line) < 330


def test_an_empty_section_is_the_defaults(capsys) -> None:
    Path("c.yaml").write_text("validation:\n#  tasks: 3\nunroll:\n")
    assert main(["meta-train", "--config", "c.yaml", *SMALL, "--output", "run"]) == 0


def test_home_in_a_path(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("c.yaml").write_text("output: ~/run\n")
    assert main(["meta-train", "--config", "c.yaml", *SMALL]) == 0
    assert (tmp_path / "home" / "run" / "best").is_dir()
    evaluate = ["--tasks=2", "--steps=2", "--tuning_tasks=2", "--baselines=none", "--timing_repeats=1"]
    assert main(["evaluate", "a=~/run", *evaluate, "--output=~/evaluation"]) == 0
    assert (tmp_path / "home" / "evaluation" / "results.json").is_file()
    assert main(["meta-train", "--resume=~/run", "--meta.iterations=3"]) == 0
    assert not Path("~").exists()


def test_a_home_that_there_is_not(capsys) -> None:
    assert "cannot write to the folder" in refused(capsys, "meta-train", *SMALL, "--output=~nobody-of-this-name/run")
    assert "no run to resume" in refused(capsys, "meta-train", "--resume=~nobody-of-this-name/run")


def test_home_deep_inside_a_configuration(capsys, monkeypatch, tmp_path) -> None:
    """In the arguments of a family, also of one in a list."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    family = "{class_path: Mnist, init_args: {folder: ~/images}}"
    for given in (family, f"[{family}]"):
        Path("c.yaml").write_text(f"family: {given}\n")
        line = refused(capsys, "meta-train", "--config", "c.yaml", *SMALL[3:], "--output=run")
        assert f"in '{tmp_path}/home/images'" in line


FAILING = """
from metatele.tasks import TeacherStudent
class Failing(TeacherStudent):
    def __init__(self, table: str = "none.csv"):
        super().__init__()
        {body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("open(table)", "FileNotFoundError: [Errno 2] No such file or directory: 'none.csv'"),
        ("{}[table]", "KeyError: 'none.csv'"),
        ("raise TypeError('told') from ValueError('never raised')", "TypeError: told"),
        ("raise ValueError('first line\\nsecond')", "ValueError: first line"),
    ],
)
def test_a_family_whose_constructor_raises(capsys, body: str, said: str) -> None:
    """The kind of error and the user's own line, not the parser's."""
    name = f"failing_{abs(hash(body))}"
    Path(f"{name}.py").write_text(FAILING.replace("{body}", body))
    line = refused(capsys, "meta-train", *SMALL[3:], "--family", f"{name}.Failing", "--output=run")
    assert said in line
    assert f"{name}.py:6" in line
    assert not Path("run").exists()


def test_warnings_are_one_line_each(capsys) -> None:
    few = ["--family=Digits", "--family.rows=12", "--family.classes=10", "--family.hidden=[4]"]
    with warnings.catch_warnings():  # pytest keeps warnings from being shown
        warnings.simplefilter("default")
        warnings.showwarning = lambda *given, **more: sys.stderr.write(warnings.formatwarning(*given[:4]))
        assert main(["meta-train", *few, *SMALL[3:], "--output", "run"]) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x.lower()]
    assert line.startswith("metatele: warning: Digits: the ")


def test_plain_data_is_never_made_an_object(capsys, checkpoint) -> None:
    Path("t.yaml").write_text(
        "transfer: {a: {init_args: {hidden: {class_path: subprocess.Popen, "
        'init_args: {args: "touch RAN", shell: true}}}}}'
    )
    refused(capsys, "evaluate", str(checkpoint), "--family=TeacherStudent", "--config=t.yaml", "--output=o")
    assert not Path("RAN").exists()


def test_a_file_of_the_folder_stands_in_for_no_library(checkpoint) -> None:
    for name in ("rich", "yaml", "jsonargparse", "scipy"):
        Path(f"{name}.py").write_text(f"open('RAN-{name}', 'w')\nraise SystemExit")
    metatele = Path(sys.executable).with_name("metatele")
    arguments = ["evaluate", str(checkpoint), "--family=TeacherStudent", "--family.rows=8", "--tasks=2", "--steps=2"]
    done = subprocess.run(
        [metatele, *arguments, "--tuning_tasks=2", "--baselines=none"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(Path().glob("RAN*"))
