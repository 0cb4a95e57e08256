"""The benchmark on held-out families: its tables say what the evaluator found."""

import importlib
import itertools
import json
import math
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from metatele.tasks import PaperRegression

from benchmarks import general
from benchmarks.general import FIXED, Line, chosen, families_table, main, summary_table
from benchmarks.held_out import LISTS
from benchmarks.parity import Parity
from benchmarks.real_tables import RealTable
from benchmarks.tuned import FOLDER, found_before
from metatele import ConfigError, TaskError, evaluate, sample_meta_batch
from metatele.evaluation import Evaluation, Interval, Settings, Tuning, Verdict, stages
from metatele.evaluation.judge.pairing import best_baseline
from metatele.testing import check_task_family
from metatele.tuning import tune
from metatele.update.hand_designed import UpdateRule
from tests.conftest import MNIST

FEW = ["general-no-teleport", "--tasks=3", "--steps=4", "--tuning-tasks=2", "--timing-repeats=1"]
NOTHING = Interval(math.nan, math.nan, math.nan)


def verdict(percent: float, outcome: str, relative: bool = True) -> Verdict:
    return Verdict("mine", "x", outcome, Interval(percent, percent - 1, percent + 1), relative, NOTHING, 4, (1, 1))


def line(name: str, percent: float, outcome: str, **fields) -> Line:
    given = {"against_best": verdict(percent, outcome), "against_fixed": verdict(-75, "better"), "equal_seconds": 2.0}
    return Line(name, "SGD (lr 1)", **given | {"cost": 3.0, "fell": 0.1, "lately": 0.5} | fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("general")
    main([*FEW, "--only", "friedman", "paper", f"--output={folder}", f"--tuned={folder / 'tuned'}"])
    return folder


def test_the_lists():
    everything = [one for families in LISTS.values() for one in families]
    assert len({one.name for one in everything}) == len(everything) == 42
    for one in everything:
        assert one.why
        if not one.name.startswith("mnist") or MNIST.is_dir():
            sample_meta_batch(one.family(), "test", [0])
            module, _, name = one.spec["class_path"].rpartition(".")
            assert getattr(importlib.import_module(module), name) is one.kind
    assert chosen("second", None) == list(LISTS["second"])
    assert [one.name for one in chosen("first", ["wine", "paper"])] == ["paper", "wine"]


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_real_tables_keep_the_contract_of_families(name):
    family = RealTable(name, [4])
    check_task_family(family)
    assert torch.equal(*(family.sample(torch.Generator().manual_seed(s))[0].sort(0).values for s in (0, 1)))
    torch.testing.assert_close(family.x.std(0), torch.ones(family.x.shape[1]))


def test_a_table_that_is_unknown():
    with pytest.raises(TaskError, match="one of wine, breast_cancer, diabetes, iris, got 'boston'"):
        RealTable("boston", [4])


def test_parities_are_what_they_say():
    family = Parity(3, 5, noise=0.0, flipped=0.0, rows=64)
    check_task_family(Parity(batch_size=16, activation="tanh"))
    x, y = family.sample(torch.Generator().manual_seed(0))
    chosen = [bits for bits in itertools.combinations(range(5), 3) if torch.equal((x[:, list(bits)] > 0).sum(1) % 2, y)]
    assert len(chosen) == 1
    shared = torch.Generator().manual_seed(0)
    assert 0.1 < float((Parity(3, 5, 0.0, 0.3, 64).sample(shared)[1] != y).double().mean()) < 0.5


@pytest.mark.parametrize(
    ("wrong", "said"), [({"bits": 7}, r"\(7, 6, "), ({"flipped": 1.5}, r"1\.5"), ({"rows": 0}, "0")]
)
def test_a_parity_of_nothing(wrong, said):
    with pytest.raises(TaskError, match=f"bits <= features.*{said}"):
        Parity(**wrong)


def test_a_line_says_what_the_evaluator_found(folder):
    for name in ("friedman", "paper"):
        found = Evaluation.load(folder / name)
        made = Line.of(name, found, "general-no-teleport")
        best = best_baseline(found.entries)
        assert found.reference == FIXED
        assert found.settings.reported == (2, 4)
        assert made.best == best.label
        assert (made.against_best.name, made.against_best.against) == ("general-no-teleport", best.name)
        assert made.against_best in found.verdicts
        assert made.against_fixed in found.verdicts
        assert made.against_fixed.against == FIXED
        first, middle, last = (best.summary(found.part, step).geometric_mean for step in (0, 2, 4))
        assert (made.fell, made.lately) == (last / first, last / middle)
        mine = [found["general-no-teleport"].summary(found.part, step).geometric_mean for step in range(5)]
        assert any(made.equal_seconds == pytest.approx(x / last) for x in mine)
        assert made.cost > 0


def test_what_is_done_is_not_done_again(folder, capsys, monkeypatch):
    monkeypatch.setattr(general, "evaluate", None)
    again = [*FEW, "--only", "friedman", "paper", f"--output={folder}", f"--tuned={folder / 'tuned'}"]
    main(again)
    out = capsys.readouterr().out
    assert "general-no-teleport / best" in out, "in the terminal"
    assert "| friedman | " in out
    assert "| paper | " in out, "as Markdown"
    with pytest.raises(SystemExit, match=r"paper holds an evaluation with other tasks: 3, not 5"):
        main([*again, "--only", "paper", "--tasks=5"])
    with pytest.raises(SystemExit, match="other recipes"):
        main(["general-no-teleport=general", *again[1:]])


def test_a_name_that_is_taken(tmp_path):
    with pytest.raises(SystemExit, match="'Adam at 1e-3' is taken"):
        main([f"{FIXED}=general", *FEW[1:], f"--output={tmp_path}"])


def test_the_tables():
    lines = [
        line("a", -50, "better"),
        line("b", 100, "worse"),
        line("c", -75, "better"),
        line("at zero", 900, "worse", fell=1e-9),
        line("flat", 0, "not distinguishable", lately=0.99),
        line("no ratio", 0.2, "worse", against_best=verdict(0.2, "worse", relative=False)),
        Line("gone", trouble="failed: no"),
    ]
    families = families_table("mine", lines)
    assert families.rows[0][:5] == ["a", "SGD (lr 1)", "0.100", "0.500 [0.490, 0.510]", "better"]
    assert [row[2] for row in families.rows[3:5]] == ["1.00e-9 zero", "0.100 floor"]
    assert families.rows[5][3] == "difference 0.200 [-0.800, 1.20]"
    assert families.rows[6][1] == "failed: no"
    assert all(len(row) == len(families.header) for row in families.rows)
    summary = summary_table("mine", lines)
    assert [row[:3] for row in summary.rows[::2]] == [
        ["all", "6", "best baseline"],
        ["with room", "4", "best baseline"],
        ["best at zero or flat", "2", "best baseline"],
    ]
    assert summary.rows[2][3:] == ["0.630", "2.00", "2", "0", "2", "0"], "the cube root of 1/2 x 2 x 1/4"
    assert summary.rows[4][3:] == ["3.16", "2.00", "0", "1", "1", "0"]
    assert summary.rows[3][3:] == ["0.250", "-", "4", "0", "0", "0"]


def test_step_sizes_are_found_once(folder, tmp_path, capsys, monkeypatch):
    """Another evaluation takes them, on the same tasks only, and has the same results."""
    tunings = []
    monkeypatch.setattr(stages, "tune", lambda rule, *given: tunings.append(rule) or tune(rule, *given))
    paper = [*FEW, "--only", "paper", f"--tuned={folder / 'tuned'}"]
    main([*paper, f"--output={tmp_path / 'again'}"])
    assert tunings == []
    assert "step sizes found before" in capsys.readouterr().err
    first, again = (Evaluation.load(where / "paper") for where in (folder, tmp_path / "again"))
    for a, b in zip(first.entries, again.entries, strict=True):
        assert a.parts == b.parts
        assert np.array_equal(a.runs[0].losses["inner"], b.runs[0].losses["inner"])
        assert (a.tuning is None) == (b.tuning is None)
        assert a.tuning is None or replace(a.tuning, trials=()) == replace(b.tuning, trials=())
    (path,) = (folder / "tuned").glob("paper.*")
    other = tmp_path / "tuned" / path.name
    other.parent.mkdir()
    changed = json.loads(path.read_text())
    changed["tasks"][0][0] *= 1.01
    other.write_text(json.dumps(changed))
    main([*FEW, "--only", "paper", f"--output={tmp_path / 'third'}", f"--tuned={other.parent}"])
    assert len(tunings) == 7
    assert json.loads(other.read_text()) == json.loads(path.read_text()), "it is written anew"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tasks": 3, "found": {}}'])
def test_what_was_kept_is_damaged(text, folder, tmp_path):
    (path,) = (folder / "tuned").glob("paper.*")
    (tmp_path / path.name).write_text(text)
    with pytest.raises(SystemExit, match=r"paper.*does not hold what was tuned.*delete it"):
        main([*FEW, "--only", "paper", f"--output={tmp_path / 'x'}", f"--tuned={tmp_path}"])


def test_tunings_of_other_steps_are_refused():
    found = Tuning("constant", 0.1, 1.0, (), 2, 9)
    said = r"options.tunings: SGD was tuned on 2 tasks for 9 steps, and here are 3 tasks"
    with pytest.raises(ConfigError, match=said):
        evaluate({}, PaperRegression(4), tasks=2, tuning_tasks=3, steps=4, tunings={"SGD": found})


def test_what_the_repository_keeps_was_tuned_on_these_families():
    kept = list(FOLDER.glob("*.json"))
    names = {one.name.replace(" ", "-"): one for families in LISTS.values() for one in families}
    assert kept
    for path in kept:
        name, *told = re.fullmatch(r"(.+)\.(\d+)-steps\.(\d+)-tasks\.seed-(-?\d+)\.json", path.name).groups()
        one, (steps, tasks, seed) = names[name], map(int, told)
        if not one.name.startswith("mnist") or MNIST.is_dir():
            settings = Settings(steps=steps, seed=seed, tuning_tasks=tasks)
            found = found_before(FOLDER, one.name, one.family(), settings)
            assert set(found) == set(get_args(UpdateRule)), f"{one.name} has changed: delete {path.name}"
