"""metatele compare: which contestants are meta-trained, on which groups, with which seeds, and where they go."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from metatele import InnerOptimizer, load_checkpoint
from metatele.cli import compare_command, main, side_by_side
from metatele.teleports import CanonicalTeleport

BUDGET = ["--unroll.steps=2", "--unroll.window=2", "--meta.iterations=1", "--meta.tasks=2", "--validation.tasks=2",
          "--validation.every=1", "--optimizer.update=CoordinateUpdate", "--optimizer.update.hidden=3",
          "--output=out"]  # fmt: skip
RELU = [*BUDGET, "--family=TeacherStudent", "--family.rows=8", "--optimizer.teleport=NeuronTeleport"]
FAMILIES = """
from torch import nn

from metatele.testing import ExampleFamily

class Linear(ExampleFamily):
    def __init__(self, widths: tuple[int, ...] = (5, 3, 4), rows: int = 6) -> None:
        super().__init__(widths, (None,) * (len(widths) - 2), rows=rows)

class Smooth(ExampleFamily):
    def __init__(self) -> None:
        super().__init__((4, 4, 2), (nn.Tanh(),), rows=3)
"""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("families.py").write_text(FAMILIES)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is handed to the evaluation, instead of evaluating it."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(compare_command, "report", lambda trained, *rest, **settings: calls.append(trained))
    return calls


def compare(*arguments: str) -> int:
    return main(["compare", *arguments])


def weights(inner: InnerOptimizer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in inner.parameters()])


def dense(family: str, *arguments: str) -> list[str]:
    """Arguments for a dense teleport on a family."""
    part = ["--optimizer.teleport=DenseTeleport", "--optimizer.teleport.hidden=3"]
    return [*BUDGET, f"--family={family}", *part, *arguments]


def test_all_closed_form_rules_are_meta_trained_on_the_teleports_group(reported) -> None:
    assert compare(*dense("families.Linear", "--controls", "all")) == 0
    (trained,) = reported
    rules = {name: kind.__name__ for name, kind in CanonicalTeleport.named.items()}
    names = [f"{rule}{often}" for rule in rules for often in ("", "-every")]
    assert list(trained) == ["teleport", "no-teleport", *names]
    for name in names:
        teleport = load_checkpoint(Path("out") / name).teleport
        assert type(teleport).__name__ == rules[name.removesuffix("-every")]
        assert teleport.symmetry == "auto"
        assert (teleport.first, teleport.last) == (0, None if name.endswith("-every") else 0)
        (seed,) = trained[name]
        assert seed.inner.teleport.arguments() == teleport.arguments()
        assert seed.budget == trained["teleport"][0].budget


def test_the_controls_are_a_choice(reported, capsys) -> None:
    assert compare(*RELU, "--controls", "white-every", "balance", "white-every") == 0
    assert list(reported[0]) == ["teleport", "no-teleport", "white-every", "balance"]
    assert load_checkpoint("out/balance").teleport.symmetry == "scaling"
    assert "left out" not in capsys.readouterr().out
    Path("more.yaml").write_text(yaml.safe_dump({"controls": []}))
    assert compare("--config=more.yaml", *RELU) == 0
    assert list(reported[1]) == ["teleport", "no-teleport"]
    assert compare(*RELU, "--controls", "fancy") == 2
    assert "'white-every'" in capsys.readouterr().err


def test_a_rule_that_cannot_act_on_the_teleports_group_acts_on_scaling(reported, capsys) -> None:
    # More neurons than inputs or outputs: of GL(h) these rules do not exist here.
    wide = dense("families.Linear", "--family.widths=[2,5,2]", "--family.rows=3")
    assert compare(*wide, "--controls", "svd", "wout") == 0
    out = capsys.readouterr().out
    assert "svd: left out, because on positive scalings it is the balance rule" in out
    assert "wout: on symmetry 'scaling', because it cannot act on 'auto'" in out
    paper = dense(
        "PaperRegression", "--family.size=4", "--optimizer.teleport.symmetry=data_dependent", "--output=paper"
    )
    assert compare(*paper) == 0
    assert "balance: on symmetry 'scaling', because it cannot act on 'data_dependent'" in capsys.readouterr().out
    for folder in ("out/wout", "paper/balance"):
        assert load_checkpoint(folder).teleport.symmetry == "scaling"
    assert [list(trained) for trained in reported] == [
        ["teleport", "no-teleport", "wout"],
        ["teleport", "no-teleport", "balance"],
    ]


def test_a_rule_that_cannot_act_at_all_is_left_out_with_its_reason(reported, capsys) -> None:
    smooth = dense("families.Smooth", "--optimizer.teleport.symmetry=pseudo_inverse")
    assert compare(*smooth, "--controls", "balance", "white-every") == 0
    out = capsys.readouterr().out
    for name in ("balance", "white-every"):
        assert f"{name}: left out, because the network has no such rule (" in out
    assert "PseudoInverseGL" in out
    assert list(reported[0]) == ["teleport", "no-teleport"]


def test_every_meta_seed_is_a_run_of_its_own(reported) -> None:
    arguments = [*RELU, "--seeds=2", "--seed=3", "--meta.iterations=2"]
    assert compare(*arguments) == 0
    (trained,) = reported
    assert list(trained) == ["teleport", "no-teleport", "balance"]
    for name, (first, second) in trained.items():
        folders = [Path("out") / name / f"seed-{seed}" for seed in (3, 4)]
        for folder, one in zip(folders, (first, second), strict=True):
            assert torch.equal(weights(load_checkpoint(folder)), weights(one.inner))
        assert not torch.equal(weights(first.inner), weights(second.inner))
        assert [one.budget.seed for one in (first, second)] == [3, 4]
        assert [yaml.safe_load((f / "training.yaml").read_text())["seed"] for f in folders] == [3, 4]
    stamps = [p.stat().st_mtime_ns for p in sorted(Path("out").rglob("state.safetensors"))]
    assert len(stamps) == 6
    assert compare(*arguments) == 0, "a second call trains nothing"
    assert stamps == [p.stat().st_mtime_ns for p in sorted(Path("out").rglob("state.safetensors"))]
    assert compare(*RELU, "--seed=4", "--meta.iterations=2", "--output=alone") == 0
    for name, (alone,) in reported[2].items():
        assert torch.equal(weights(alone.inner), weights(trained[name][1].inner)), "a seed does not know of the others"


def test_a_run_can_be_resumed_by_meta_train(reported) -> None:
    assert compare(*RELU, "--controls", "balance-every") == 0
    recorded = yaml.safe_load(Path("out/balance-every/training.yaml").read_text())
    assert not {"controls", "seeds", "evaluation"} & recorded.keys()
    assert main(["meta-train", "--config=out/teleport/training.yaml", "--output=again"]) == 0
    assert torch.equal(weights(load_checkpoint("again/last")), weights(load_checkpoint("out/teleport/last")))


def test_an_interrupted_comparison_goes_on(reported, monkeypatch, capsys) -> None:
    original, calls = side_by_side.train, []

    def interrupted(parser: Any, config: Any, folder: Path, *rest: Any) -> Any:
        calls.append(str(folder))
        result = original(parser, config, folder, *rest)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return result if len(calls) < 2 else replace(result, finished=False)

    monkeypatch.setattr(side_by_side, "train", interrupted)
    assert compare(*RELU, "--seeds=2") == compare_command.INTERRUPTED
    assert calls == ["out/teleport/seed-0", "out/no-teleport/seed-0"]
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not reported


def test_impossible_settings_are_refused_before_any_time_is_spent(capsys) -> None:
    assert compare(*RELU, "--seeds=0") == 2
    assert "seeds must be a whole number of at least 1, got 0" in capsys.readouterr().err
    assert not Path("out").exists()
