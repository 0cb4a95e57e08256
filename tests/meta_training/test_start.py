"""Meta-training that begins with what a checkpoint has learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from metatele.tasks import TeacherStudent

from metatele import (
    CheckpointError,
    ConfigError,
    CoordinateUpdate,
    DenseUpdate,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    TensorUpdate,
    UnrollSettings,
    ValidationSettings,
    load_checkpoint,
    meta_train,
    save_checkpoint,
)
from metatele.cli import main
from metatele.meta_training.budget import budget_of, read_budget
from metatele.meta_training.start import begin_with

FAMILY = TeacherStudent(3, 4, 2, rows=8)
SHORT = {"unroll": UnrollSettings(4, 2), "validation": ValidationSettings(2, 100)}
STILL = MetaSettings(1, 2, lr=1e-30)  # what is learned stays to rounding what it began with


def pair() -> InnerOptimizer:
    return InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    inner = pair()
    inner.initialise(7)
    return str(save_checkpoint(inner, tmp_path / "learned"))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return torch.allclose(flat(one), flat(other), rtol=0, atol=1e-20)


def flat(part: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in part.parameters()])


def test_both_parts_begin_with_it(checkpoint: str) -> None:
    inner, learned = pair(), load_checkpoint(checkpoint)
    meta_train(inner, FAMILY, meta=replace(STILL, start=checkpoint), **SHORT)
    assert same(inner, learned)
    fresh = pair()
    meta_train(fresh, FAMILY, meta=STILL, **SHORT)
    assert not same(fresh, learned)


def test_a_part_that_the_checkpoint_has_not_is_drawn(checkpoint: str) -> None:
    learned = load_checkpoint(checkpoint)
    mixed, drawn = (InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=5)) for _ in range(2))
    meta_train(mixed, FAMILY, meta=replace(STILL, start=checkpoint), **SHORT)
    meta_train(drawn, FAMILY, meta=STILL, **SHORT)
    assert same(mixed.update, learned.update)
    assert same(mixed.teleport, drawn.teleport)


@pytest.mark.parametrize(
    ("update", "unlike"),
    [
        (TensorUpdate(hidden=3), "CoordinateUpdate, not TensorUpdate"),
        (CoordinateUpdate(hidden=4), "CoordinateUpdate with hidden 3, not 4"),
        (GradientDescent(learn=True), "CoordinateUpdate, not GradientDescent"),
    ],
)
def test_a_checkpoint_that_fits_nothing_is_refused(checkpoint: str, update, unlike: str) -> None:
    with pytest.raises(ConfigError, match=rf"^meta\.start: .*learned nothing.*: {unlike}$"):
        meta_train(InnerOptimizer(update), FAMILY, meta=replace(STILL, start=checkpoint), **SHORT)
    with pytest.raises(CheckpointError, match="no checkpoint 'nowhere'"):
        meta_train(pair(), FAMILY, meta=replace(STILL, start="nowhere"), **SHORT)


def test_a_dense_part_begins_with_one_of_its_size(tmp_path: Path) -> None:
    dense, other = (InnerOptimizer(DenseUpdate(hidden=2)) for _ in range(2))
    for inner, seed in ((dense, 1), (other, 2)):
        meta_train(inner, FAMILY, meta=STILL, seed=seed, **SHORT)
    begin_with(other, str(save_checkpoint(dense, tmp_path / "dense")))
    assert torch.equal(flat(other), flat(dense))


def test_a_resumed_run_begins_where_it_was(checkpoint: str, tmp_path: Path) -> None:
    meta = MetaSettings(4, 2, start=checkpoint)
    whole = meta_train(pair(), FAMILY, meta=meta, **SHORT, output=tmp_path / "whole")
    stops = iter([False, True])
    meta_train(pair(), FAMILY, meta=meta, **SHORT, output=tmp_path / "cut", stop=lambda: next(stops))
    cut = meta_train(pair(), FAMILY, meta=meta, **SHORT, output=tmp_path / "cut", resume=True)
    assert torch.equal(flat(cut.optimizer), flat(whole.optimizer))
    with pytest.raises(ConfigError, match=r"meta\.start was"):
        meta_train(pair(), FAMILY, meta=MetaSettings(4, 2), **SHORT, output=tmp_path / "cut", resume=True)


def test_budgets_that_began_otherwise_differ(checkpoint: str) -> None:
    fresh, warm = (budget_of([FAMILY], SHORT["unroll"], replace(STILL, start=s), 0) for s in (None, checkpoint))
    assert fresh.differs_from(warm) == f"began with fresh weights against {checkpoint}"
    assert warm.differs_from(warm) is None


def test_from_the_command_line(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"update": {"class_path": "CoordinateUpdate", "init_args": {"hidden": 3}}, "teleport": "NeuronTeleport"}
    config = {
        "family": {"class_path": "TeacherStudent", "init_args": {"inputs": 3, "hidden": 4, "outputs": 2, "rows": 8}},
        "optimizer": parts,
        "unroll": {"steps": 4, "window": 2},
        "meta": {"iterations": 1, "tasks": 2, "start": checkpoint},
        "validation": {"tasks": 2},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert main(["meta-train", f"--config={tmp_path / 'c.yaml'}", f"--output={tmp_path / 'run'}"]) == 0
    assert f"began with the learned weights of {checkpoint}" in (tmp_path / "run" / "best" / "README.md").read_text()
    budget = read_budget(tmp_path / "run")
    assert budget is not None
    assert budget.start == checkpoint
    capsys.readouterr()
    again = ["meta-train", f"--config={tmp_path / 'c.yaml'}", "--meta.start=quickstart-no-teleport"]
    assert main([*again, f"--output={tmp_path / 'other'}"]) == 2
    assert "has learned nothing that the optimizer could begin with" in capsys.readouterr().err
