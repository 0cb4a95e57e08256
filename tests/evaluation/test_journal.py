"""The journal of an evaluation: killed in the middle, it goes on where it was, and nothing stale is taken."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import metatele.evaluation.evaluator as evaluator
import metatele.evaluation.stages as stages
import metatele.tuning.step_size as tuning
from metatele import (
    ConfigError,
    GradientDescent,
    InnerOptimizer,
    LevelSetTeleport,
    OutputError,
    RandomTeleport,
    TaskFamily,
    evaluate,
)
from metatele.evaluation import Evaluation, Run, Tuning
from metatele.evaluation.evaluator import JOURNAL
from metatele.evaluation.play.journal import Journal, code_of, fingerprint
from metatele.evaluation.play.run import play
from metatele.evaluation.results import plain

PROGRAM = """
import os
from pathlib import Path

import torch
from torch import nn

import metatele.evaluation.evaluator as evaluator
import metatele.tuning.step_size as tuning
from metatele import CoordinateUpdate, GradientDescent, InnerOptimizer, LevelSetTeleport, NeuronTeleport
from metatele import RandomTeleport, TaskFamily, evaluate

class Counted(GradientDescent):
    # Notes each of its steps in a file, and is killed at one of them.

    def propose(self, point, state):
        with open("calls", "a") as file:
            file.write("x")
        if Path("calls").stat().st_size == int(os.environ.get("KILLED_AT", 0)):
            os.kill(os.getpid(), 9)
        return super().propose(point, state)

class Family(TaskFamily):
    parts = (0.5, 0.0, 0.5)

    def network(self):
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    def sample(self, generator):
        x = torch.randn(8, 2, generator=generator)
        return x, x.square().sum(1, keepdim=True)

    def loss(self, prediction, target):
        return (prediction - target).square().mean()

def learned(seed):
    inner = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))
    inner.initialise(seed)
    return inner

def main():
    torch.set_num_threads(1)
    tuning.COARSE, tuning.FINE = range(-16, 1, 8), (2,)  # few cells: what is tested is the journal
    real = evaluator.baselines
    evaluator.baselines = lambda *a: [c for c in real(*a) if c.name in ("SGD", "Adam")]
    contestants = {
        "learned": [learned(1), learned(2)],
        "counted": InnerOptimizer(Counted(0.05)),
        "level": InnerOptimizer(Counted(0.06), LevelSetTeleport()),
        "random": InnerOptimizer(Counted(0.07), RandomTeleport(last=1)),
    }
    evaluate(contestants, Family(), tasks=3, steps=STEPS, tuning_tasks=2, timing_repeats=2, timing_tasks=2, chunk=2,
             output="out")

