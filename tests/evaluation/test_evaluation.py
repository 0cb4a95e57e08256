"""The evaluator: contestants, controls, runs, contestants that fail, results, reproducibility."""

import copy
import dataclasses
import functools
import io
import json
import math
import random
import time
import typing
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatele.tasks import GaussianMixture, TeacherStudent
from rich.console import Console
from torch import nn

import metatele.evaluation.evaluator as evaluator
import metatele.evaluation.stages as stages
from metatele import (
    Balance,
    CheckpointError,
    ConfigError,
    CoordinateUpdate,
    DenseUpdate,
    GradientDescent,
    InnerOptimizer,
    LevelSetTeleport,
    Momentum,
    NeuronTeleport,
    Outcome,
    OutputError,
    RandomTeleport,
    Stay,
    SymmetryError,
    TaskFamily,
    Teleport,
    Unroll,
    Update,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation, Learned, Moves, Run, Settings, Tuning, evaluate
from metatele.evaluation.contestants.contestant import baselines, learned_contestants, reference_of
from metatele.evaluation.contestants.controls import with_controls
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.contestants.tuning import Trial
from metatele.evaluation.play.run import play
from metatele.evaluation.play.timing import clock
from metatele.evaluation.results import plain
from metatele.evaluation.stages import choose_chunk
from metatele.evaluation.table import number
from metatele.meta_training import Budget
from metatele.parts.point import Point, State
from metatele.task.params import map_params
from metatele.teleports import MeanSchedule, OptimisedTeleport, SizedRandom
from metatele.update.hand_designed import Rule

FAMILY = TeacherStudent(4, 5, 2, rows=12, spread=10)
RULES = list(typing.get_args(Rule))


def learned(seed: int, teleport: Teleport | bool = False, order="before") -> InnerOptimizer:
    teleport = NeuronTeleport(hidden=4) if teleport is True else teleport or None
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), teleport, order)
    inner.initialise(seed)
    return inner


def gd(lr: float = 0.1, teleport: Teleport | None = None, **arguments) -> InnerOptimizer:
    return InnerOptimizer(GradientDescent(lr), teleport, **arguments)


def quick(checkpoints, family=FAMILY, **settings) -> Evaluation:
    few = {"tasks": 3, "steps": 4, "tuning_tasks": 2, "timing_repeats": 1, "timing_tasks": 2, "baselines": False}
    return evaluate(checkpoints, family, **few | settings)


def entrants(checkpoints, family=FAMILY, steps=3):
    own = learned_contestants(checkpoints, "cpu")
    return with_controls(own, sample_meta_batch(family, "train", range(2)), steps)


