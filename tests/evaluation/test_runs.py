"""Runs: curves, outcomes, and chunks that join to one run."""

import numpy as np
import pytest
import torch
from metatele.tasks import GaussianMixture, TeacherStudent

from metatele import (
    ConfigError,
    InnerOptimizer,
    LevelSetTeleport,
    Momentum,
    Outcome,
    RandomTeleport,
    Unroll,
    sample_meta_batch,
)
from metatele.evaluation import Run, Settings
from metatele.evaluation.play.run import play
from metatele.evaluation.stages import choose_chunk
from tests.evaluation.conftest import FAMILY, TELEPORTS, Explode, Noise, gd, learned, quick, shown


def test_curves_of_a_known_problem():
    batch = sample_meta_batch(Noise(), "test", range(3))
    run = play(gd(), batch, range(6))
    w = batch.params["weight"].flatten().numpy() * 0.9 ** np.arange(6)[:, None]
    np.testing.assert_allclose(run.losses["inner"], w**2 / 2, rtol=1e-5)
    np.testing.assert_allclose(run.gradient_norm, w, rtol=1e-5)
    assert list(run.losses) == ["inner"]
    assert run.accuracies == {}
    assert run.moves is None
    assert run.outcomes == [Outcome.FINISHED] * 3


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("order", ["before", "after"])
def test_curves_agree_with_one_long_window(batch_size, order):
    batch = sample_meta_batch(GaussianMixture(rows=32, batch_size=batch_size), "test", range(3))
    inner = learned(3, True, order)
    unroll = Unroll(inner, batch, 5)
    window = unroll.window(unroll.start(), 5, differentiable=False)
    run = play(inner, batch, range(6))
    assert list(run.losses) == ["inner", "meta", "test"]
    for part, curve in run.losses.items():
        torch.testing.assert_close(torch.tensor(curve[-1]), unroll.evaluate(window.end.params, part))
    if batch_size is None:
        torch.testing.assert_close(torch.tensor(run.losses["inner"][:-1]), window.inner_losses)
        torch.testing.assert_close(torch.tensor(run.losses["meta"][1:]), window.meta_losses)
        torch.testing.assert_close(torch.tensor(run.gradient_norm[:-1]), window.gradient_norms)
    else:
        assert not np.allclose(run.losses["inner"][:-1], window.inner_losses.numpy()), "the example has minibatches"


def test_accuracies_are_those_of_the_parameters():
    batch = sample_meta_batch(GaussianMixture(rows=64, noise=0.1), "test", range(3))
    run = play(gd(0.5), batch, (0, 20))
    unroll = Unroll(gd(0.5), batch, 20)
    end = unroll.window(unroll.start(), 20, differentiable=False).end.params
    assert list(run.accuracies) == ["inner", "meta", "test"]
    for row, params in ((0, batch.params), (1, end)):
        for part, curve in run.accuracies.items():
            x, y = batch.rows(part)
            for b in range(3):
                own = {k: p[b] for k, p in params.items()}
                predicted = torch.func.functional_call(batch.network, own, (x[b],)).argmax(-1)
                assert curve[row, b] == pytest.approx(float((predicted == y[b]).float().mean()), abs=1e-6)
    assert run.accuracies["inner"][1].mean() > run.accuracies["inner"][0].mean() + 0.1


def test_diverging_on_hard_tasks_makes_no_accuracy_larger():
    """The second task diverges after step 1, the third, which had become worse, too."""
    accuracies = np.array([[0.2, 0.3, 0.5], [0.4, 0.6, 0.1], [0.9, np.nan, np.nan]], np.float32)
    losses = np.where(np.isnan(accuracies), np.nan, 1 - accuracies)
    run = Run(np.arange(3), {"inner": losses}, {"inner": accuracies}, losses, np.array([2, 1, 1]))
    expected = [[0.2, 0.3, 0.5], [0.4, 0.6, 0.1], [0.9, 0.3, 0.1]]
    np.testing.assert_allclose(run.scored_accuracy("inner"), expected, rtol=1e-6)
    np.testing.assert_allclose(run.scored("inner")[2], [0.1, 0.7, 0.9], rtol=1e-6)


