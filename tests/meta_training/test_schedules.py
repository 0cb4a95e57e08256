"""Horizons, meta-batches in flight, phases, averages and relative scores."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from metatele.tasks import GaussianMixture, TeacherStudent
from rich.console import Console

from metatele import (
    ConfigError,
    CoordinateUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    NeuronTeleport,
    UnrollSettings,
    ValidationSettings,
    load_checkpoint,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training import Phase, ProgressBar
from metatele.meta_training.budget import budget_of
from metatele.meta_training.meta_loss import trajectory_scores
from metatele.meta_training.stages import stages_of
from metatele.meta_training.trainer import Iteration, MetaTrainer
from metatele.support.ranks import Ranks
from metatele.tuning import tune
from metatele.unroll import Unroll
from metatele.update import HandDesigned

FAMILY = TeacherStudent(3, 4, 2, rows=8)


def pair() -> InnerOptimizer:
    return InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))


def test_horizons_are_log_uniform_and_their_longest_grows() -> None:
    meta = MetaSettings(4000)
    (plain,) = stages_of(UnrollSettings((20, 2000)), meta)
    drawn = torch.tensor([plain.horizon(i, 0, i) for i in range(4000)]).double()
    assert int(drawn.min()) >= 20
    assert int(drawn.max()) <= 2000
    logs = (drawn.log() - math.log(20)) / math.log(100)  # uniform on [0, 1]
    assert float(logs.mean()) == pytest.approx(0.5, abs=4 * 12**-0.5 / 4000**0.5)
    assert float(logs.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert plain.mean_horizon(1) == pytest.approx(float(drawn.mean()), rel=0.05)
    assert [plain.horizon(i, 0, i) for i in range(9)] != [plain.horizon(i, 1, i) for i in range(9)]
    (grown,) = stages_of(UnrollSettings((20, 2000), curriculum=1000), meta)
    assert max(grown.horizon(i, 0, i) for i in range(10)) < 25
    assert 150 < max(grown.horizon(i, 0, i) for i in range(400, 500)) <= 200
    assert [grown.horizon(i, 0, i) for i in range(1000, 1050)] == [plain.horizon(i, 0, i) for i in range(1000, 1050)]
    mean = sum(grown.horizon(i, 0, i) for i in range(1000)) / 1000
    assert grown.mean_horizon(1000) == pytest.approx(mean, rel=0.1)


def flown(unroll: UnrollSettings, meta: MetaSettings, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(meta-batch, first step, length) of every window."""
    seen, advance = [], MetaTrainer.advance

    def noted(trainer: MetaTrainer, flight: Any) -> None:
        seen.append((flight.number, flight.position.step, flight.length))
        advance(trainer, flight)

    monkeypatch.setattr(MetaTrainer, "advance", noted)
    meta_train(InnerOptimizer(GlobalStepSize(3)), FAMILY, unroll, meta, ValidationSettings(2, 100))
    return seen


def test_meta_batches_in_flight_take_turns_at_different_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = flown(UnrollSettings(12, 3, in_flight=3), MetaSettings(6, 2), monkeypatch)
    lengths = {n: sum(length for m, _, length in seen if m == n) for n in range(6)}
    assert lengths == {0: 4, 1: 8, 2: 12, 3: 12, 4: 12, 5: 12}  # the first ones are shorter
    assert [n for n, *_ in seen[:6]] == [0, 1, 2, 0, 1, 2]
    together = {n: step for n, step, _ in seen[9:12]}
    assert len(set(together.values())) == 3


def test_windows_may_begin_anywhere_and_cover_the_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = flown(UnrollSettings(20, 6, random_start=True), MetaSettings(12, 2), monkeypatch)
    firsts = set()
    for number in range(12):
        mine = [(step, length) for n, step, length in seen if n == number]
        firsts.add(mine[0][1])
        assert [step for step, _ in mine] == [sum(length for _, length in mine[:k]) for k in range(len(mine))]
        assert sum(length for _, length in mine) == 20
        assert all(length == 6 for _, length in mine[1:-1])
    assert len(firsts) > 3


PHASES = [
    Phase(3, "update", lr=1e-2),
    Phase(4, "teleport", estimator="pes", steps=(6, 9), window=3, lr=3e-2, in_flight=2),
    Phase(2, loss="end"),
]


