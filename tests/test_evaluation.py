"""The evaluator: contestants, tuning, statistics, results and figures."""

import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from metatele.tasks import GaussianMixture, TeacherStudent
from rich.console import Console
from torch import nn

import metatele.evaluation.evaluator as evaluator
from metatele import (
    Balance,
    CheckpointError,
    ConfigError,
    CoordinateUpdate,
    DenseUpdate,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    Outcome,
    OutputError,
    RandomTeleport,
    SymmetryError,
    TaskFamily,
    Unroll,
    Update,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation, evaluate, load_results, tune
from metatele.evaluation.contestant import from_checkpoints, reference_of, with_controls
from metatele.evaluation.figures import draw_figures
from metatele.evaluation.results import plain
from metatele.evaluation.run import clock, play
from metatele.evaluation.statistics import compare, mean_interval, summarise
from metatele.evaluation.table import number
from metatele.params import map_params
from metatele.point import Point, State

FAMILY = TeacherStudent(4, 5, 2, rows=12, spread=10)


def learned(seed: int, teleport: bool) -> InnerOptimizer:
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=4) if teleport else None)
    inner.initialise(seed)
    return inner


def gd(lr: float) -> InnerOptimizer:
    return InnerOptimizer(GradientDescent(lr))


def quick(checkpoints, family=FAMILY, **settings) -> Evaluation:
    return evaluate(
        checkpoints,
        family,
        **{"tasks": 3, "steps": 4, "tuning_tasks": 2, "timing_repeats": 1, "baselines": False} | settings,
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Evaluation, object]:
    """One evaluation with everything in it, and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    spread = TeacherStudent(spread=10)
    inners = {"tele": learned(1, True), "plain": learned(2, False)}
    return evaluate(inners, spread, tasks=6, steps=12, tuning_tasks=3, timing_repeats=1, output=folder), folder


class Noise(TaskFamily):
    """y = 0 with the loss w^2 / 2 + shift, whose curves are known: w <- (1 - lr) w."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def network(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator):
        return torch.ones(1, 1), torch.zeros(1, 1)

    def loss(self, prediction, target):
        return (prediction - target).square().sum() / 2 + self.shift

    def initialise(self, network, generator):
        network.weight.data.uniform_(1, 2, generator=generator)


class Explode(Update):
    """Gradient descent that multiplies the weights of the tasks with a large loss by 1e30 at step 2."""

    def start(self, params):
        return State()

    def propose(self, point: Point, state: State):
        step = map_params(lambda g: -0.1 * g, point.gradient)
        if point.step == 2:
            step = map_params(lambda s, p: torch.where(p.abs() > 1.1, 1e30 * p, s), step, point.params)
        return step, state


# --- contestants ---------------------------------------------------------------------------------


def test_controls_and_their_order(full):
    names = [e.name for e in full[0].entries]
    assert names == ["tele", "tele, teleports off", "plain", "plain + balance", "GD", "momentum", "Adam"]
    kinds = [e.contestant.kind for e in full[0].entries]
    assert kinds == ["checkpoint", "control", "checkpoint", "control", "baseline", "baseline", "baseline"]
    assert isinstance(full[0]["plain + balance"].contestant.inner.teleport, Balance)
    assert "not meta-trained" in full[0]["plain + balance"].contestant.note


def test_control_uses_the_same_update_and_the_checkpoint_is_left_alone():
    original = learned(1, True)
    before = copy.deepcopy(original.state_dict())
    own = from_checkpoints({"a": original}, "cpu")
    first, off, balance = with_controls(own, FAMILY.network())
    assert first.inner.update is off.inner.update is balance.inner.update
    quick({"a": original})
    assert all(p.requires_grad for p in original.parameters())
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())


def test_no_balance_control_without_scaling_symmetry():
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    assert [c.name for c in with_controls(from_checkpoints({"a": gd(0.1)}, "cpu"), network)] == ["a"]