def test_a_long_horizon_is_recorded_at_few_steps_with_the_same_values():
    at = Settings(3, 1000, 0, 2, 1, 1, (10, 77, 1000), "none", 3, "cpu").recorded
    assert len(at) < 150
    assert at[:11] == tuple(range(11))
    assert {77, 1000} < set(at)
    assert max(np.diff(at)) <= 8
    batch = sample_meta_batch(Noise(), "test", range(3))
    inner = InnerOptimizer(Momentum(0.001))
    long, short = play(inner, batch, at), play(inner, batch, range(41))
    rows = [list(long.at).index(s) for s in long.at if s <= 40]
    assert len(rows) > 12
    for ours, theirs in ((long.losses["inner"], short.losses["inner"]), (long.gradient_norm, short.gradient_norm)):
        np.testing.assert_array_equal(ours[rows], theirs[long.at[rows]])
    assert long.at[-1] == 1000
    assert long.finished.all()
    w, m, exact = batch.params["weight"].flatten().double().numpy(), 0.0, []
    for _ in range(1001):
        exact.append(w**2 / 2)
        m = 0.9 * m + w
        w = w - 0.001 * m
    np.testing.assert_allclose(long.losses["inner"], np.array(exact)[long.at], rtol=1e-3)


@pytest.mark.parametrize(("steps", "positions"), [(1, 2), (128, 129), (129, None), (100_000, None)])
def test_how_many_steps_are_recorded(steps, positions):
    at = Settings(3, steps, 0, 2, 1, 1, (steps,), "none", 3, "cpu").recorded
    assert (at[0], at[-1]) == (0, steps)
    assert len(at) == positions if positions else len(at) <= 145
    assert list(at) == sorted(set(at))


def test_divergence_is_reported_frozen_and_scored():
    batch = sample_meta_batch(Noise(), "test", range(8))
    large = (batch.params["weight"].flatten() * 0.9**2 > 1.1).numpy()
    assert 0 < large.sum() < 8, "the example needs both kinds of tasks"
    result = quick({"bad": InnerOptimizer(Explode()), "good": gd()}, Noise(), tasks=8, steps=5)
    run, good = result["bad"].runs[0], result["good"].runs[0]
    assert (run.finished == ~large).all()
    assert (run.stopped_at == np.where(large, 2, 5)).all()
    assert run.diverged == result["bad"].diverged == large.sum()
    for curve, theirs in ((run.losses["inner"], good.losses["inner"]), (run.gradient_norm, good.gradient_norm)):
        assert np.isnan(curve[3:, large]).all()
        np.testing.assert_allclose(curve[:3], theirs[:3], rtol=1e-6)
        np.testing.assert_allclose(curve[:, ~large], theirs[:, ~large], rtol=1e-6)
    scored = run.scored("inner")
    np.testing.assert_array_equal(scored[3:, large], np.broadcast_to(run.losses["inner"][0, large], (3, large.sum())))
    np.testing.assert_array_equal(scored[:, ~large], run.losses["inner"][:, ~large])
    assert np.isfinite(result["bad"].losses("inner", 5)).all()
    assert f"{int(large.sum())} of 8 diverged" in shown(result, 100)


def test_scored_takes_the_larger_of_first_and_last_loss():
    nan = np.nan
    losses = {"inner": np.array([[1, 4, 1, nan], [3, 2, 2, 5], [nan, nan, 9, 5]], np.float32)}
    run = Run(np.array([0, 5, 10]), losses, {}, losses["inner"], np.array([5, 5, 10, 10]))
    np.testing.assert_array_equal(run.scored("inner"), [[1, 4, 1, nan], [3, 2, 2, 5], [3, 4, 9, 5]])
    assert run.row(5) == 1
    with pytest.raises(ConfigError, match="nothing was measured at step 7"):
        run.row(7)


def test_losses_of_a_step_that_was_not_recorded_are_not_those_of_another(full):
    with pytest.raises(ConfigError, match="nothing was measured at step 6"):
        full[0]["plain"].summary("test", 6)


