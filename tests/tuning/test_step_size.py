"""Step sizes and schedules of hand-designed optimizers: found on tasks of the train split, and on these only."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent
from torch import nn

import metatele.update.hand_designed as hand_designed
from metatele import (
    Adam,
    ConfigError,
    CoordinateUpdate,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    Point,
    RandomTeleport,
    TaskFamily,
    Unroll,
    sample_meta_batch,
)
from metatele.evaluation import Evaluation, evaluate, tune
from metatele.evaluation.judge.pairing import best_baseline
from metatele.task.params import map_params
from metatele.task.stack import stacked_forward
from metatele.tuning.step_size import FINE, REACH, final_losses
from metatele.update import HandDesigned
from metatele.update.hand_designed import UpdateRule

FAMILY = TeacherStudent(4, 5, 2, rows=12, spread=10)
RULES: tuple[UpdateRule, ...] = get_args(UpdateRule)


class Noise(TaskFamily):
    """y = 0 with the loss curvature w^2 / 2 + shift, whose curves are known: w <- (1 - lr curvature) w."""

    def __init__(self, shift: float = 0.0, curvature: float = 1.0) -> None:
        self.shift, self.curvature = shift, curvature

    def network(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator):
        return torch.ones(1, 1), torch.zeros(1, 1)

    def loss(self, prediction, target):
        return self.curvature * (prediction - target).square().sum() / 2 + self.shift

    def initialise(self, network, generator):
        network.weight.data.uniform_(1, 2, generator=generator)


class Steps(Noise):
    """The loss |w|: gradient descent moves by its step size, whatever the distance."""

    def loss(self, prediction, target):
        return (prediction - target).abs().sum() + self.shift


class Broken(GradientDescent):
    def propose(self, point, state):
        return map_params(lambda g: g * math.nan, point.gradient), state


def train(family: TaskFamily, tasks: int = 3):
    return sample_meta_batch(family, "train", range(tasks))


def tried(tuning, schedule: str) -> list[float]:
    return sorted(t.lr for t in tuning.trials if t.schedule == schedule)


def trial(tuning, schedule: str, lr: float):
    (found,) = (t for t in tuning.trials if (t.schedule, t.lr) == (schedule, lr))
    return found


# --- what is found -------------------------------------------------------------------------------


class Elsewhere(Noise):
    """Ten rows with other targets in each part: a loss on inner rows that ends in overfitting."""

    shuffle = False

    def __init__(self, parts, targets) -> None:
        super().__init__(1.0)
        self.parts, self.targets = parts, targets

    def sample(self, generator):
        counts = [round(10 * share) for share in self.parts]
        y = torch.cat([torch.full((n, 1), y) for n, y in zip(counts, self.targets, strict=True)])
        return torch.ones(10, 1), y

    def loss(self, prediction, target):
        return (prediction - target).square().mean() / 2 + self.shift


@pytest.mark.parametrize(
    ("parts", "best"),
    [((0.6, 0.0, 0.4), 1.2), ((0.4, 0.2, 0.4), 1.2), ((0.6, 0.4, 0.0), 0.0), ((1.0, 0.0, 0.0), 0.0)],
)
def test_a_step_size_is_tuned_for_the_rows_that_are_judged(parts, best):
    """One step from w in [1, 2] towards 0 ends at (1 - lr) w: all the way is best for the inner rows, the weight 1.2
    for the test rows, which are judged where there are some; nobody is judged by the meta rows."""
    family = Elsewhere(parts, (0.0, 0.7, 1.2))
    batch = train(family, 16)
    tuning = tune("SGD", batch, 1)
    w = next(iter(batch.params.values())).flatten().numpy()
    rates = np.array(tried(tuning, "constant"))
    ends = (1 - rates[:, None]) * w
    scores = np.exp(np.log((ends - best) ** 2 / 2 + 1).mean(1))
    assert tuning.lr == rates[scores.argmin()]
    assert tuning.score == pytest.approx(scores.min(), rel=1e-5)
    assert (tuning.lr == 1) == (best == 0)


def test_the_best_baseline_is_the_best_on_the_rows_that_are_judged():
    """Few rows with noise in them: the rules that fit them best do worst on others. Tuned and chosen by the training
    loss, the best baseline would be one of those."""
    family = TeacherStudent(4, 20, 1, rows=20, parts=(0.6, 0.0, 0.4))
    found = evaluate({}, family, tasks=8, steps=60, tuning_tasks=8, timing_tasks=1, timing_repeats=1)
    best = best_baseline(found.entries)
    batch = train(family, 8)
    for entry in found.entries:
        inner = InnerOptimizer(HandDesigned(entry.name, entry.tuning.lr, entry.tuning.schedule, 60))
        unroll = Unroll(inner, batch, 60)
        end = unroll.window(unroll.start(), 60, differentiable=False).end
        unseen = unroll.evaluate(end.params, "test").detach()
        assert entry.tuning.score == pytest.approx(float(unseen.log().mean().exp()), rel=1e-4)
    assert best.tuning.score == min(e.tuning.score for e in found.entries)
    assert found.part == "test"


def test_the_best_step_size_is_found():
    tuning = tune("SGD", train(Noise(1.0)), 1)
    assert (tuning.lr, tuning.schedule) == (1.0, "constant")  # one step: the cosine begins with the same one
    assert tuning.score == pytest.approx(1.0)
    assert (tuning.tasks, tuning.steps) == (3, 1)


@pytest.mark.parametrize("optimum", [2e-3, 0.017, 0.5, 7.0])
def test_a_step_size_between_the_coarse_ones_is_found_to_an_eighth_of_a_decade(optimum):
    tuning = tune("SGD", train(Noise(1e-2, 1 / optimum)), 1)
    assert abs(math.log10(tuning.lr / optimum)) <= 1 / 16 + 1e-3


@pytest.mark.parametrize("curvature", [1e9, 1e-4])
def test_grid_grows_at_its_edges(curvature):
    tuning = tune("SGD", train(Noise(curvature, curvature)), 3)
    assert tuning.lr == pytest.approx(1 / curvature, rel=1e-2)
    assert min(tried(tuning, tuning.schedule)) < tuning.lr < max(tried(tuning, tuning.schedule))


def test_every_cell_is_tried_once_for_both_schedules():
    tuning = tune("SGD", train(Noise(1.0)), 4)
    cells = [(t.schedule, t.lr) for t in tuning.trials]
    assert len(set(cells)) == len(cells)
    coarse = [float(f"{10 ** (k / 2):.3g}") for k in range(-12, 3)]
    for schedule in ("constant", "cosine"):
        assert set(coarse) <= set(tried(tuning, schedule))
    assert len(cells) == 2 * len(coarse) + 2 * len(FINE)
    best = min(tuning.trials, key=lambda t: t.score)
    assert (tuning.schedule, tuning.lr, tuning.score) == (best.schedule, best.lr, best.score)


def test_the_cosine_wins_where_small_steps_are_needed_in_the_end():
    """On |w| a constant step size circles about the minimum; one that falls to 0 gets nearer."""
    family, steps = Steps(1e-9), 30
    tuning = tune("SGD", train(family, 8), steps)
    assert tuning.schedule == "cosine"
    assert tuning.score < 0.9 * min(t.score for t in tuning.trials if t.schedule == "constant")


def test_the_constant_schedule_wins_where_the_way_is_long():
    """A steep direction, with a cliff about it, bounds the step size; along the flat one the cosine goes half
    the way only."""

    class Valley(Noise):
        def network(self):
            return nn.Linear(2, 1, bias=False)

        def sample(self, generator):
            return torch.eye(2), torch.zeros(2, 1)

        def loss(self, prediction, target):
            steep, flat = prediction.flatten()
            return (steep**2 + 0.01 * flat**2) / 2 + torch.where(steep.abs() > 2, 1e12, 0.0)

    steps = 30
    tuning = tune("SGD", train(Valley()), steps)
    assert tuning.schedule == "constant"
    assert 1 < tuning.lr < 2
    assert tuning.score < 0.9 * min(t.score for t in tuning.trials if t.schedule == "cosine")


def test_at_a_tie_the_smaller_step_size_and_the_constant_schedule_win():
    class Flat(Noise):
        def loss(self, prediction, target):
            return 1.0 + 0.0 * prediction.sum()

    tuning = tune("SGD", train(Flat()), 2)
    assert {t.score for t in tuning.trials} == {1.0}
    assert (tuning.schedule, tuning.lr) == ("constant", min(t.lr for t in tuning.trials))


def test_diverged_tasks_rule_a_step_size_out():
    tuning = tune("SGD", train(Noise(), 2), 20)
    for schedule in ("constant", "cosine"):
        assert trial(tuning, schedule, 10.0).diverged == 2
        assert trial(tuning, schedule, 10.0).score == math.inf
    assert trial(tuning, tuning.schedule, tuning.lr).diverged == 0


def test_fewer_diverged_tasks_count_before_lower_losses():
    """A step size that is perfect for the tasks of one kind, and the end of the others."""

    class Cliff(Noise):
        def sample(self, generator):
            return torch.ones(1, 1), torch.randint(2, (1, 1), generator=generator).float()

        def loss(self, prediction, target):
            return (prediction.square() / 2 + 1e-2 + target * torch.where(prediction < 0.5, 1e12, 0.0)).sum()

    batch = train(Cliff(), 8)
    hard = int(batch.targets["inner"].sum())
    assert 0 < hard < 8
    tuning = tune("SGD", batch, 1)
    assert trial(tuning, "constant", 1.0).diverged == hard
    assert trial(tuning, tuning.schedule, tuning.lr).diverged == 0
    assert 0.3 < tuning.lr < 1


def test_when_everything_diverges_the_smallest_step_size_is_left(monkeypatch):
    monkeypatch.setitem(hand_designed.UNITS, "SGD", lambda: Broken(1.0))
    tuning = tune("SGD", train(Noise(), 2), 2)
    assert {(t.diverged, t.score) for t in tuning.trials} == {(2, math.inf)}
    # The grid has grown to its end, and was refined there.
    assert tuning.lr == pytest.approx(10 ** (-6 - REACH / 2 - sum(FINE) / 8), rel=1e-2)
    assert tuning.score == math.inf


def test_scores_are_means_where_a_loss_of_zero_is_in_reach():
    """Else a step size that solves half of the tasks exactly and ruins the others would be the best one."""
    batch = train(Noise())
    tuning = tune("SGD", batch, 2)
    w = batch.params["weight"].flatten().double().numpy()
    assert not tuning.geometric
    assert trial(tuning, "constant", 0.1).score == pytest.approx(((0.9**2 * w) ** 2 / 2).mean(), rel=1e-5)
    assert (tuning.lr, tuning.score, tuning.mean) == (1.0, 0, 0)


def test_scores_of_negative_losses_are_means():
    batch = train(Noise(-1.0))
    w = batch.params["weight"].flatten().double().numpy()
    tuning = tune("SGD", batch, 1)
    assert trial(tuning, "constant", 0.1).score == pytest.approx((0.9**2 * w**2 / 2 - 1).mean(), rel=1e-5)
    assert tuning.score == pytest.approx(-1.0)


# --- how it is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "Adam", "AdamW", "RMSProp"])
def test_a_stack_of_cells_plays_what_each_cell_plays_alone(rule):
    steps = 6
    batch = train(FAMILY)
    cells = list(itertools.product([1e-3, 1e-2, 0.1], ["constant", "cosine"]))
    varied = HandDesigned(rule, steps=steps)
    rates, cosine = zip(*((lr, s == "cosine") for lr, s in cells for _ in range(batch.tasks)), strict=True)
    varied.vary(torch.tensor(rates), torch.tensor(cosine))
    together = final_losses(InnerOptimizer(varied), batch.take([*range(batch.tasks)] * len(cells)), steps)
    alone = [final_losses(InnerOptimizer(HandDesigned(rule, lr, s, steps)), batch, steps) for lr, s in cells]
    np.testing.assert_allclose(together.reshape(len(cells), -1), alone, rtol=1e-5)
    finite = np.asarray(alone)[np.isfinite(alone)]
    assert len(finite) > 10
    assert len(np.unique(finite.round(6))) == len(finite), "the cells must differ for this to say much"


@pytest.mark.parametrize("teleport", [None, RandomTeleport(0.3, last=0)])
def test_trials_are_what_the_tuned_optimizer_does_on_these_tasks(teleport):
    batch = train(FAMILY)
    tuning = tune("momentum", batch, 5, teleport)
    update = HandDesigned("momentum", tuning.lr, tuning.schedule, 5)
    finals = final_losses(InnerOptimizer(update, teleport), batch, 5)
    assert tuning.score == pytest.approx(float(np.exp(np.log(finals).mean())), rel=1e-5)


def test_how_many_tasks_are_played_together_changes_nothing():
    batch = train(FAMILY)
    one, few, all_ = (tune("Adam", batch, 4, RandomTeleport(last=0), chunk) for chunk in (1, 7, 1000))
    for other in (few, all_):
        assert (other.schedule, other.lr) == (one.schedule, one.lr)
        assert [(t.schedule, t.lr, t.diverged) for t in other.trials] == [
            (t.schedule, t.lr, t.diverged) for t in one.trials
        ]
        np.testing.assert_allclose([t.score for t in other.trials], [t.score for t in one.trials], rtol=1e-5)


def test_tuning_leaves_tasks_and_teleport_alone():
    batch, teleport = train(FAMILY), RandomTeleport(last=0)
    before = {k: p.clone() for k, p in batch.params.items()}
    first = tune("SGD", batch, 2, teleport)
    assert tune("SGD", batch, 2, teleport) == first
    assert all(torch.equal(p, before[k]) for k, p in batch.params.items())


def test_taking_tasks_keeps_shared_rows_shared():
    batch = train(FAMILY)
    some = batch.take([2, 0, 2])
    assert some.seeds.tolist() == [batch.seeds[i].item() for i in (2, 0, 2)]
    assert torch.equal(some.inputs["inner"], batch.inputs["inner"][[2, 0, 2]])
    assert some.shares_meta == batch.shares_meta is True


# --- no leak -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_tuning_on_other_splits_is_refused(split):
    batch = sample_meta_batch(FAMILY, split, range(2))
    with pytest.raises(ConfigError, match=f"train split only, got tasks of the {split} split"):
        tune("SGD", batch, 2)


class Logged(TeacherStudent):
    """Notes the split of every task that is drawn, and multiplies the targets of the test split by `twist`."""

    def __init__(self, log: list[str], twist: float = 1.0) -> None:
        super().__init__(4, 5, 2, rows=12, spread=10)
        self.log, self.twist, self.split = log, twist, ""

    def for_split(self, split):
        other = Logged(self.log, self.twist)
        other.split = split
        return other

    def sample(self, generator):
        self.log.append(self.split)
        x, y = super().sample(generator)
        return x, y * self.twist if self.split == "test" else y


def quick(family: TaskFamily, tasks: int = 3, progress=None) -> Evaluation:
    tele = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))
    tele.initialise(1)
    return evaluate(
        {"tele": tele},
        family,
        tasks=tasks,
        steps=3,
        tuning_tasks=2,
        timing_repeats=1,
        timing_tasks=1,
        progress=progress,
    )


@pytest.fixture(scope="module")
def logged() -> tuple[Evaluation, list[str]]:
    """An evaluation and the log of the splits that were drawn from, with the stages between."""
    log: list[str] = []
    return quick(Logged(log), progress=lambda stage, done, total: log.append(stage)), log


def test_no_test_task_is_played_before_all_is_tuned_and_recorded(logged):
    evaluation, log = logged
    # Before, they are only tried: does each begin with a finite loss?
    first = next(i for i in range(log.index("test"), len(log)) if log[i] == "test" and log[i - 1].startswith("tuning"))
    earlier, later = log[:first], log[first:]
    tuned = {e.name for e in evaluation.entries if e.kind == "baseline"}
    assert tuned == set(RULES)
    assert {s for s in earlier if s.startswith("tuning")} == {f"tuning {name}" for name in tuned}
    assert "recording the teleports of tele" in earlier
    assert set(log[: log.index("test")]) == {"train"}
    assert earlier[-1].startswith("tuning")
    assert not [s for s in earlier if s.startswith(("playing", "timing"))]
    assert not [s for s in later if s.startswith(("tuning", "recording")) or s in ("train", "validation")]
    assert "validation" not in log


def chosen(evaluation: Evaluation) -> dict[str, object]:
    """Everything that an evaluation chooses."""
    return {e.name: (e.tuning, dict(e.parts["teleport"])) for e in evaluation.entries} | {
        "reference": evaluation.reference,
        "rules": evaluation.applicable_rules,
    }


@pytest.mark.parametrize(("tasks", "twist"), [(5, 1.0), (3, 100.0)])
def test_what_is_chosen_does_not_depend_on_the_test_tasks(logged, tasks, twist):
    other = quick(Logged([], twist), tasks)
    assert chosen(other) == chosen(logged[0])
    for name in ("tele, mean schedule", "tele, random of same size", "Adam"):
        assert name in chosen(other)
    losses = [e["Adam"].losses("inner", 3)[0, :3] for e in (other, logged[0])]
    assert np.array_equal(*losses) == (twist == 1.0), "the test tasks are others if they are twisted"


# --- hand-designed optimizers --------------------------------------------------------------------

TORCH = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "Nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "AdaGrad": lambda p, lr: torch.optim.Adagrad(p, lr),
    "RMSProp": lambda p, lr: torch.optim.RMSprop(p, lr),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr),
}


def of_torch(batch, rule: UpdateRule, lr: float, steps: int, cosine: bool):
    """The parameters after so many steps of torch's own optimizer and schedule."""
    params = {k: p.clone().requires_grad_() for k, p in batch.params.items()}
    optimizer = TORCH[rule](list(params.values()), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps) if cosine else None
    x, y = batch.rows("inner")
    for _ in range(steps):
        optimizer.zero_grad()
        batch.losses(stacked_forward(batch.network, params, x), y).sum().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return {k: p.detach() for k, p in params.items()}