def test_reference_is_the_first_checkpoint_without_teleports():
    def reference(inners, wanted=None):
        return reference_of(with_controls(from_checkpoints(inners, "cpu"), FAMILY.network()), wanted)

    assert reference({"t": learned(1, True), "p": gd(0.1), "q": gd(0.2)}) == "p"
    assert reference({"t": learned(1, True)}) == "t, teleports off"
    assert reference({"t": learned(1, True)}, "t + balance") == "t + balance"
    with pytest.raises(ConfigError, match=r"'x' is no contestant; use one of 't'"):
        reference({"t": learned(1, True)}, "x")


# --- runs ----------------------------------------------------------------------------------------


def test_curves_of_a_known_problem():
    batch = sample_meta_batch(Noise(), "test", range(3))
    run = play(gd(0.1), batch, 5)
    w = batch.params["weight"].flatten().numpy() * 0.9 ** np.arange(6)[:, None]
    np.testing.assert_allclose(run.inner, w**2 / 2, rtol=1e-5)
    np.testing.assert_allclose(run.gradient_norm, w, rtol=1e-5)
    assert run.test is None
    assert run.outcomes == [Outcome.FINISHED] * 3


@pytest.mark.parametrize("batch_size", [None, 8])
def test_curves_agree_with_one_long_window(batch_size):
    batch = sample_meta_batch(GaussianMixture(rows=32, batch_size=batch_size), "test", range(3))
    inner = learned(3, True)
    unroll = Unroll(inner, batch, 5)
    window = unroll.window(unroll.start(), 5, differentiable=False)
    run = play(inner, batch, 5)
    torch.testing.assert_close(torch.tensor(run.inner[-1]), unroll.evaluate(window.end.params, "inner"))
    torch.testing.assert_close(torch.tensor(run.test[-1]), unroll.evaluate(window.end.params, "test"))
    if batch_size is None:
        torch.testing.assert_close(torch.tensor(run.inner[:-1]), window.inner_losses)
        torch.testing.assert_close(torch.tensor(run.gradient_norm[:-1]), window.gradient_norms)


def test_divergence_is_reported_and_the_others_finish():
    family = Noise()
    batch = sample_meta_batch(family, "test", range(8))
    large = batch.params["weight"].flatten() * 0.9**2 > 1.1
    assert 0 < large.sum() < 8, "the example needs both kinds of tasks"
    result = quick({"bad": InnerOptimizer(Explode()), "good": gd(0.1)}, family, tasks=8, steps=5)
    run = result["bad"].run
    assert (run.finished == ~large.numpy()).all()
    assert (run.stopped_at == np.where(large, 2, 5)).all()
    assert np.isnan(run.inner[3:, large.numpy()]).all()
    assert np.isfinite(run.inner[:3]).all()
    np.testing.assert_allclose(run.inner[:, run.finished], result["good"].run.inner[:, run.finished], rtol=1e-5)
    summary, paired = result.statistics()["bad"][5]
    assert summary.tasks == paired.tasks == int((~large).sum())
    assert math.isfinite(summary.mean)
    assert f"{int(large.sum())} of 8 diverged" in shown(result, 100)


def test_clock_counts_up():
    seconds = clock(gd(0.1), sample_meta_batch(FAMILY, "test", range(2)), 23)
    assert seconds.shape == (24,)
    assert seconds[0] == 0
    assert (np.diff(seconds) > 0).all()


# --- tuning --------------------------------------------------------------------------------------


def test_tuning_finds_the_best_learning_rate():
    tuning = tune(GradientDescent, sample_meta_batch(Noise(1.0), "train", range(3)), 1)
    assert tuning.lr == 1.0  # w <- (1 - lr) w
    assert tuning.scores[1.0] == pytest.approx(1.0)
    assert min(tuning.scores.values()) == tuning.scores[tuning.lr]