def test_everything_diverges_at_once():
    result = quick({"a": gd(1e30, RandomTeleport()), "b": gd(1e30)}, TeacherStudent(4, 5, 2, rows=8), tasks=2)
    run = result["a"].runs[0]
    assert run.diverged == 2
    assert (run.stopped_at == 0).all()
    assert np.isnan(run.losses["inner"][1:]).all()
    np.testing.assert_array_equal(run.scored("inner")[-1], run.losses["inner"][0])
    assert "2 of 2 diverged" in shown(result, 100)
    assert {v.outcome for v in result.verdicts} <= {"not distinguishable", "not decided"}


def joined(inner, family, tasks, chunk, at):
    parts = [sample_meta_batch(family, "test", range(b, min(b + chunk, tasks))) for b in range(0, tasks, chunk)]
    return Run.join([play(inner, part, at) for part in parts])


def assert_same_run(a: Run, b: Run, tolerance: float) -> None:
    assert (a.moves is None) == (b.moves is None)
    pairs = [(a.losses[p], b.losses[p]) for p in b.losses] + [(a.gradient_norm, b.gradient_norm)]
    pairs += [(a.accuracies[p], b.accuracies[p]) for p in b.accuracies]
    if a.moves is not None:
        np.testing.assert_array_equal(a.moves.steps, b.moves.steps)
        pairs += [(getattr(a.moves, n), getattr(b.moves, n)) for n in ("gradient_change", "sizes")]
        np.testing.assert_allclose(a.moves.loss_change, b.moves.loss_change, atol=2e-6)
    np.testing.assert_array_equal(a.stopped_at, b.stopped_at)
    for x, y in pairs:
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TELEPORTS)
def test_chunks_joined_are_one_run(name):
    family = GaussianMixture(3, 2, rows=20, hidden=[4])
    inner = learned(1, TELEPORTS[name]() or False) if name != "level set" else gd(0.1, LevelSetTeleport())
    whole = joined(inner, family, 5, 5, range(5))
    for chunk in (1, 2):
        assert_same_run(joined(inner, family, 5, chunk, range(5)), whole, 1e-5)


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("teleport", [RandomTeleport, LevelSetTeleport])
def test_chunks_that_have_diverged_before_the_first_teleport(teleport, first):
    """Whichever chunk it is, the columns of what the teleports did stay those of their tasks."""
    family = TeacherStudent(4, 5, 2, rows=8)
    batch = sample_meta_batch(family, "test", range(4))
    biggest = batch.params["0.weight"].abs().flatten(1).max(1).values
    bar = float(biggest.sort().values[1:3].mean())
    inner = InnerOptimizer(Explode(2, bar), teleport(first=first, last=None))
    whole = joined(inner, family, 4, 4, range(7))
    assert 0 < whole.diverged < 4, "the example needs both kinds of tasks"
    parts = joined(inner, family, 4, 1, range(7))
    assert_same_run(parts, whole, 1e-4)
    assert parts.moves.loss_change.shape[-1] == 4
    over = parts.moves.steps[:, None] > whole.stopped_at
    np.testing.assert_array_equal(np.isnan(parts.moves.loss_change), over)
    assert over.any()


def test_an_evaluation_does_not_depend_on_its_chunks():
    inners = {"tele": learned(1, True), "plain": learned(2)}
    results = [quick(inners, tasks=4, chunk=chunk) for chunk in (1, 3, None)]
    assert [r.settings.chunk for r in results] == [1, 3, 1024]
    for other in results[:2]:
        assert other.task_seeds == results[2].task_seeds
        for mine, theirs in zip(other.entries, results[2].entries, strict=True):
            assert_same_run(mine.runs[0], theirs.runs[0], 1e-4 if mine.moves else 1e-6)


def test_a_chunk_takes_about_a_gigabyte():
    small = sample_meta_batch(FAMILY, "train", range(1))
    wide = sample_meta_batch(TeacherStudent(500, 2000, 500, rows=8), "train", range(1))
    assert choose_chunk(small) == 1024
    assert choose_chunk(wide) == 1