STEPS = 4
"""
STEPS, COUNTED = 4, 3  # of a piece; how many checkpoints are checked by one step each, at every call


def numbers(path: Path) -> str:
    """results.json without wall-clock and memory."""
    stored = json.loads(path.read_text())
    del stored["elapsed"]
    for entry in stored["entries"]:
        assert entry.pop("cost")
    return json.dumps(stored)


def calls() -> int:
    return Path("calls").stat().st_size


def test_killed_it_ends_with_the_same_numbers_and_replays_nothing(tmp_path, monkeypatch):
    (tmp_path / "killed_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, name in ((tuning, "COARSE"), (tuning, "FINE"), (evaluator, "baselines")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored in the end
    program = importlib.import_module("killed_program")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    program.main()
    every, expected = calls(), numbers(Path("out/results.json"))
    monkeypatch.chdir(tmp_path / "killed")
    kills, kept = (2 * every // 3,), [0]
    for at in kills:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "KILLED_AT": str(at)}
        path = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", "import killed_program as k; k.main()"]
        done = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert calls() == at
        assert not Path("out/results.json").exists()
        kept.append(len(list(Path("out", JOURNAL).glob("*.json"))))
        assert kept[-1] > kept[-2]
    program.main()
    assert numbers(Path("out/results.json")) == expected
    assert os.listdir("out") == ["results.json"], "the journal is gone"
    again = calls() - every
    assert 0 < again <= len(kills) * (COUNTED + STEPS), "played again are the checks, and the pieces that were cut"


# --- in this process ------------------------------------------------------------------------------


class Line(TaskFamily):
    """Regression by a line, with a loss and an accuracy to choose."""

    def __init__(self, power: int = 2, closer_than: float = 1.0, size: int | None = None) -> None:
        self.power, self.closer_than, self.batch_size = power, closer_than, size

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    def sample(self, generator):
        x = torch.randn(8, 2, generator=generator)
        return x, x.sum(1, keepdim=True)

    def loss(self, prediction, target):
        return (prediction - target).abs().pow(self.power).mean()

    def accuracy(self, prediction, target):
        return ((prediction - target).abs() < self.closer_than).float().mean()


def gd(lr: float = 0.1, teleport=None) -> InnerOptimizer:
    return InnerOptimizer(GradientDescent(lr), teleport)


def quick(checkpoints, folder, family=None, **settings) -> Evaluation:
    few = {"tasks": 4, "steps": 3, "tuning_tasks": 2, "timing_repeats": 1, "timing_tasks": 2, "baselines": False}
    return evaluate(checkpoints, family or Line(), output=folder, **few | {"chunk": 2} | settings)


@pytest.fixture
def played(monkeypatch):
    """Notes each piece that is played, and can be told to stop before one."""

    class Notes(list):
        stop_at = -1

    notes = Notes()

    def noted(inner, batch, at):
        if len(notes) == notes.stop_at:
            raise KeyboardInterrupt
        notes.append(describe_piece(inner, batch))
        return play(inner, batch, at)

    monkeypatch.setattr(stages, "play", noted)
    return notes


def describe_piece(inner, batch):
    return getattr(inner.update, "lr", None), type(inner.teleport).__name__, batch.seeds.tolist()


def interrupt(played, checkpoints, folder, after, **settings):
    """Start an evaluation that ends by Ctrl-C after so many pieces."""
    played.stop_at = after
    with pytest.raises(KeyboardInterrupt):
        quick(checkpoints, folder, **settings)
    assert not (folder / "results.json").exists()
    assert len(list((folder / JOURNAL).iterdir())) == after
    played.stop_at = -1
    done = list(played)
    played.clear()
    return done


TELEPORTS = {"none": None, "random": RandomTeleport(), "level set": LevelSetTeleport(last=None)}


@pytest.mark.parametrize("name", TELEPORTS)
def test_the_same_call_goes_on(tmp_path, played, name):
    inners = {"a": gd(0.1, TELEPORTS[name]), "b": gd(0.2, TELEPORTS[name])}
    expected = quick(inners, None)
    every = list(played)
    played.clear()
    before = interrupt(played, inners, tmp_path, 3)
    result = quick(inners, tmp_path)
    assert before + played == every, "nothing twice, nothing left out"
    for mine, theirs in zip(result.entries, expected.entries, strict=True):
        assert plain(mine.runs) == plain(theirs.runs)
        for run, other in zip(mine.runs, theirs.runs, strict=True):
            if run.moves is not None:
                assert run.moves.sizes.shape == other.moves.sizes.shape
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert plain(Evaluation.load(tmp_path)) == plain(result)


def test_a_finished_evaluation_leaves_no_journal_and_is_made_again(tmp_path, played):
    quick({"a": gd()}, tmp_path)
    first = list(played)
    quick({"a": gd()}, tmp_path)
    assert played == first * 2


OTHER = {
    "steps": ({"steps": 4}, None),
    "seed": ({"seed": 1}, None),
    "chunk": ({"chunk": 1}, None),
    "loss": ({"family": Line(power=4)}, None),
    "accuracy": ({"family": Line(closer_than=0.5)}, None),
    "batch size": ({"family": Line(size=2)}, None),
    "checkpoint": ({}, gd(0.11)),
    "teleport": ({}, gd(0.1, RandomTeleport(0.2))),
    "report steps": ({"report_steps": [0]}, gd(0.3)),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_evaluation_does_not_take_the_pieces(tmp_path, played, what):
    settings, other = OTHER[what]
    interrupt(played, {"a": gd(), "b": gd(0.9)}, tmp_path, 2)
    inners = {"a": other or gd()}
    result = quick(inners, tmp_path, **settings)
    assert plain(result["a"].runs) == plain(quick(inners, None, **settings)["a"].runs)


def test_other_weights_do_not_take_the_pieces(tmp_path, played):
    from metatele import CoordinateUpdate

    def learned(seed):
        inner = InnerOptimizer(CoordinateUpdate(hidden=3))
        inner.initialise(seed)
        return inner

    interrupt(played, {"a": learned(1), "b": gd()}, tmp_path, 2)
    result = quick({"a": learned(2)}, tmp_path)
    assert len(played) == 4, "two chunks of the checkpoint and of its balance control"
    assert plain(result["a"].runs) == plain(quick({"a": learned(2)}, None)["a"].runs)


@pytest.mark.parametrize("what", ["hardware", "versions"])
def test_another_machine_does_not_take_the_pieces(tmp_path, played, monkeypatch, what):
    """Wall-clock of a GPU must not pass for that of the CPU that the evaluation goes on with."""
    interrupt(played, {"a": gd(), "b": gd(0.9)}, tmp_path, 2)
    monkeypatch.setattr(stages, what, lambda *_: {"device": "another"})
    quick({"a": gd(), "b": gd(0.9)}, tmp_path)
    assert len(played) == 3 * 2, "three contestants, two chunks, none of which is taken"


def test_more_tasks_take_the_chunks_that_are_there(tmp_path, played):
    interrupt(played, {"a": gd(), "b": gd(0.9)}, tmp_path, 1)
    quick({"a": gd(), "b": gd(0.9)}, tmp_path, tasks=6, seed=0)
    assert len(played) == 3 * 3 - 1, "three contestants, three chunks, one is there"


def test_a_corrected_update_does_not_take_its_old_pieces(tmp_path, played, monkeypatch):
    """A user stops an evaluation, corrects a mistake in a class of their own, and starts it again."""
    module = tmp_path / "own_update.py"
    text = "from metatele import GradientDescent\nfrom metatele.task.params import map_params\n\n"
    text += "class Own(GradientDescent):\n"
    text += "    def propose(self, point, state):\n        return map_params(lambda g: {} * g, point.gradient), state\n"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def own(sign):
        sys.modules.pop("own_update", None)
        module.write_text(text.format(sign))
        import own_update

        return InnerOptimizer(own_update.Own(0.1))

    interrupt(played, {"a": own("0.10"), "b": gd()}, tmp_path / "out", 1)
    corrected = own("-0.1")
    result = quick({"a": corrected, "b": gd()}, tmp_path / "out")
    assert plain(result["a"].runs) == plain(quick({"a": corrected, "b": gd()}, None)["a"].runs)
    sys.modules.pop("own_update", None)


DAMAGE = [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 50_000, b'{"at": [0]}', b"NaN", b"7"]


@pytest.mark.parametrize(
    "damage", [*DAMAGE, "cut", "huge", "short", "digit", "folder", "link"], ids=lambda d: str(d)[:12]
)
def test_damaged_pieces_are_made_again(tmp_path, played, damage):
    inners = {"a": gd(0.1, RandomTeleport()), "b": gd(0.2)}
    expected = quick(inners, None)
    played.clear()
    interrupt(played, inners, tmp_path, 2)
    for path in (tmp_path / JOURNAL).iterdir():
        raw, piece = path.read_bytes(), json.loads(path.read_bytes())
        if damage == "cut":
            raw = raw[: len(raw) // 2]
        elif damage == "huge":
            piece["piece"]["stopped_at"] = [10**40] * 2
            raw = json.dumps(piece).encode()
        elif damage == "short":
            piece["piece"]["losses"] = {"inner": piece["piece"]["losses"]["inner"][:-1]}
            raw = json.dumps(piece).encode()
        elif damage == "digit":  # in its place it would be a loss like another
            at = raw.rindex(b".") + 1
            raw = raw[:at] + bytes([48 + (raw[at] - 47) % 10]) + raw[at + 1 :]
        elif damage in ("folder", "link"):
            path.unlink()
            path.mkdir() if damage == "folder" else path.symlink_to(path)
            continue
        else:
            raw = damage
        path.write_bytes(raw)
    result = quick(inners, tmp_path)
    assert [plain(e.runs) for e in result.entries] == [plain(e.runs) for e in expected.entries]
    assert [e.failure for e in result.entries] == [None] * len(result.entries)
    assert not (tmp_path / JOURNAL).exists()


def test_a_journal_folder_with_other_things_in_it(tmp_path):
    (tmp_path / JOURNAL).mkdir()
    (tmp_path / JOURNAL / "notes.txt").write_text("?")
    quick({"a": gd()}, tmp_path)
    assert not (tmp_path / JOURNAL).exists()


def test_two_evaluations_at_once_in_one_folder(tmp_path, monkeypatch):
    """The second is refused, with a line that names the first, which goes on as if nothing had been."""
    inners = {"a": gd(), "b": gd(0.2)}

    def greedy(inner, batch, at):
        monkeypatch.setattr(stages, "play", play)
        with pytest.raises(OutputError, match=f"{tmp_path} is in use by process {os.getpid()} on "):
            quick(inners, tmp_path)
        return play(inner, batch, at)

    monkeypatch.setattr(stages, "play", greedy)
    result = quick(inners, tmp_path)
    assert [e.failure for e in result.entries] == [None] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_is_one_error_and_nobodys_failure(tmp_path, monkeypatch, played):
    real, seen = os.replace, []

    def full_disk(source, target):
        if len(seen) == 1:
            raise OSError(28, "No space left on device")
        seen.append(target)
        real(source, target)

    inners = {"a": gd(), "b": gd(0.2)}
    with monkeypatch.context() as patch:
        patch.setattr("metatele.support.files.os.replace", full_disk)
        with pytest.raises(OutputError, match=r"cannot write .*\.json: No space left on device"):
            quick(inners, tmp_path)
    assert len(list((tmp_path / JOURNAL).iterdir())) == 1, "no temporary file stays"
    played.clear()
    result = quick(inners, tmp_path)
    assert len(played) == 5, "one of six pieces is there"
    assert not any(e.failure for e in result.entries)


def test_nothing_is_left_behind_by_a_setting_that_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        quick({"a": gd()}, tmp_path, reference="nobody")
    assert not list(tmp_path.iterdir())


def test_a_failure_is_not_kept(tmp_path, monkeypatch, played):
    """What failed for want of memory, say, is tried again."""
    with monkeypatch.context() as patch:
        patch.setattr(stages, "play", lambda *_: (_ for _ in ()).throw(MemoryError))
        patch.setattr(stages.Stages, "_timed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quick({"a": gd()}, tmp_path)
    assert quick({"a": gd()}, tmp_path)["a"].failure is None
    assert len(played) == 4


# --- the pieces of the journal --------------------------------------------------------------------


def test_once(tmp_path):
    journal, calls = Journal(tmp_path / "j"), []

    def work():
        calls.append(1)
        return np.array([1.5, np.nan, np.inf]), 3

    kind = tuple[NDArray[np.float64], int | None]
    first = journal.once("k", kind, work)
    again = Journal(tmp_path / "j").once("k", kind, work)
    np.testing.assert_array_equal(first[0], again[0])
    assert (len(calls), again[1]) == (1, 3)
    journal.once("other", kind, work)
    Journal(None).once("k", kind, work)
    assert len(calls) == 3
    journal.close()
    journal.close()
    assert not (tmp_path / "j").exists()


def test_fingerprints_tell_apart():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    things = [
        (), (1,), ("1",), (1.0,), (None,), (True,), ([1, 2],), ([2, 1],), (1, 2), ({"a": 1},), ({"b": 1},), (layer,),
        (torch.zeros(2),), (torch.zeros(2, 1),), (torch.zeros(2, dtype=torch.int64),), (torch.tensor([0.0, -0.0]),),
        (other,), (np.zeros(3),), ({"a": torch.zeros(2)},), ({"a": torch.ones(2)},), ("a", "b"), ("ab",), ("a|b",),
    ]  # fmt: skip
    found = [fingerprint(*t) for t in things]
    assert len(set(found)) == len(things)
    assert found == [fingerprint(*t) for t in things]


def test_code_is_told_apart(tmp_path, monkeypatch):
    assert code_of() == code_of(3, "x", None)
    assert code_of(Line()) == code_of(Line(power=4)), "its arguments are told by others"
    assert code_of(Line()) != code_of(GradientDescent())
    typed_in: dict = {}
    exec("class TypedIn: pass", {"__name__": "nowhere"}, typed_in)
    assert code_of(typed_in["TypedIn"]()) == code_of()


def test_the_types_of_pieces_come_back():
    tuning = Tuning("cosine", 0.1, float("inf"), (), 2, 3, False, 4.0)
    from metatele.evaluation.results import restore

    assert restore(Tuning, json.loads(json.dumps(plain(tuning)))) == tuning
    with pytest.raises((KeyError, TypeError, ValueError)):
        restore(Run, {})