def test_phases_train_what_they_say_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, advance = [], MetaTrainer.advance

    def noted(trainer: MetaTrainer, flight: Any) -> None:
        before = {k: p.clone() for k, p in trainer.inner.state_dict().items()}
        advance(trainer, flight)
        moved = {k.split(".")[0] for k, p in trainer.inner.state_dict().items() if not torch.equal(p, before[k])}
        lrs = tuple(group["lr"] for group in trainer.meta_optimizer.adam.param_groups)
        seen.append((flight.number, type(trainer.estimator).__name__, flight.horizon, moved, lrs))

    monkeypatch.setattr(MetaTrainer, "advance", noted)
    inner = pair()
    meta = MetaSettings(999, 4, lr=1e-3, teleport_lr=2e-3, schedule="constant", phases=PHASES)
    done = meta_train(inner, FAMILY, UnrollSettings(5, 5), meta, ValidationSettings(2, 3), seed=1)
    assert meta.iterations == len(done.history) == 9
    assert done.finished
    first, second, third = ([s for s in seen if s[0] in numbers] for numbers in (range(3), range(3, 7), (7, 8)))
    assert {s[1] for s in first} == {s[1] for s in third} == {"Backpropagation"}
    assert {s[1] for s in second} == {"EvolutionStrategy"}
    assert [s[3] for s in first] == [{"update"}] * 3
    assert all(s[3] == {"teleport"} for s in second)
    assert all(s[3] == {"update", "teleport"} for s in third)
    assert {s[4] for s in first} == {(1e-2,)}
    assert {s[4] for s in second} == {(2e-3,)}
    assert {s[4] for s in third} == {(1e-3, 2e-3)}
    assert {s[2] for s in first} == {5}
    assert {s[2] for s in second} <= {3, 4, 5, 6, 7, 8, 9}
    assert all(p.requires_grad for p in inner.parameters())


