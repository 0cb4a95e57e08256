"""Verdicts: equals are not told apart, 2% is seen, whom against whom, and the words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from metatele import (
    Adam,
    GradientDescent,
    InnerOptimizer,
    RandomTeleport,
    TorchUpdate,
)
from metatele.evaluation import Entry, Tuning, evaluate, statistics
from metatele.evaluation.judge import wins
from metatele.evaluation.judge.pairing import best_baseline
from metatele.evaluation.judge.verdict import FAMILY_WISE
from metatele.support.messages import percent
from metatele.testing import ExampleFamily
from tests.evaluation.conftest import (
    CLOSED_FORM,
    FALSE_POSITIVES,
    NOISE,
    REPEATS,
    claimed,
    entry,
    evaluation,
    losses_of,
    outcome,
    run_of,
    verdict,
)


@pytest.mark.parametrize("law", NOISE)
@pytest.mark.parametrize("tasks", [8, 16, 64, 128])
def test_two_equals_are_not_told_apart(few_resamples, law, tasks):
    stream = np.random.default_rng(tasks)
    wrong = 0
    for seed in range(REPEATS):
        (a,), (b,) = losses_of(stream, law, tasks, 2)
        wrong += outcome(a, b, seed=seed) != "not distinguishable"
    assert wrong <= FALSE_POSITIVES


@pytest.mark.parametrize(("law", "tasks"), [("heavy-tailed", 8), ("skewed", 64)])
def test_no_verdict_at_all_is_given_among_twelve_equals(few_resamples, law, tasks):
    stream = np.random.default_rng(tasks)
    wrong = 0
    for seed in range(REPEATS):
        entries = [entry(str(i), *x) for i, x in enumerate(losses_of(stream, law, tasks, 12))]
        wrong += any(v.outcome != "not distinguishable" for v in evaluation(entries, "0", seed=seed).verdicts)
    assert wrong <= FALSE_POSITIVES


def test_an_equal_among_ten_that_differ_is_not_told_apart(few_resamples):
    stream, factors = np.random.default_rng(0), np.exp(np.linspace(-2, 2, 10))
    wrong = []
    seen = 0
    for seed in range(REPEATS):
        one, equal, *others = losses_of(stream, "heavy-tailed", 16, 12)
        entries = [entry("one", *one), entry("equal", *equal)]
        entries += [entry(f"{f:.3g}", *(f * x)) for f, x in zip(factors, others, strict=True)]
        verdicts = {v.name: v.outcome for v in evaluation(entries, "one", seed=seed).verdicts}
        wrong.append(verdicts["equal"] != "not distinguishable")
        seen += [verdicts[f"{f:.3g}"] for f in (factors[0], factors[-1])] == ["better", "worse"]
    assert sum(wrong) <= FALSE_POSITIVES
    assert seen >= 90, "those that differ are told apart"


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (2, 2), (5, 2)])
def test_two_equal_recipes_are_not_told_apart_by_the_luck_of_their_seeds(few_resamples, ours, theirs):
    stream = np.random.default_rng(1)
    wrong = 0
    for seed in range(REPEATS):
        a, b = losses_of(stream, "normal", 32, 2, 5) * np.exp(0.5 * stream.normal(size=(2, 5, 1)))
        found = verdict([entry("b", *b[:theirs]), entry("a", *a[:ours])], "a", "b", seed=seed)
        wrong += found.outcome != "not distinguishable"
        assert found.meta_seeds == (ours, theirs)
    assert wrong <= FALSE_POSITIVES


def test_full_resampling_gives_the_same_outcomes():
    stream = np.random.default_rng(7)
    wrong = sum(
        outcome(*losses_of(stream, "skewed", 16, 2)[:, 0], seed=seed) != "not distinguishable"
        for seed in range(REPEATS)
    )
    assert wrong <= FALSE_POSITIVES


class Elsewhere(RandomTeleport):
    """Draws by the same law from other streams."""

    def start(self, params, group, seeds):
        return super().start(params, group, seeds + 1)


class ThereAndBack(RandomTeleport):
    """Moves in its first step, and back in its second one: the same function, rounded."""

    def choose(self, point, group, state):
        algebra, state = super().choose(replace(point, step=0), group, state)
        return [t if point.step == 0 else -t for t in algebra], state


def test_real_equals_are_not_told_apart():
    """Differences by rounding only, and two random teleports of one law."""
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=6)
    given = {
        "Adam": InnerOptimizer(Adam(0.02)),
        "torch's Adam": InnerOptimizer(TorchUpdate("Adam", {"lr": 0.02})),
        "random": InnerOptimizer(GradientDescent(0.03), RandomTeleport(0.5, "scaling")),
        "random elsewhere": InnerOptimizer(GradientDescent(0.03), Elsewhere(0.5, "scaling")),
    }
    wrong, draws, rounded = 0, 0, 0
    for seed in range(20):
        settings = {"tasks": 8, "steps": 3, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
        found = evaluate(given, family, seed=seed, baselines="none", **settings)
        for name, other in (("torch's Adam", "Adam"), ("random elsewhere", "random")):
            (v,) = (
                v
                for v in replace(found, reference=other).verdicts
                if (v.name, v.against) in ((name, other), (other, name))
            )
            wrong += v.outcome != "not distinguishable"
            differ = abs(v.change.value)
            draws += other == "random" and differ > 1
            rounded += other == "Adam" and 0 < differ < 1e-2
    assert wrong <= 2  # of 40
    assert draws >= 10, "two random teleports differ by more than rounding"
    assert rounded >= 5, "the two Adams are not the same bits"


def test_a_teleport_that_moves_and_moves_back_is_not_told_apart_from_none():
    """Gradient descent so slow that the two steps differ by rounding: that is all the teleport can do."""
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=6)
    update = GradientDescent(1e-9)
    given = {"stay": InnerOptimizer(update), "to and fro": InnerOptimizer(update, ThereAndBack(1.0, "scaling", last=1))}
    settings = {"tasks": 16, "steps": 2, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
    found = evaluate(given, family, baselines="none", reference="stay", **settings)
    (v,) = (v for v in found.verdicts if v.name == "to and fro")
    assert v.outcome == "not distinguishable"
    assert abs(v.change.value) < 1e-3
    assert np.nanmax(found["to and fro"].runs[0].moves.sizes) > 0.5, "it does move"


# --- better is better ----------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [16, 64])
@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("others", [0, 10])
def test_two_percent_on_every_task_is_seen(tasks, noise, others):
    stream = np.random.default_rng(tasks)
    hard = stream.lognormal(0, 2, (others + 1, tasks))
    good = 0.98 * hard[0] * np.exp(noise * stream.normal(size=tasks))
    entries = [entry("base", hard[0]), entry("good", good), *(entry(str(i), x) for i, x in enumerate(hard[1:]))]
    for name, against, expected in (("good", "base", "better"), ("base", "good", "worse")):
        if expected == "worse":
            entries[:2] = entries[1::-1]
            found = verdict([replace(e) for e in entries], name, against)
        else:
            found = verdict(entries, name, against)
        assert found.outcome == expected
        assert found.change.low <= found.change.value <= found.change.high
        assert found.change.value == pytest.approx(-2 if expected == "better" else 100 / 0.98 - 100, abs=0.5)
        assert found.win_rate == (1 if expected == "better" else 0)


@pytest.mark.parametrize(("factor", "expected"), [(0.9995, "not distinguishable"), (1.0005, "not distinguishable")])
def test_a_smaller_change_than_the_margin_is_rounding(factor, expected):
    losses = np.random.default_rng(0).lognormal(size=64)
    assert outcome(factor * losses, losses) == expected
    assert outcome(factor**4 * losses, losses) == ("better" if factor < 1 else "worse")


@pytest.mark.parametrize("shift", [-3.0, -3e3])
def test_rounding_of_losses_that_are_not_positive_is_no_gain(shift):
    stream = np.random.default_rng(0)
    losses = shift + stream.random(64)
    assert outcome(losses + 1e-6 * shift, losses) == "not distinguishable"
    found = verdict([entry("b", losses), entry("a", losses + 0.02 * shift)], "a", "b")
    assert (found.outcome, found.relative) == ("better", False)
    assert found.change.value == pytest.approx(0.02 * shift)
    assert "%" not in found.sentence.split(", lower")[0]


def test_one_task_decides_nothing():
    assert outcome([1.0], [2.0]) == "not decided"


def test_a_loss_that_is_not_finite_at_the_start_decides_nothing():
    unknown = entry("b", runs=(run_of([np.nan, 1.0], first=np.nan),))
    assert verdict([unknown, entry("a", [1.0, 2.0])], "a", "b").outcome == "not decided"


def test_the_level_is_divided_among_the_verdicts_and_their_two_intervals(monkeypatch):
    seen = {"change": [], "wins": []}
    compare, win_interval = statistics.compare, wins.win_interval

    def change(losses, other, rng, confidence, pool):
        seen["change"].append(1 - confidence)
        return compare(losses, other, rng, confidence, pool)

    def probability(a, b, tie, confidence, pool):
        seen["wins"].append(1 - confidence)
        return win_interval(a, b, tie, confidence, pool)

    monkeypatch.setattr("metatele.evaluation.judge.pairing.compare", change)
    monkeypatch.setattr("metatele.evaluation.judge.verdict.win_interval", probability)
    stream = np.random.default_rng(0)
    entries = [entry(str(i), stream.lognormal(size=8)) for i in range(6)]
    assert len(evaluation(entries, "0").verdicts) == 5
    assert sum(seen["change"]) + sum(seen["wins"]) == pytest.approx(1 - FAMILY_WISE)
    assert len({round(x, 12) for x in seen["change"]}) == len({round(x, 12) for x in seen["wins"]}) == 1


# --- whom against whom ---------------------------------------------------------------------------


def tuned(name: str, losses, score: float) -> Entry:
    tuning = Tuning("constant", 0.1, score, (), 1, 1)
    return entry(name, losses, kind="baseline", tuning=tuning, budgets=(), origins=())


def test_the_best_baseline_is_the_one_with_the_best_tuning_score():
    stream = np.random.default_rng(0)
    hard = stream.lognormal(size=8)
    entries = [
        entry("mine", hard),
        entry("plain", hard),
        tuned("lucky", 1e-3 * hard, 3.0),
        tuned("chosen", hard, 1.0),
        replace(tuned("failed", hard, 0.5), runs=()),
    ]
    assert best_baseline(entries).name == "chosen"
    assert best_baseline(entries[:2]) is None
    pairs = [(v.name, v.against) for v in evaluation(entries, "plain").verdicts]
    assert ("mine", "chosen") in pairs
    assert ("plain", "chosen") in pairs
    assert not [p for p in pairs if p in (("mine", "lucky"), ("plain", "lucky"))]
    assert ("lucky", "plain") in pairs
    assert ("chosen", "plain") not in pairs, "each pair once"


def test_scores_of_different_kinds_are_not_held_against_each_other():
    geometric, other = tuned("geometric", np.ones(4), 0.1), tuned("other", np.ones(4), 2.0)
    entries = [
        replace(geometric, tuning=replace(geometric.tuning, mean=3.0)),
        replace(other, tuning=replace(other.tuning, geometric=False, mean=2.0)),
    ]
    assert best_baseline(entries).name == "other"


def test_every_pair_is_judged_once():
    stream = np.random.default_rng(0)
    entries = [*claimed(stream), tuned("Adam", stream.lognormal(size=8), 1.0)]
    for reference in ("tele", "twin", "Adam", "tele, teleports off"):
        pairs = [(v.name, v.against) for v in evaluation(entries, reference, CLOSED_FORM).verdicts]
        assert len({frozenset(p) for p in pairs}) == len(pairs)
        assert all(a != b for a, b in pairs)
        judged = {frozenset(p) for p in pairs}
        assert all(frozenset((e.name, reference)) in judged for e in entries if e.name != reference)


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.9, "good is better than base: -10.0% [-10.0, -10.0], lower loss on 100% [62, 100] of 16 tasks."),
        (1.25, "good is worse than base: +25.0% [+25.0, +25.0], lower loss on 0% [0, 38] of 16 tasks."),
        (1.0, "good is not distinguishable from base: +0.0% [+0.0, +0.0], lower loss on 50% [13, 87] of 16 tasks."),
    ],
)
def test_sentences_say_outcome_interval_and_numbers(factor, words):
    losses = np.random.default_rng(0).lognormal(size=16)
    assert verdict([entry("base", losses), entry("good", factor * losses)], "good", "base").sentence == words


def test_sentences_say_how_many_seeds():
    losses = np.random.default_rng(0).lognormal(size=(3, 16))
    found = verdict([entry("base", losses[0]), entry("good", *losses)], "good", "base")
    numbers = [percent(x) for x in (found.change.value, found.change.low, found.change.high)]
    assert f"{numbers[0]}% [{numbers[1]}, {numbers[2]}]" in found.sentence
    assert found.sentence.endswith("of 16 tasks, 3 against 1 meta-seeds.")


def test_no_torch_stream_is_drawn_from():
    before = torch.random.get_rng_state()
    outcome(np.ones(4), np.arange(1.0, 5.0))
    assert torch.equal(torch.random.get_rng_state(), before)
