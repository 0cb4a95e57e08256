"""An evaluation that several processes share is that of one, bit for bit."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from metatele.tasks import TeacherStudent

import metatele.evaluation.stages as stages
import metatele.tuning.step_size as tuning
from metatele import ConfigError, InnerOptimizer, OutputError, Update, evaluate
from metatele.checkpoint import describe
from metatele.evaluation import Evaluation
from metatele.evaluation.evaluator import play_ahead
from metatele.evaluation.play.journal import fingerprint
from metatele.evaluation.play.turns import Turns
from metatele.evaluation.results import plain
from metatele.evaluation.settings import Options, Settings
from metatele.parts.point import Point, State
from metatele.support.ranks import Ranks
from metatele.task.params import Params
from tests.evaluation.conftest import gd, learned
from tests.processes import free_port, join

FAMILY = TeacherStudent(3, 4, 2, rows=8, batch_size=4)


class Worded(Update):
    """Fails on every chunk of tasks, each time with other words."""

    def start(self, params: Params) -> State:
        return State()

    def propose(self, point: Point, state: State) -> Any:
        if point.step > 0:
            raise ValueError(f"the weights are {float(sum(p.sum() for p in point.params.values()))}")
        return point.gradient, state


def run(output: Path | None = None, **more: Any) -> Evaluation:
    contestants = {
        "tele": [learned(1, True), learned(2, True)],
        "plain": learned(3),
        "bad": InnerOptimizer(Worded()),
    }
    small = {"tasks": 6, "chunk": 2, "steps": 3, "tuning_tasks": 2, "timing_repeats": 2, "timing_tasks": 2}
    return evaluate(contestants, FAMILY, output=output, strict=False, **{**small, **more})


def tune_briefly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tuning, "COARSE", range(-16, 1, 8))
    patch.setattr(tuning, "FINE", (2,))


def note(patch: pytest.MonkeyPatch, name: str, done: list[str]) -> None:
    """Note what a process does in a list."""
    real = getattr(stages, name)

    def noted(*arguments: Any) -> Any:
        time.sleep(0.02)  # for others to have their turn
        made = real(*arguments)
        done.append(f"{name} {fingerprint(*(describe(a) if isinstance(a, InnerOptimizer) else '' for a in arguments))}")
        return made

    patch.setattr(stages, name, noted)


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """All but wall-clock, memory and surroundings."""
    made = plain(replace(evaluation, elapsed=0.0, environment={}))
    for entry in made["entries"]:
        entry.pop("cost")
    return dict(made)


def work(rank: int, size: int, port: int, folder: str, output: str | None) -> None:
    join(rank, size, port)
    torch.set_num_threads(1)
    done = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        tune_briefly(patch)
        for name in ("tune", "play", "clock"):
            note(patch, name, done)
        told = list[tuple[str, int, int]]()
        evaluation = run(None if output is None else Path(output), progress=lambda *call: told.append(call))
    Path(folder, f"{rank}.json").write_text(json.dumps([numbers(evaluation), done, told]))
    dist.destroy_process_group()


@pytest.mark.parametrize(("size", "kept"), [(2, True), pytest.param(3, False, marks=pytest.mark.slow)])
def test_several_processes_are_one(size: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is done by one of them, and all get the same evaluation."""
    tune_briefly(monkeypatch)
    alone = json.loads(json.dumps(numbers(run())))
    failures = {e["name"]: e["failure"] for e in alone["entries"] if e["failure"]}
    assert failures["bad"].startswith("ValueError while playing: the weights are ")
    output = str(tmp_path / "out") if kept else None
    mp.spawn(work, (size, free_port(), str(tmp_path), output), nprocs=size)  # type: ignore[no-untyped-call]
    found, did, told = zip(*(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)), strict=True)
    assert all(one == alone for one in found)
    pieces = [piece for some in did for piece in some if not piece.startswith("clock")]
    rules = sum(e["kind"] == "baseline" for e in alone["entries"])
    ran = sum(len(e["runs"]) for e in alone["entries"])
    assert len(pieces) == rules + 3 * ran, "none twice, none left out; what fails is not noted"
    assert all(some for some in did)
    assert not any(piece.startswith("clock") for some in did[1:] for piece in some), "the first one measures the time"
    assert told[0][-1][0] == "done"
    assert not any(told[1:]), "the first one tells"
    counts = [done for _, done, _ in told[0][3:]]
    assert counts == sorted(counts)
    if kept:
        assert json.loads(json.dumps(numbers(Evaluation.load(tmp_path / "out")))) == alone
        assert os.listdir(tmp_path / "out") == ["results.json"]


def blind(rank: int, port: int, folder: str) -> None:
    """One process looks elsewhere, or wants another evaluation."""
    join(rank, 2, port)
    here = Path(folder, str(rank))
    here.mkdir()
    os.chdir(here)
    few = {"tasks": 2, "steps": 1, "tuning_tasks": 1, "timing_repeats": 1, "baselines": False}
    with pytest.raises(ConfigError, match=r"process 1 on \S+ does not see out/.unfinished, through which the"):
        evaluate({"a": gd()}, FAMILY, output="out", **few)
    with pytest.raises(ConfigError, match="2 processes share an evaluation, but were given different contestants"):
        evaluate({"a": gd(0.1 * (1 + rank))}, FAMILY, **few)
    (here / "file").touch()
    with pytest.raises(OutputError, match="cannot write to the folder file/out"):
        evaluate({"a": gd()}, FAMILY, output="file/out", **few)
    (here / "told").touch()
    dist.destroy_process_group()


def test_processes_that_cannot_share_are_told_so(tmp_path: Path) -> None:
    mp.spawn(blind, (free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    assert [(tmp_path / rank / "told").exists() for rank in "01"] == [True, True]


def test_each_turn_is_one_processs(tmp_path: Path) -> None:
    assert all(Turns(Ranks(), None).take(piece) for piece in (0, 0, 1))
    one = Turns(Ranks(), tmp_path)
    one.ranks, one._taken = Ranks(0, 2), tmp_path
    assert [one.take(piece) for piece in (0, 0, 1)] == [True, False, True]
    one.close()
    assert not tmp_path.exists()
    assert one.take(0), "then several do it, which is right, too"


def test_what_has_been_played_ahead_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune_briefly(monkeypatch)
    contestants = {"tele": [learned(1, True), learned(2, True)], "plain": learned(3)}
    settings = Settings(tasks=6, chunk=2, steps=3, tuning_tasks=2, timing_repeats=1, timing_tasks=2)
    expected, options = evaluate(contestants, FAMILY, settings), Options(journal=tmp_path)
    for part in (2, 0, 1):
        play_ahead(contestants, FAMILY, settings, options, part, 3)

    def again(*arguments: Any) -> None:
        raise AssertionError("nothing is left to do but to measure the time")

    for name in ("play", "tune"):
        monkeypatch.setattr(stages, name, again)
    found = evaluate(contestants, FAMILY, settings, options=options)
    for a, b in zip(found.entries, expected.entries, strict=True):
        assert plain(a.runs) == plain(b.runs)
        assert a.tuning == b.tuning
        assert a.failure is None
    play_ahead(contestants, FAMILY, settings, options, 99, 100)  # more parts than contestants