@pytest.mark.parametrize("curvature", [1e9, 1e-4])
def test_grid_grows_at_its_edges(curvature):
    class Scaled(Noise):
        def loss(self, prediction, target):
            return curvature * (super().loss(prediction, target) + 1.0)

    tuning = tune(GradientDescent, sample_meta_batch(Scaled(), "train", range(2)), 3)
    assert tuning.lr == pytest.approx(1 / curvature, rel=1e-6)
    assert min(tuning.scores) < tuning.lr < max(tuning.scores)


def test_diverged_tasks_rule_a_learning_rate_out():
    tuning = tune(GradientDescent, sample_meta_batch(Noise(), "train", range(2)), 20)
    assert tuning.diverged[10.0] == 2
    assert tuning.scores[10.0] == math.inf
    assert tuning.diverged[tuning.lr] == 0


def test_tuning_when_everything_diverges():
    class Broken(GradientDescent):
        def propose(self, point, state):
            return map_params(lambda g: g * math.nan, point.gradient), state

    tuning = tune(Broken, sample_meta_batch(Noise(), "train", range(2)), 2)
    assert set(tuning.diverged.values()) == {2}
    assert tuning.lr == min(tuning.scores)


def test_tuner_gets_train_tasks_only(monkeypatch):
    seen = []

    def spy(make, batch, steps):
        seen.append(batch)
        return tune(make, batch, steps)

    monkeypatch.setattr(evaluator, "tune", spy)
    result = quick({}, baselines=True, tasks=3, tuning_tasks=2, steps=2)
    train = sample_meta_batch(FAMILY, "train", range(2)).seeds.tolist()
    assert [b.seeds.tolist() for b in seen] == [train] * 3
    assert not set(train) & set(result.task_seeds)


def test_tuning_does_not_depend_on_the_test_tasks():
    lrs = [[e.contestant.tuning for e in quick({}, baselines=True, tasks=tasks, steps=2).entries] for tasks in (1, 4)]
    assert lrs[0] == lrs[1]


# --- statistics ----------------------------------------------------------------------------------


def test_summary_by_hand():
    s = summarise([1.0, 4.0, 16.0, np.nan], [True, True, True, False])
    assert (s.mean, s.median, s.tasks) == (7.0, 4.0, 3)
    assert s.geometric_mean == pytest.approx(4.0)
    none = summarise([np.nan], [False])
    assert none.tasks == 0
    assert math.isnan(none.mean)
    assert math.isnan(summarise([1.0, -1.0], [True, True]).geometric_mean)


def test_comparison_by_hand():
    p = compare([2.0, 8.0, 1.0], [1.0, 2.0, 9.0], [True, True, False], np.random.default_rng(0))
    assert p.tasks == 2
    assert p.difference.value == pytest.approx(3.5)
    assert p.change.value == pytest.approx(100 * (math.sqrt(8) - 1))
    # Two values: a resample's mean is 1, 3.5 or 6, the ends with probability 1/4 each.
    assert (p.difference.low, p.difference.high) == (1.0, 6.0)


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(1.0, 2.0, (200, 40))
    intervals = [mean_interval(row, np.random.default_rng(0)) for row in draws]
    assert 0.88 <= np.mean([i.low <= 1.0 <= i.high for i in intervals]) <= 0.99


def test_one_task_has_a_difference_but_no_interval():
    p = compare([2.0], [1.0], [True], np.random.default_rng(0))
    assert (p.difference.value, p.tasks) == (1.0, 1)
    assert p.change.value == pytest.approx(100)
    assert math.isnan(p.difference.low)


def test_identical_contestants_differ_by_exactly_zero():
    inner = learned(1, False)
    _, paired = quick({"a": inner, "b": inner}, tasks=5).statistics()["b"][4]
    for interval in (paired.difference, paired.change):
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_two_percent_better_on_every_task_is_seen():
    rng = np.random.default_rng(0)
    reference = rng.lognormal(0, 1, 64)
    p = compare(0.98 * reference * rng.lognormal(0, 0.005, 64), reference, np.ones(64), rng)
    assert p.change.low < p.change.value < p.change.high < 0
    assert p.change.value == pytest.approx(-2, abs=0.2)
    assert p.difference.high < 0