def test_a_run_with_phases_is_gone_on_with_bit_by_bit(tmp_path: Path) -> None:
    def run(folder: str, stop: Callable[[], bool] = lambda: False, resume: bool = False) -> list[Any]:
        inner, meta = pair(), MetaSettings(tasks=4, lr=1e-3, phases=PHASES, average=0.9)
        settings = UnrollSettings(5, 5), meta, ValidationSettings(2, 2, ["SGD"])
        done = meta_train(inner, FAMILY, *settings, 1, tmp_path / folder, resume=resume, stop=stop)
        return [*([*i][:-1] for i in done.history), *inner.parameters(), *done.optimizer.parameters()]

    whole = run("whole")
    for k in (2, 3, 4, 7):
        asked = iter(range(1, 100))
        run(f"part {k}", stop=lambda: next(asked) == k)  # noqa: B023 - called before k changes
        for a, b in zip(whole, run(f"part {k}", resume=True), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_average_is_what_is_validated_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    courses, advance = [], MetaTrainer.advance

    def noted(trainer: MetaTrainer, flight: Any) -> None:
        advance(trainer, flight)
        courses.append({k: p.clone() for k, p in trainer.inner.state_dict().items()})

    monkeypatch.setattr(MetaTrainer, "advance", noted)
    meta = MetaSettings(3, 4, lr=1e-2, average=0.75, schedule="constant")
    inner = pair()
    done = meta_train(inner, FAMILY, UnrollSettings(6, 3), meta, ValidationSettings(2, 3), output=tmp_path)
    expected = courses[0]
    for course in courses[1:]:
        expected = {k: 0.75 * e + 0.25 * course[k] for k, e in expected.items()}
    for found in (done.optimizer, load_checkpoint(tmp_path / "last"), load_checkpoint(tmp_path / "best")):
        for k, p in found.state_dict().items():
            torch.testing.assert_close(p, expected[k])
    assert not torch.equal(next(iter(inner.parameters())), next(iter(done.optimizer.parameters())))
    trainer = MetaTrainer(done.optimizer, [FAMILY], UnrollSettings(6, 3), MetaSettings(3, 4), ValidationSettings(2, 3))
    assert trainer.validate()[0] == pytest.approx(done.history[-1].validation)


@pytest.mark.parametrize("loss", ["log", "sum", "end"])
def test_a_relative_score_is_the_geometric_mean_over_the_best_baselines(loss: Any) -> None:
    families = [TeacherStudent(3, 4, 2, rows=8), GaussianMixture(2, rows=20, hidden=[4])]
    settings = UnrollSettings(6, 3), MetaSettings(1, 4, loss, lr=1e-9)
    inner = InnerOptimizer(GlobalStepSize(3))
    inner.initialise(0)
    trainer = MetaTrainer(inner, families, *settings, ValidationSettings(4, 1, ["SGD", "Adam"]))
    trainer.enter()
    trainer.tests.refer()
    ratios = []
    for family, reference in zip(families, trainer.tests.references, strict=True):
        # However few are validated on, a step size is tuned on enough not to diverge on others.
        train = sample_meta_batch(family, "train", range(32)).to(torch.float32)
        held = sample_meta_batch(family, "validation", range(4)).to(torch.float32)

        def score(one: InnerOptimizer, held: MetaBatch = held) -> float:
            play = Unroll(one, held, 6)
            window = play.window(play.start(), 6, differentiable=False)
            return float(trajectory_scores(window, held, MetaSettings(loss=loss)).mean())

        found = [tune(rule, train, 6) for rule in ("SGD", "Adam")]
        best = [
            score(InnerOptimizer(HandDesigned(r, f.lr, f.schedule, 6)))
            for r, f in zip(("SGD", "Adam"), found, strict=True)
        ]
        assert reference == pytest.approx(min(best))
        own = score(inner)
        ratios.append(math.log(own / min(best)) if loss == "sum" else own - min(best))
    assert trainer.validate()[0] == pytest.approx(sum(ratios) / 2)


def test_diverging_costs_a_learned_optimizer_what_it_costs_a_baseline() -> None:
    """Both are scored by one function; here on a trajectory of which a task diverges."""
    family = TeacherStudent(3, 4, 2, rows=8, spread=3)
    inner = InnerOptimizer(GradientDescent(0.8, learn=True))
    trainer = MetaTrainer(inner, [family], UnrollSettings(8, 4), MetaSettings(1, 8), ValidationSettings(8, 1))
    trainer.enter()
    score, diverged = trainer.validate()
    assert 0 < diverged < 8
    again, _ = trainer.tests._played(InnerOptimizer(HandDesigned("SGD", 0.8)), trainer.tests.batches[0])
    assert score == pytest.approx(again)


@pytest.mark.parametrize(
    ("baselines", "said"),
    [([], "must be a list of hand-designed updates"), (["LBFGS"], "validation.baselines must be one of SGD")],
)
def test_baselines_that_cannot_be_compared_with(baselines: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ValidationSettings(2, 1, baselines)


def test_budgets_count_what_is_played() -> None:
    unroll, meta = UnrollSettings(10, 5), MetaSettings(8, 4)

    def spent(unroll: UnrollSettings, meta: MetaSettings, done: float = math.inf) -> tuple[int, int]:
        budget = budget_of([FAMILY], unroll, meta, 0, done)
        return budget.tasks, budget.steps

    assert spent(unroll, meta) == (32, 10)
    assert spent(unroll, meta, 3) == (12, 10)
    assert spent(replace(unroll, second_order=False), replace(meta, estimator="pes")) == (64, 10)
    assert spent(replace(unroll, second_order=False), replace(meta, estimator="es")) == (96, 10)
    assert spent(replace(unroll, steps=(10, 1000)), meta) == (32, round(990 / math.log(100)))
    phases = [Phase(2), Phase(6, estimator="pes", steps=100)]
    assert spent(unroll, replace(meta, phases=phases)) == (8 + 48, round((8 * 10 + 48 * 100) / 56))
    assert spent(unroll, replace(meta, phases=phases), 2) == (8, 10)


def test_an_optimizer_can_learn_again_after_a_phase_was_stopped() -> None:
    def stop() -> bool:
        raise KeyboardInterrupt

    inner, meta = pair(), MetaSettings(tasks=2, phases=[Phase(2, "update")], average=0.9)
    with pytest.raises(KeyboardInterrupt):
        meta_train(inner, FAMILY, UnrollSettings(2, 2), meta, ValidationSettings(2), stop=stop)
    assert all(p.requires_grad for p in inner.parameters())
    done = meta_train(inner, FAMILY, UnrollSettings(2, 2), meta, ValidationSettings(2))
    assert all(p.requires_grad for p in done.optimizer.parameters())


def test_later_phases_are_checked_at_the_start() -> None:
    meta = MetaSettings(tasks=4, phases=[Phase(1), Phase(1, estimator="pes", pairs=1)])
    with pytest.raises(ConfigError, match=r"meta\.pairs is 1, fewer than the 2 processes"):
        MetaTrainer(pair(), [FAMILY], UnrollSettings(2, 2), meta, ValidationSettings(2), ranks=Ranks(0, 2))


def test_a_longer_run_is_staggered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = InnerOptimizer(GlobalStepSize(3))
    unroll, validation = UnrollSettings(12, 3, in_flight=3), ValidationSettings(2, 100)
    meta_train(inner, FAMILY, unroll, MetaSettings(4, 2), validation, output=tmp_path)
    seen, advance = [], MetaTrainer.advance

    def noted(trainer: MetaTrainer, flight: Any) -> None:
        seen.append((flight.number, flight.horizon))
        advance(trainer, flight)

    monkeypatch.setattr(MetaTrainer, "advance", noted)
    asked = iter((False, True))
    again = {"output": tmp_path, "resume": True}
    meta_train(inner, FAMILY, unroll, MetaSettings(10, 2), validation, stop=lambda: next(asked), **again)
    with pytest.raises(
        ConfigError, match=r"meta\.iterations is 7, but meta-batch 8 has been begun; set it to 8 or more"
    ):
        meta_train(inner, FAMILY, unroll, MetaSettings(7, 2), validation, **again)
    meta_train(inner, FAMILY, unroll, MetaSettings(10, 2), validation, **again)
    assert dict(seen) == {4: 4, 5: 8, 6: 12, 7: 12, 8: 12, 9: 12}


def test_losses_of_another_kind_are_shown_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=200)
    bar = ProgressBar("x", log_loss=False, log_score=True, console=console)
    bar.start(0, 1)
    for meta_loss in (1e30, math.log(2)):
        bar.update(Iteration(1, meta_loss, 0.0, 0, 0, math.log(3), 0, 0.1))
    assert "meta-loss 1e+30, validation loss 3" in console.file.getvalue()  # type: ignore[attr-defined]