def of_ours(batch, update: HandDesigned, steps: int):
    unroll = Unroll(InnerOptimizer(update), batch, steps)
    return unroll.window(unroll.start(), steps, differentiable=False).end.params


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lr", [0.003, 0.05])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_rule_is_torch_s_of_the_same_step_size_and_schedule(make_batch, rule, lr, schedule):
    batch, steps = make_batch(tasks=3), 9
    ours = of_ours(batch, HandDesigned(rule, lr, schedule, steps), steps)
    theirs = of_torch(batch, rule, lr, steps, schedule == "cosine")
    for name, begin in batch.params.items():
        torch.testing.assert_close(ours[name] - begin, theirs[name] - begin, rtol=1e-9, atol=1e-12)
        assert (ours[name] - begin).abs().max() > 1e-4


def test_two_schedules_are_two_optimizers(make_batch):
    batch = make_batch()
    one, other = (of_ours(batch, HandDesigned("Adam", 0.01, s, 5), 5) for s in ("constant", "cosine"))
    assert not any(torch.allclose(one[k], other[k], rtol=1e-3) for k in one)


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (2, 0.5), (4, 0.0), (5, 0.0), (7, 0.0), (400, 0.0)])
def test_the_cosine_stays_at_zero_after_its_end(make_batch, step, factor):
    batch = make_batch()
    ones = map_params(torch.ones_like, batch.params)
    update = HandDesigned("SGD", 0.1, "cosine", 4)
    f, _ = update.propose(Point(batch.params, ones, batch.inputs["inner"], step), update.start(batch.params))
    for value in f.values():
        torch.testing.assert_close(value, torch.full_like(value, -0.1 * factor), rtol=1e-6, atol=1e-12)


def test_the_default_is_adam(make_batch):
    batch = make_batch()
    one, other = (of_ours(batch, u, 4) for u in (HandDesigned(), Adam(0.01)))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "adam"}, "rule must be one of SGD, .*AdamW, got 'adam'"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, got 'linear'"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0 and finite, got nan"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_named_with_their_value(arguments, message):
    with pytest.raises(ConfigError, match=message):
        HandDesigned(**arguments)