# --- results, figures, table ---------------------------------------------------------------------


def test_results_are_strict_json_and_come_back(full):
    result, folder = full
    text = (folder / "results.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    stored = load_results(folder / "results.json")
    assert stored["reference"] == "plain"
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["task_seeds"] == sample_meta_batch(TeacherStudent(spread=10), "test", range(6)).seeds.tolist()
    assert [c["name"] for c in stored["contestants"]] == [e.name for e in result.entries]
    for entry, c in zip(result.entries, stored["contestants"], strict=True):
        curve = np.array(c["curves"]["inner"], float).astype(np.float32)
        np.testing.assert_array_equal(curve, entry.run.inner)
        assert len(c["seconds"]) == 13
        assert c["outcomes"] == ["FINISHED"] * 6
    adam = stored["contestants"][-1]
    assert str(adam["tuning"]["lr"]) in adam["tuning"]["scores"]
    at_end = stored["statistics"]["inner"]["tele"]["12"]
    assert at_end["mean"] == pytest.approx(result["tele"].run.inner[12].mean(), rel=1e-6)
    assert set(at_end["against_reference"]) == {"difference", "change", "tasks"}


def test_diverged_entries_are_null(tmp_path):
    quick({"bad": InnerOptimizer(Explode())}, Noise(), tasks=8, steps=5, output=tmp_path)
    bad = load_results(tmp_path / "results.json")["contestants"][0]
    assert "DIVERGED" in bad["outcomes"]
    assert None in bad["curves"]["inner"][-1]
    assert None not in bad["curves"]["inner"][0]


def test_figures_are_there_and_show_something(full):
    from matplotlib.image import imread

    for name in ("loss_against_step", "loss_against_time", "gradient_against_loss"):
        assert (full[1] / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        picture = imread(full[1] / f"{name}.png")[..., :3]
        assert min(picture.shape[:2]) > 500
        assert len(np.unique((picture.reshape(-1, 3) * 255).astype(int), axis=0)) > 50


@pytest.mark.parametrize("family", [Noise(-3.0), GaussianMixture(rows=32)])
def test_figures_of_negative_losses_of_one_task_and_of_test_rows(family, tmp_path):
    result = quick({"a": gd(0.1)}, family, tasks=1, steps=1, output=tmp_path)
    assert len(list(tmp_path.iterdir())) == 7
    assert result.part == ("test" if isinstance(family, GaussianMixture) else "inner")


def test_figures_when_every_task_diverges(tmp_path):
    result = quick({"a": gd(1e30)}, Noise(), tasks=2, output=tmp_path)
    assert result["a"].run.diverged == 2
    assert "2 of 2 diverged" in shown(result, 100)


def test_odd_names_stand_in_the_legend():
    figures = draw_figures(quick({"_a": gd(0.1), "$x": gd(0.1), "[b]": gd(0.1)}).entries, "inner", "odd")
    (legend,) = figures["loss_against_step"].legends
    assert [t.get_text() for t in legend.get_texts()] == [" _a", " _a + balance", r"\$x", "[b]"]


def shown(result: Evaluation, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(result.table())
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_holds_every_column_at_usual_widths(full, width):
    text = shown(full[0], width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("contestant", "mean", "@10", "@12", "median", "difference", "change", "step", "Adam", "ref."):
        assert word in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1234.5, "1234"), (1.2345e-5, "1.23e-5"), (-2e7, "-2.00e7"), (math.nan, "-")],
)
def test_numbers_are_short(x, text):
    assert number(x) == text


# --- the whole -----------------------------------------------------------------------------------


def test_same_call_same_numbers_and_torch_s_own_stream_stays():
    def numbers():
        inner = InnerOptimizer(CoordinateUpdate(hidden=3), RandomTeleport())
        inner.initialise(1)
        before = torch.random.get_rng_state()
        result = quick({"r": inner}, baselines=True).results()
        assert torch.equal(torch.random.get_rng_state(), before)
        for c in result["contestants"]:
            del c["seconds"]
        del result["elapsed_seconds"]
        return json.dumps(plain(result))

    assert numbers() == numbers()


def test_seed_changes_the_tasks():
    assert not set(quick({"a": gd(0.1)}).task_seeds) & set(quick({"a": gd(0.1)}, seed=1).task_seeds)


def test_progress_counts_to_its_end():
    calls = []
    quick({"a": gd(0.1)}, baselines=True, progress=lambda *call: calls.append(call), steps=1)
    total = calls[0][2]
    assert [done for _, done, _ in calls] == list(range(total + 1))
    assert calls[0][0] == "tuning GD"
    assert calls[-1][0] == "done"


def test_size_free_checkpoint_runs_on_other_widths_and_depths():
    wide = TeacherStudent(6, 9, 3, depth=3, rows=10)
    assert quick({"a": learned(1, True)}, wide)["a"].run.inner.shape == (5, 3)


def test_dense_checkpoint_on_another_size_is_a_clear_error_before_any_run(monkeypatch):
    dense = InnerOptimizer(DenseUpdate(hidden=4))
    batch = sample_meta_batch(FAMILY, "train", range(1))
    dense.bind(batch.network, batch.params)
    monkeypatch.setattr(evaluator, "play", lambda *_: pytest.fail("ran"))
    with pytest.raises(CheckpointError, match=r"^my dense: this dense optimizer was made for .* size-free"):
        quick({"ok": gd(0.1), "my dense": dense}, TeacherStudent(4, 6, 2, rows=12))


def test_teleport_without_a_symmetry_is_a_clear_error():
    with pytest.raises(SymmetryError, match=r"^tele: no symmetry of kind 'scaling'"):
        quick({"tele": learned(1, True)}, Noise())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "tasks must be a whole number of at least 1, got 0"),
        ({"steps": -2}, "steps must be a whole number of at least 1, got -2"),
        ({"tuning_tasks": 0}, "tuning_tasks must be a whole number of at least 1, got 0"),
        ({"timing_repeats": 0}, "timing_repeats must be a whole number of at least 1, got 0"),
        ({"report_steps": [5]}, r"a report step must be in \[0, 4\], got 5"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used"),
        ({"reference": "x"}, "'x' is no contestant"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        quick({"a": gd(0.1)}, **settings)


def test_names_must_differ_and_somebody_must_run():
    with pytest.raises(ConfigError, match="two contestants would be called 'GD'"):
        quick({"GD": gd(0.1)}, baselines=True)
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        quick({})


def test_unwritable_folder_is_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluator, "sample_meta_batch", lambda *_: pytest.fail("worked"))
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file/x"):
        quick({"a": gd(0.1)}, output=tmp_path / "file" / "x")


def test_full_disk_is_one_clear_error_and_keeps_the_old_results(tmp_path, monkeypatch):
    result = quick({"a": gd(0.1)}, output=tmp_path)
    old = (tmp_path / "results.json").read_text()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metatele.files.os.replace", full_disk)
    with pytest.raises(OutputError, match=r"cannot write .*results\.json: No space left on device"):
        result.save(tmp_path)
    assert (tmp_path / "results.json").read_text() == old
    assert len(list(tmp_path.iterdir())) == 7  # no temporary file stays


def test_reading_what_is_no_result(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(ConfigError, match="cannot read the results"):
        load_results(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot read the results"):
        load_results(path)
    path.write_text('{"format": 99}')
    with pytest.raises(ConfigError, match=r"not a results\.json of format 1 \(its format: 99\)"):
        load_results(path)