def tuned_at_once(rule, batch, steps, teleport=None, chunk=256):
    """In place of `tune`, which is tested elsewhere and takes its time."""
    return Tuning("cosine", 0.01, 1.0, (Trial("cosine", 0.01, 1.0, 0), Trial("constant", 1.0, math.inf, 2)), 2, steps)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """One evaluation with everything in it, and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    family = GaussianMixture(3, 2, rows=24, hidden=[4], batch_size=5)
    inners = {
        "tele": [learned(1, True), learned(2, True)],
        "plain": Learned(learned(3), Budget(20, 5, (("GaussianMixture", ""),), 3)),
        "bad": InnerOptimizer(Broken("raise", 1)),
        "level": gd(0.1, LevelSetTeleport()),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "tune", tuned_at_once)
        made = evaluate(inners, family, tasks=3, steps=5, tuning_tasks=2, timing_repeats=2, chunk=2, output=folder,
                        report_steps=[0, 2], family_spec={"class_path": "x", "init_args": {"a": [1, None]}},
                        title="a title")  # fmt: skip
    return made, folder


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
    """Gradient descent that multiplies the weights of the tasks with large ones by 1e30 at step `when`."""

    def __init__(self, when: int = 2, bar: float = 1.1) -> None:
        super().__init__()
        self.when, self.bar = when, bar

    def start(self, params):
        return State()

    def propose(self, point: Point, state: State):
        step = map_params(lambda g: -0.1 * g, point.gradient)
        if point.step == self.when:
            step = map_params(lambda s, p: torch.where(p.abs() > self.bar, 1e30 * p, s), step, point.params)
        return step, state


class Broken(Update):
    """Gradient descent with a programming error at one step."""

    def __init__(self, what: str, when: int) -> None:
        super().__init__()
        self.what, self.when = what, when

    def start(self, params):
        return State()

    def propose(self, point: Point, state: State):
        step = map_params(lambda g: -0.1 * g, point.gradient)
        if point.step < self.when:
            return step, state
        if self.what == "raise":
            raise RuntimeError("the first line\nthe second line")
        if self.what == "memory":
            raise MemoryError
        if self.what == "disk":
            raise OutputError("cannot write x: No space left on device")
        if self.what == "shapes":
            return map_params(lambda s: torch.zeros(len(s), 7, 7, 7), step), state
        if self.what == "names":
            return {"other": next(iter(step.values()))}, state
        return None  # type: ignore[return-value]


# --- contestants and controls --------------------------------------------------------------------


def test_controls_their_order_and_their_notes():
    found = entrants({"tele": learned(1, True), "rule": gd(0.1, Balance(last=None)), "plain": learned(2)})
    assert [(c.name, c.kind, c.control, c.source) for c in found] == [
        ("tele", "checkpoint", None, None),
        ("tele, teleports off", "control", "off", "tele"),
        ("tele, mean schedule", "control", "mean schedule", "tele"),
        ("tele, random of same size", "control", "random", "tele"),
        ("rule", "checkpoint", None, None),
        ("plain", "checkpoint", None, None),
        ("plain + balance", "control", "balance", "plain"),
    ]
    teleports = [type(c.inner.teleport) for c in found]
    assert teleports == [NeuronTeleport, Stay, MeanSchedule, SizedRandom, Balance, Stay, Balance]
    assert [bool(c.note) for c in found] == [c.kind == "control" for c in found]
    assert "not meta-trained" in found[-1].note
    assert "meta-trained together with the learned teleport" in found[1].note


def test_the_balance_control_belongs_to_the_first_that_does_not_teleport_or_else_to_the_first():
    assert [c.name for c in entrants({"a": gd(0.1, RandomTeleport()), "b": gd(0.2)})][-1] == "b + balance"
    assert [c.name for c in entrants({"a": learned(1, True), "b": learned(2, True)})].count("a + balance") == 1
    ruled = entrants({"a": gd(0.1, Balance())})
    assert [c.name for c in ruled] == ["a"], "the balance rule after the balance rule is nothing new"


def test_no_balance_control_without_scaling_symmetry():
    assert [c.name for c in entrants({"a": gd()}, TeacherStudent(4, 5, 2, rows=8, activation="tanh"))] == ["a"]
    assert [c.name for c in entrants({"a": gd()}, Noise())] == ["a"]


def test_controls_of_a_teleport_that_is_not_learned_are_its_absence_only():
    names = [c.name for c in entrants({"a": gd(0.1, RandomTeleport()), "b": gd(0.2)})]
    assert names == ["a", "a, teleports off", "b", "b + balance"]


def test_controls_use_the_checkpoints_own_update_order_and_moments():
    given = {"a": [learned(1, True, "after"), learned(2, True, "after")], "b": learned(3, True)}
    found = {c.name: c for c in entrants(given)}
    for c in found.values():
        if c.kind == "control":
            source = found[c.source]
            assert len(c.seeds) == len(source.seeds)
            for mine, theirs in zip(c.seeds, source.seeds, strict=True):
                assert mine.update is theirs.update
                played = c.control in ("mean schedule", "random")
                assert (mine.order, mine.moments) == (
                    (theirs.order, theirs.moments) if played else ("before", "transform")
                )
    one, other = found["a, mean schedule"].seeds
    assert one.teleport.length == 3
    assert not torch.equal(one.teleport.get_buffer("factor_0"), other.teleport.get_buffer("factor_0"))


def test_the_mean_schedule_and_the_sizes_are_those_of_the_checkpoint():
    inner, batch = learned(1, True), sample_meta_batch(FAMILY, "train", range(2))
    seen = []
    inner.teleport.recorder = lambda step, algebra, alive: seen.append(algebra)
    unroll = Unroll(inner, batch, 3)
    unroll.window(unroll.start(), 3, differentiable=False)
    found = {c.control: c.inner.teleport for c in entrants({"a": inner})}
    mean = torch.stack([t[0].mean(0) for t in seen])
    torch.testing.assert_close(found["mean schedule"].get_buffer("factor_0"), mean.detach(), check_dtype=False)
    norms = torch.tensor([[float(t[0].norm(dim=1).mean())] for t in seen])
    torch.testing.assert_close(torch.tensor(found["random"].norms), norms)


def test_the_checkpoint_is_left_alone():
    original = learned(1, True).double()
    heard = []
    original.teleport.observer = original.teleport.recorder = lambda *what: heard.append(what)
    before = copy.deepcopy(original.state_dict())
    quick({"a": original})
    assert all(p.requires_grad and p.dtype == torch.float64 and p.grad is None for p in original.parameters())
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())
    assert not heard, "its listeners belong to the caller"
    assert original.teleport.observer is not None


def test_listeners_of_contestants_are_taken_off():
    for c in entrants({"a": learned(1, True)}):
        play(c.inner, sample_meta_batch(FAMILY, "test", range(1)), range(3))
        assert getattr(c.inner.teleport, "observer", None) is None
        assert getattr(c.inner.teleport, "recorder", None) is None


def test_an_off_control_that_takes_part_already_is_left_out():
    tele = learned(1, True)
    twin, other = InnerOptimizer(copy.deepcopy(tele.update)), learned(9)
    assert "tele, teleports off" not in [c.name for c in entrants({"tele": tele, "twin": twin})]
    assert "tele, teleports off" in [c.name for c in entrants({"tele": tele, "other": other})], "other weights"
    assert "tele, teleports off" in [c.name for c in entrants({"tele": tele, "gd": gd()})], "another class"
    three = {"tele": [tele, learned(2, True)], "twin": twin}
    assert "tele, teleports off" in [c.name for c in entrants(three)], "one of two seeds"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("plain", RULES),
        (True, RULES),
        ("teleports", [*RULES, *(f"{r} + random" for r in RULES), *(f"{r} + climb" for r in RULES)]),
        ("none", []),
        (False, []),
    ],
)
def test_baselines_that_take_part(monkeypatch, given, names):
    monkeypatch.setattr(stages, "tune", tuned_at_once)
    result = quick({"a": gd()}, Noise() if given == "plain" else FAMILY, baselines=given, tasks=1, steps=2)
    found = [e for e in result.entries if e.kind == "baseline"]
    assert [e.name for e in found] == names
    for e in found:
        assert e.failure is None
        assert (e.moves, e.learned_teleport) == ("+" in e.name, False)
        assert e.parts["update"]["arguments"] == {
            "rule": e.name.split(" ")[0],
            "lr": 0.01,
            "schedule": "cosine",
            "steps": 2,
        }
        assert e.label == f"{e.name} (lr 0.01, cosine)"
    assert result.settings.baselines == {True: "plain", False: "none"}.get(given, given)


def test_baselines_teleport_once_before_the_first_update():
    made = {c.name: c.inner for c in baselines(5, True)}
    for name, kind in (("SGD + random", RandomTeleport), ("SGD + climb", OptimisedTeleport), ("SGD", Stay)):
        assert isinstance(made[name].teleport, kind)
        assert [made[name].teleport.active(k) for k in range(5)] == [kind is not Stay, *[False] * 4]


def test_meta_seeds_are_one_contestant():
    one, two = learned(1, True), learned(2, True)
    result = quick({"both": [one, two], "one": one, "two": two})
    both = result["both"]
    assert both.label == "both (2 meta-seeds)"
    assert result["both, mean schedule"].meta_seeds == 2
    assert result["one"].label == "one"
    assert len(both.runs) == 2
    for run, name in zip(both.runs, ("one", "two"), strict=True):
        np.testing.assert_array_equal(run.losses["inner"], result[name].runs[0].losses["inner"])
    assert both.losses("inner", 4).shape == (2, 3)


def budget(**changes) -> Budget:
    return Budget(**{"tasks": 20, "steps": 5, "families": (("Sine", ""),), "seed": 0} | changes)


def test_seeds_of_different_recipes_or_budgets_are_refused():
    def refuse(seeds, message):
        with pytest.raises(ConfigError, match=message):
            quick({"a": seeds})

    refuse([learned(1), learned(2, True)], "the seeds of 'a' differ in more than their weights")
    refuse([learned(1), gd()], "the seeds of 'a' differ in more than their weights")
    refuse([learned(1), learned(2), learned(1)], "'a' hold the same optimizer twice")
    unequal = [Learned(learned(1), budget()), Learned(learned(2), budget(tasks=10, seed=1))]
    refuse(unequal, r"unequal budgets \(20 trajectories of 5 steps against 10 of 5\)")
    unequal[1] = Learned(learned(2), budget(families=(("Cosine", ""),)))
    refuse(unequal, r"unequal budgets \(meta-trained on Sine against Cosine\)")
    refuse([], "its list is empty")
    refuse([learned(1), "runs/a"], "must be an InnerOptimizer .* got str")
    equal = [Learned(learned(i), budget(seed=i)) for i in range(2)]
    assert [b.seed for b in quick({"a": equal})["a"].budgets] == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (learned(1), "must be a mapping .* got InnerOptimizer"),
        ({"a": None}, "'a' must be an InnerOptimizer .* got NoneType"),
        ({1: gd()}, "the name of a checkpoint must be a text, got 1"),
        ({"": gd()}, "the name of a checkpoint must be a text, got ''"),
        ({"SGD": gd()}, "two contestants would be called 'SGD'"),
        ({"a": learned(1, True), "a, teleports off": gd()}, "two contestants would be called 'a, teleports off'"),
        ({}, None),
    ],
)
def test_checkpoints_that_cannot_take_part(given, message):
    nobody = given == {}
    with pytest.raises(ConfigError, match=message or "nothing to evaluate"):
        quick(given, baselines=not nobody)


def test_an_update_that_forgets_its_arguments_is_named():
    class Forgetful(Explode):
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match=r"^a: every constructor argument must be kept .* 'rate'"):
        quick({"a": InnerOptimizer(Forgetful())})


def test_reference_is_the_first_checkpoint_without_teleports():
    def reference(inners, wanted=None):
        return reference_of(entrants(inners), wanted)

    assert reference({"t": learned(1, True), "p": gd(0.1), "q": gd(0.2)}) == "p"
    assert reference({"t": learned(1, True)}) == "t, teleports off"
    assert reference({"t": gd(0.1, Balance())}) == "t", "nobody else is there"
    assert reference({"t": learned(1, True)}, "t + balance") == "t + balance"
    with pytest.raises(ConfigError, match=r"'x' is no contestant; use one of 't'"):
        reference({"t": learned(1, True)}, "x")
    assert reference_of(baselines(3, False), None) == "SGD"


def test_rules_that_can_act():
    assert applicable_rules(sample_meta_batch(FAMILY, "train", range(2))) == (
        "Balance",
        "White",
        "Wout",
    )  # Svd is Balance there
    tanh = TeacherStudent(4, 5, 2, rows=8, activation="tanh")
    assert applicable_rules(sample_meta_batch(tanh, "train", range(2))) == ()


# --- runs ----------------------------------------------------------------------------------------


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


# --- runs in chunks ------------------------------------------------------------------------------

TELEPORTS = {
    "none": lambda: None,
    "random": lambda: RandomTeleport(0.2, last=2),
    "learned": lambda: NeuronTeleport(hidden=4),
    "every other": lambda: RandomTeleport(0.2, first=1, every=2),
    "level set": lambda: LevelSetTeleport(),
    "balance": lambda: Balance(last=None),
}


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


# --- what teleports do ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "learned", "every other", "level set", "balance"])
def test_teleports_keep_the_loss_and_the_change_of_the_gradient_is_the_ratio(name):
    family = TeacherStudent(4, 5, 2, rows=12, spread=10)
    batch = sample_meta_batch(family, "test", range(3))
    teleport = TELEPORTS[name]()
    inner = learned(1, teleport) if name == "learned" else gd(0.01, teleport)
    moves = play(inner, batch, range(5)).moves
    steps = [k for k in range(5 - 1) if teleport.active(k)]
    assert moves.steps.tolist() == steps
    exact = name != "level set"
    assert moves.worst_loss_change <= (1e-5 if exact else teleport.tolerance + 1e-5)
    assert moves.sizes.shape == ((len(steps), 1, 3) if exact else (len(steps), 0, 3))
    unroll = Unroll(inner, batch, 4)
    position, seen = unroll.start(), {}
    for k in range(4):
        if teleport.active(k):
            there, _, _ = teleport.move(point_of(batch, position, k), unroll.group, position.state.teleport, State())
            seen[k] = [norm_at(batch, p) for p in (there.params, position.params)]
        position = unroll.window(position, 1, differentiable=False).end
    expected = np.stack([(a / b).numpy() for a, b in seen.values()])
    np.testing.assert_allclose(moves.gradient_change, expected, rtol=2e-3 if exact else 1e-2)
    assert (np.abs(expected - 1) > 1e-4).any(), "the example moves"


def point_of(batch, position, step):
    from metatele import Landscape

    landscape = Landscape(batch.network, batch.family.loss, *batch.rows("inner"))
    return Point(
        position.params, landscape.gradient(position.params), batch.inputs["inner"], step, landscape, landscape
    )


def norm_at(batch, params):
    leaves = {k: p.detach().requires_grad_() for k, p in params.items()}
    x, y = batch.rows("inner")
    total = torch.zeros(batch.tasks)
    for b in range(batch.tasks):
        prediction = torch.func.functional_call(batch.network, {k: p[b] for k, p in leaves.items()}, (x[b],))
        grads = torch.autograd.grad(batch.family.loss(prediction, y[b]), list(leaves.values()))
        total[b] = torch.cat([g[b].flatten() for g in grads]).norm()
    return total


def test_sizes_are_those_of_the_elements():
    batch = sample_meta_batch(TeacherStudent(4, 5, 2, depth=2, rows=12), "test", range(2))
    inner = gd(0.01, RandomTeleport(0.3))
    moves = play(inner, batch, range(3)).moves
    assert moves.sizes.shape == (2, 2, 2)
    seen = []
    inner.teleport.observer = lambda step, group, element: seen.append(
        [factor.size(g) for factor, g in zip(group.factors, element, strict=True)]
    )
    unroll = Unroll(inner, batch, 2)
    unroll.window(unroll.start(), 2, differentiable=False)
    np.testing.assert_allclose(moves.sizes, torch.stack([torch.stack(s) for s in seen]).numpy(), rtol=1e-5)
    assert (moves.sizes > 0.05).all()


def test_after_the_update_there_is_a_loss_change_but_no_gradient_to_compare():
    batch = sample_meta_batch(FAMILY, "test", range(2))
    moves = play(gd(0.01, RandomTeleport(0.2), order="after"), batch, range(4)).moves
    assert np.isnan(moves.gradient_change).all()
    assert 0 < np.abs(moves.loss_change).max() < 1e-5
    assert moves.steps.tolist() == [0, 1, 2]


def test_watching_changes_nothing():
    batch = sample_meta_batch(FAMILY, "test", range(2))
    for order in ("before", "after"):
        inner = learned(1, True, order)
        unroll = Unroll(inner, batch, 4)
        end = unroll.window(unroll.start(), 4, differentiable=False).end
        run = play(inner, batch, (0, 4))
        np.testing.assert_array_equal(run.losses["inner"][-1], unroll.evaluate(end.params, "inner").numpy())


def test_the_worst_change_of_nothing_is_not_a_number():
    empty = np.empty((0, 2), np.float32)
    assert math.isnan(Moves(np.empty(0, np.int64), empty, empty, np.empty((0, 1, 2), np.float32)).worst_loss_change)


# --- wall-clock and memory -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 4])
def test_clock_counts_up(batch_size):
    family = GaussianMixture(3, 2, rows=24, hidden=[4], batch_size=batch_size)
    batch = sample_meta_batch(family, "test", range(2))
    parts = dict(batch.inputs)
    seconds, memory = clock(gd(), batch, (0, 1, 13, 23))
    assert seconds.shape == (4,)
    assert seconds[0] == 0
    assert (np.diff(seconds) > 0).all()
    assert memory is None or memory >= 0
    assert all(batch.inputs[p] is parts[p] for p in parts), "the batch is left alone"


def test_nobody_is_timed_while_something_is_loaded():
    class Loading(GradientDescent):
        loaded = False

        def propose(self, point, state):
            if not self.loaded:
                time.sleep(0.5)
                self.loaded = True
            return super().propose(point, state)

    batch = sample_meta_batch(Noise(), "test", range(2))
    assert clock(InnerOptimizer(Loading(0.1)), batch, (0, 3))[0][-1] < 0.4


def test_costs_are_medians_of_the_repeats(monkeypatch):
    given = iter([([0.0, 1.0], 7), ([0.0, 5.0], None), ([0.0, 2.0], 9)])
    monkeypatch.setattr(stages, "clock", lambda *_: (lambda s, m: (np.array(s), m))(*next(given)))
    cost = quick({"a": gd()}, Noise(), steps=1, timing_repeats=3, timing_tasks=2)["a"].cost
    assert (cost.seconds.tolist(), cost.spread, cost.repeats) == ([0, 2], (1, 5), 3)
    assert (cost.tasks, cost.memory) == (2, 9)


# --- contestants that fail -----------------------------------------------------------------------

FAILURES = {
    "raise": "RuntimeError while playing: the first line",
    "memory": "MemoryError while playing: ",
    "shapes": "RuntimeError while playing: ",
    "names": "KeyError while playing: ",
    "nothing": "TypeError while playing: ",
}


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("when", [0, 3])
def test_one_that_crashes_is_reported_and_the_others_finish(what, when, without):
    result = quick({"tele": learned(1, True), "bad": InnerOptimizer(Broken(what, when)), "plain": learned(2)})
    bad = result["bad"]
    assert bad.failure.startswith(FAILURES[what])
    assert "\n" not in bad.failure
    assert (bad.runs, bad.cost, bad.diverged) == ((), None, 0)
    names = [e.name for e in result.ran if not e.name.startswith("bad")]
    assert names == [e.name for e in without.entries if e.name != "plain + balance"]
    for name in names:
        for mine, theirs in zip(result[name].runs, without[name].runs, strict=True):
            assert plain(mine) == plain(theirs), "bit-equal to an evaluation without it"
    assert "failed: " in shown(result, 80)
    assert all(v.outcome == "not decided" for v in result.verdicts if "bad" in (v.name, v.against))
    assert result.part == "inner"
    assert "bad" not in result.measures


@pytest.fixture(scope="module")
def without():
    return quick({"tele": learned(1, True), "plain": learned(2)})


def test_one_that_crashes_in_a_later_chunk_only(monkeypatch):
    calls = []

    def fragile(inner, batch, at):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("only now")
        return play(inner, batch, at)

    monkeypatch.setattr(stages, "play", fragile)
    result = quick({"a": gd(0.1), "b": gd(0.2)}, Noise(), tasks=2, chunk=1)
    assert result["a"].failure == "ValueError while playing: only now"
    assert result["b"].runs[0].tasks == 2
    assert len(calls) == 4


def test_one_that_crashes_while_it_is_timed_has_no_runs(monkeypatch):
    monkeypatch.setattr(stages, "clock", lambda *_: 1 / 0)
    result = quick({"a": gd(0.1)}, Noise())
    assert result["a"].failure == "ZeroDivisionError while timing: division by zero"
    assert result["a"].runs == ()


def test_one_that_crashes_while_it_is_tuned(monkeypatch):
    def moody(rule, *rest, **more):
        if rule == "momentum":
            raise RuntimeError("no")
        return tuned_at_once(rule, *rest, **more)

    monkeypatch.setattr(stages, "tune", moody)
    result = quick({}, Noise(), baselines=True)
    assert [e.name for e in result.entries if e.failure] == ["momentum"]
    assert result["momentum"].failure == "RuntimeError while tuning: no"
    assert result["momentum"].tuning is None


def test_a_full_disk_is_nobodys_failure():
    with pytest.raises(OutputError, match="No space left"):
        quick({"a": InnerOptimizer(Broken("disk", 1))})


def test_ctrl_c_is_nobodys_failure(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick({"a": gd()})


@pytest.fixture
def misfits():
    dense = InnerOptimizer(DenseUpdate(hidden=4))
    batch = sample_meta_batch(FAMILY, "train", range(1))
    dense.bind(batch.network, batch.params)
    return {"ok": gd(), "my dense": dense, "tele": learned(1, True)}


TANH = TeacherStudent(4, 6, 2, rows=12, activation="tanh")


def test_what_cannot_run_is_a_clear_error_before_any_test_task(misfits, monkeypatch):
    drawn = []

    def spy(family, split, *rest):
        drawn.append(split)
        return sample_meta_batch(family, split, *rest)

    monkeypatch.setattr(evaluator, "sample_meta_batch", spy)
    with pytest.raises(CheckpointError, match=r"^my dense: this dense optimizer was made for .* size-free"):
        quick(misfits, TANH)
    del misfits["my dense"]
    with pytest.raises(SymmetryError, match=r"^tele: no symmetry of kind 'scaling'"):
        quick(misfits, TANH)
    assert drawn == ["train", "train"]


def test_what_cannot_run_is_a_failed_contestant_when_it_is_not_strict(misfits):
    result = quick(misfits, TANH, strict=False)
    assert result["my dense"].failure.startswith("CheckpointError while playing: this dense optimizer was made for")
    assert result["tele"].failure.startswith("SymmetryError while playing: no symmetry")
    assert [e.name for e in result.ran] == ["ok", "tele, teleports off"]


def test_every_contestant_fails(tmp_path):
    result = quick({"a": InnerOptimizer(Broken("raise", 0)), "b": InnerOptimizer(Broken("memory", 2))}, output=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.ran == ()
        assert shown(result, 100).count("failed: ") == 3
        assert {v.outcome for v in result.verdicts} == {"not decided"}
        assert (result.claims, dict(result.measures), result.part) == ((), {}, "inner")
    assert len(result.task_seeds) == 3
    assert_equal(Evaluation.load(tmp_path), result)


# --- results -------------------------------------------------------------------------------------


def assert_equal(a, b, where="evaluation"):
    """Field by field, arrays bit for bit, NaN equal to NaN."""
    assert type(a) is type(b), where
    if dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_equal(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}")
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.tobytes() == np.where(np.isnan(a) & np.isnan(b), a, b).tobytes(), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), where


def test_results_come_back(full):
    result, folder = full
    assert_equal(Evaluation.load(folder), result)
    assert_equal(Evaluation.load(folder / "results.json"), result)
    assert result["level"].runs[0].moves.sizes.shape == (1, 0, 3), "the example has teleports without a group"
    assert result["tele"].runs[0].accuracies
    assert result["plain"].budgets[0].tasks == 20
    assert math.inf in [t.score for t in result["SGD"].tuning.trials]
    assert not result.environment["hardware"]["device"].startswith("cuda")


def test_results_are_strict_json_whole_and_nothing_else(full):
    folder = full[1]
    text = (folder / "results.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert stored["reference"] == "plain"
    assert stored["environment"]["versions"]["torch"] == torch.__version__
    family = GaussianMixture(3, 2, rows=24, hidden=[4], batch_size=5)
    assert stored["task_seeds"] == sample_meta_batch(family, "test", range(3)).seeds.tolist()
    assert stored["settings"]["report_steps"] == [0, 2, 5]
    assert [p.name for p in folder.iterdir()] == ["results.json"]


def test_what_is_read_back_says_the_same(full):
    result, loaded = full[0], Evaluation.load(full[1])
    assert shown(loaded, 100) == shown(result, 100)
    assert [v.sentence for v in loaded.verdicts] == [v.sentence for v in result.verdicts]
    assert loaded.claims == result.claims
    assert_equal(dict(loaded.measures), dict(result.measures))


def test_diverged_entries_are_null(tmp_path):
    result = quick({"bad": InnerOptimizer(Explode())}, Noise(), tasks=8, steps=5, output=tmp_path)
    curve = json.loads((tmp_path / "results.json").read_text())["entries"][0]["runs"][0]["losses"]["inner"]
    assert None in curve[-1]
    assert None not in curve[0]
    assert_equal(Evaluation.load(tmp_path), result)


def test_results_of_a_gpu_are_read_on_a_machine_without_one(full, tmp_path):
    stored = json.loads((full[1] / "results.json").read_text())
    stored["settings"]["device"] = "cuda:7"
    stored["environment"]["hardware"]["device"] = "NVIDIA H200"
    (tmp_path / "results.json").write_text(json.dumps(stored))
    loaded = Evaluation.load(tmp_path)
    assert loaded.settings.device == "cuda:7"
    assert shown(loaded, 100) == shown(full[0], 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the results"),
        ("{", "cannot read the results"),
        ("[" * 100_000, "cannot read the results"),
        ("3", "not a results.json of format 2"),
        ('{"format": 1}', r"not a results.json of format 2 \(its format: 1\)"),
        ('{"format": 2}', "is damaged: KeyError: 'family'"),
    ],
)
def test_reading_what_is_no_result(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize("name", ["", "nowhere", "x" * 300, "a\0b", "\udcff"])
def test_reading_what_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot read the results"):
        Evaluation.load(name)


def positions(tree, path=()):
    yield path
    for key in tree if isinstance(tree, dict) else range(min(len(tree), 3)) if isinstance(tree, list) else ():
        yield from positions(tree[key], (*path, key))


OTHERS = [None, True, -1, 0, 7, 1.5, 10**400, "", "x", "1", [], [[]], [None], {}, {"a": 1}, [1, [2]], [10**30], ["x"]]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_results_are_one_clear_error(full, tmp_path, data):
    stored = json.loads((full[1] / "results.json").read_text())
    *way, last = data.draw(st.sampled_from([p for p in positions(stored) if p]))
    inside = functools.reduce(lambda tree, key: tree[key], way, stored)
    if data.draw(st.booleans()):
        del inside[last]
    else:
        inside[last] = data.draw(st.sampled_from(OTHERS))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(stored))
    try:
        loaded = Evaluation.load(path)
    except ConfigError:
        return
    assert shown(loaded, 200)
    assert loaded.verdicts is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(reference="nobody"), "reference is 'nobody'|reference 'nobody'"),
        (lambda s: s["entries"].append(s["entries"][0]), "names of their own"),
        (lambda s: s["entries"][0].update(kind="winner"), "expected one of 'checkpoint'.* got 'winner'"),
        (lambda s: s["entries"][0]["runs"][0]["losses"]["inner"].pop(), "curves of shape"),
        (lambda s: s["settings"].update(tasks=2), "curves of shape"),
        (lambda s: s["entries"][1]["runs"][0]["losses"].pop("test"), "differ in the parts"),
        (lambda s: s["settings"].update(steps=0), "steps must be a whole number"),
        (lambda s: s.update(elapsed=10**400), "OverflowError"),
    ],
)
def test_contradictions_in_results(full, tmp_path, change, message):
    stored = json.loads((full[1] / "results.json").read_text())
    change(stored)
    (tmp_path / "results.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=message):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize("values", [[0.0, -0.0, 1e-45, 3.4e38, np.nan, np.inf, -np.inf, 0.1, 1 / 3]])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_number_comes_back_bit_for_bit(values, kind):
    from numpy.typing import NDArray

    from metatele.evaluation.results import restore

    array = np.array([values, values[::-1]], kind)
    back = restore(NDArray[kind], json.loads(json.dumps(plain(array), allow_nan=False)))
    assert_equal(back, array)
    many = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    many = many[np.isfinite(many)]
    assert_equal(restore(NDArray[np.float32], json.loads(json.dumps(plain(many)))), many)


# --- the table -----------------------------------------------------------------------------------


def shown(result: Evaluation, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(result.table())
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_holds_every_column_at_usual_widths(full, width):
    text = shown(full[0], width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("contestant", "mean", "@0", "@2", "@5", "median", "acc.", "change", "wins", "step", "Adam", "ref."):
        assert word in text
    for words in ("a title", "meta-seeds", "failed: RuntimeError"):
        assert words in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1234.5, "1234"), (1.2345e-5, "1.23e-5"), (-2e7, "-2.00e7"), (math.nan, "-")],
)
def test_numbers_are_short(x, text):
    assert number(x) == text


@pytest.mark.parametrize("family", [Noise(-3.0), Noise()])
def test_table_of_negative_losses_and_of_one_task(family):
    result = quick({"a": gd(0.1), "[b]": gd(0.2, None)}, family, tasks=1, steps=1)
    assert "[b]" in shown(result, 80)
    assert {v.outcome for v in result.verdicts} == {"not decided"}


# --- the whole -----------------------------------------------------------------------------------


def numbers(result: Evaluation) -> str:
    """Everything but wall-clock and memory."""
    plain_result = plain(result)
    del plain_result["elapsed"]
    for e in plain_result["entries"]:
        e["cost"] = None
    return json.dumps(plain_result)


def test_same_call_same_numbers_and_the_global_streams_stay(monkeypatch):
    monkeypatch.setattr(stages, "tune", tuned_at_once)

    def call(global_seed):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        inner = learned(1, RandomTeleport())
        unbound = InnerOptimizer(DenseUpdate(hidden=3))  # draws its weights only when it meets a network
        states = torch.random.get_rng_state(), str(np.random.get_state()), random.getstate()
        result = quick({"r": inner, "t": learned(2, True), "u": unbound}, baselines="plain", tasks=2, steps=2)
        assert torch.equal(torch.random.get_rng_state(), states[0])
        assert (str(np.random.get_state()), random.getstate()) == states[1:]
        assert result["u"].failure is None
        return numbers(result)

    assert call(1) == call(2)


def test_seed_changes_the_tasks():
    assert not set(quick({"a": gd()}).task_seeds) & set(quick({"a": gd()}, seed=1).task_seeds)


def test_test_tasks_are_drawn_when_all_is_chosen(monkeypatch):
    order = []
    monkeypatch.setattr(stages, "tune", lambda *a, **k: order.append("tune") or tuned_at_once(*a, **k))
    monkeypatch.setattr(
        evaluator, "sample_meta_batch", lambda f, split, *r: order.append(split) or sample_meta_batch(f, split, *r)
    )
    result = quick({"a": learned(1, True)}, baselines=True, progress=lambda stage, *_: order.append(stage.split()[0]))
    first = order.index("test")
    assert order[0] == "train"
    assert order[:first].count("tune") == len(RULES)
    assert not {"tune", "recording", "train"} & set(order[first:])
    assert not set(sample_meta_batch(FAMILY, "train", range(2)).seeds.tolist()) & set(result.task_seeds)


@pytest.mark.parametrize("chunk", [None, 2])
def test_progress_counts_to_its_end_and_never_back(monkeypatch, chunk):
    monkeypatch.setattr(stages, "tune", tuned_at_once)
    calls = []
    inners = {"a": [learned(1, True), learned(2, True)], "bad": InnerOptimizer(Broken("raise", 1))}
    quick(inners, baselines=True, tasks=5, chunk=chunk, progress=lambda *call: calls.append(call), timing_repeats=2)
    assert calls[0] == ("recording the teleports of a", 0, 1)
    calls = calls[1:]
    done, totals = [c[1] for c in calls], {c[2] for c in calls}
    assert calls[0][:2] == ("tuning SGD", 0)
    assert calls[-1][0] == "done"
    assert len(totals) == 1
    assert done == sorted(done)
    assert done[-1] in totals
    assert done[-2] < done[-1], "the last piece of work is counted, once"


def test_size_free_checkpoint_runs_on_other_widths_and_depths():
    wide = TeacherStudent(6, 9, 3, depth=3, rows=10)
    assert quick({"a": learned(1, True)}, wide)["a"].runs[0].losses["inner"].shape == (5, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "tasks must be a whole number of at least 1, got 0"),
        ({"steps": -2}, "steps must be a whole number of at least 1, got -2"),
        ({"steps": 2.0}, "steps must be a whole number of at least 1, got 2.0"),
        ({"tuning_tasks": 0}, "tuning_tasks must be a whole number of at least 1, got 0"),
        ({"timing_repeats": 0}, "timing_repeats must be a whole number of at least 1, got 0"),
        ({"timing_tasks": 0}, "timing_tasks must be a whole number of at least 1, got 0"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1, got 0"),
        ({"report_steps": [5]}, r"a report step must be in \[0, 4\], got 5"),
        ({"report_steps": [-1]}, r"a report step must be in \[0, 4\], got -1"),
        ({"report_steps": ["x"]}, "a report step must be .* got 'x'"),
        ({"report_steps": 3}, "report_steps must be .* got 3"),
        ({"baselines": "all"}, "baselines must be one of plain, teleports, none, got 'all'"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used"),
        ({"reference": "x"}, "'x' is no contestant"),
        ({"seed": "zero"}, "seed must be a whole number"),
    ],
)
def test_impossible_settings(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        quick({"a": gd()}, output=tmp_path, **settings)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_unwritable_folder_is_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluator, "sample_meta_batch", lambda *_: pytest.fail("worked"))
    with pytest.raises(OutputError, match=r"cannot write to the folder .*file/x"):
        quick({"a": gd()}, output=tmp_path / "file" / "x")


def test_full_disk_is_one_clear_error_and_keeps_the_old_results(tmp_path, monkeypatch):
    result = quick({"a": gd()}, output=tmp_path)
    old = (tmp_path / "results.json").read_text()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metatele.support.files.os.replace", full_disk)
    with pytest.raises(OutputError, match=r"cannot write .*results\.json: No space left on device"):
        result.save(tmp_path)
    assert (tmp_path / "results.json").read_text() == old
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"], "no temporary file stays"
