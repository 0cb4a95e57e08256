"""Contestants that diverge, or run away: it never pays, and never blurs a verdict."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from metatele import (
    Adam,
    GradientDescent,
    InnerOptimizer,
)
from metatele.evaluation import Run, evaluate
from metatele.evaluation.judge.pairing import BETWEEN, Side, paired_losses
from metatele.testing import ExampleFamily
from tests.evaluation.conftest import BUDGET, FALSE_POSITIVES, REPEATS, entry, evaluation, outcome, run_of, verdict


def test_diverging_on_the_hard_tasks_makes_nobody_better():
    stream = np.random.default_rng(0)
    losses = stream.lognormal(0, 2, 64)
    diverging = np.where(losses > np.median(losses), np.nan, losses)
    assert outcome(diverging, losses) == "worse"
    assert outcome(losses, diverging) == "better"
    assert outcome(0.9 * diverging, losses) in ("worse", "not distinguishable")


def test_one_divergence_is_counted_with_the_larger_of_first_and_last_loss():
    run = Run(
        np.array([0, 5, 10]),
        {"inner": np.array([[4.0, 4.0, 4.0], [1.0, 9.0, 2.0], [np.nan, np.nan, 1.0]])},
        {},
        np.ones((3, 3)),
        np.array([5, 5, 10]),
    )
    assert run.scored("inner")[-1].tolist() == [4, 9, 1]


def test_diverging_is_no_gain_where_the_loss_of_the_others_rises():
    """Of a test loss that rises as training goes on, the first is smaller than the last; a contestant that
    diverges at once is none the better."""
    finals = np.random.default_rng(0).uniform(2e3, 3e3, 32)  # from 1e3
    good, bad = entry("good", finals), entry("bad", np.full(32, np.nan))
    found = verdict([good, bad], "bad", "good")
    assert found.outcome == "not distinguishable"
    assert found.win_rate == 0.5
    still = entry("still", np.full(32, 1e3))
    assert verdict([good, still], "still", "good").outcome == "better", "one that stays where it was may win"


def test_losses_of_pairs_with_divergences_by_hand():
    one = entry("one", [np.nan, np.nan, 5.0, np.nan], [np.nan, 1.0, 1.0, 1.0])
    other = entry("other", [2e3, 2e3, np.nan, np.nan], [3e3, np.nan, np.nan, 4.0])
    a, b = paired_losses(one, other, "inner", 1)
    assert a.tolist() == [[3e3, 2e3, 5, 1e3], [3e3, 1, 1, 1]]
    assert b.tolist() == [[2e3, 2e3, 1e3, 1e3], [3e3, 1e3, 1e3, 4]]
    a, b = paired_losses(one, other, "inner", 0)
    assert (a == 1e3).all()
    assert (b == 1e3).all()


def test_a_real_contestant_that_diverges_everywhere_is_not_better():
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=12, parts=(0.5, 0.0, 0.5))
    given = {"fits": InnerOptimizer(Adam(0.1)), "explodes": InnerOptimizer(GradientDescent(1e6))}
    settings = {"tasks": 32, "steps": 30, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
    found = evaluate(given, family, baselines="none", **settings)
    assert found["explodes"].diverged == 32
    rise = found["fits"].losses("test", 30) / found["fits"].losses("test", 0)
    assert np.median(rise) > 1, "the example needs a test loss that rises"
    (v,) = (v for v in found.verdicts if v.name == "explodes")
    assert v.outcome != "better"


def test_failed_contestants_are_not_decided():
    losses = np.ones(4)
    for entries in ([entry("b", losses), entry("a", runs=())], [entry("b", runs=()), entry("a", losses)]):
        found = verdict(entries, "a", "b")
        assert (found.outcome, found.tasks) == ("not decided", 0)
        assert found.sentence == "a against b: not decided, there is no interval."


# --- a run-away blurs no verdict -----------------------------------------------------------------

SEEDS = tuple(replace(BUDGET, seed=s) for s in range(3))
RUN_AWAYS = {
    "nothing": lambda x: x,
    "one seed diverges": lambda x: np.where(np.arange(3)[:, None] == 0, np.nan, x),
    "two seeds diverge": lambda x: np.where(np.arange(3)[:, None] > 0, np.nan, x),
    "all seeds diverge": lambda x: np.full_like(x, np.nan),
    "162 of 384 runs diverge": lambda x: np.where(np.arange(384).reshape(3, 128) < 162, np.nan, x),
    "half of the tasks diverge": lambda x: np.where(np.arange(128) % 2 == 0, np.nan, x),
    "one seed ends at 1e8": lambda x: np.where(np.arange(3)[:, None] == 0, 1e8, x),
    "one seed ends at 1e30": lambda x: np.where(np.arange(3)[:, None] == 0, 1e30, x),
    "two seeds end at 1e30": lambda x: np.where(np.arange(3)[:, None] > 0, 1e30, x),
    "some tasks end at 1e30": lambda x: np.where(np.arange(384).reshape(3, 128) % 7 == 0, 1e30, x),
}


def recipes(stream, count: int, seeds: int = 3, tasks: int = 128, luck: float = 0.02):
    """Losses [count, seeds, tasks] about 1, of recipes that are equal but for the luck of their seeds."""
    hard = stream.normal(size=tasks)
    noise = luck * stream.normal(size=(count, seeds, 1)) + 0.05 * stream.normal(size=(count, seeds, tasks))
    return np.exp(hard + noise)


@pytest.mark.parametrize("how", RUN_AWAYS)
def test_who_is_better_than_all_rules_is_better_than_a_control_that_runs_away(how):
    """With a finite loss in place of the run-aways, whatever it is, or with none at all."""
    tele, control, *rules = recipes(np.random.default_rng(0), 10)
    entries = [entry("tele", *(0.85 * tele), budgets=SEEDS)]
    entries += [entry(f"rule {i}", *x, budgets=SEEDS) for i, x in enumerate(rules)]
    entries.append(entry("off", *RUN_AWAYS[how](control), kind="control", source="tele", budgets=SEEDS))
    found = [v for v in evaluation(entries, "tele").verdicts if v.against == "tele"]
    assert {v.name: v.outcome for v in found} == {e.name: "worse" for e in entries[1:]}
    assert verdict(entries[::-1], "tele", "off").outcome == "better"


def test_three_meta_seeds_of_which_one_diverges_by_five_decades():
    """What was seen: 162 of 384 runs of the control diverge, the teleport has the lower loss on each of 128 tasks with
    each seed, and the mean log ratio says nothing."""
    tele, control, *rules = recipes(np.random.default_rng(0), 10, luck=0.1)
    control = RUN_AWAYS["162 of 384 runs diverge"](10 * control)
    far = [run_of(x, first=1e5) for x in control]
    entries = [entry("tele", *tele, budgets=SEEDS), *(entry(str(i), *x, budgets=SEEDS) for i, x in enumerate(rules))]
    entries.append(entry("off", budgets=SEEDS, kind="control", source="tele", runs=tuple(far)))
    found = verdict(entries, "tele", "off")
    logs = np.log(np.stack([r.scored("inner")[-1] for r in far])).mean(1)
    assert np.ptp(logs) > 5, "the example needs seeds that are far from each other"
    assert (found.outcome, found.wins.value) == ("better", 1.0)
    assert found.change.high < -80
    back = verdict(entries, "off", "tele")
    assert (back.outcome, back.wins.value) == ("worse", 0.0)
    assert back.change.low > 400


@pytest.mark.parametrize("level", [1e-6, 1.0, 30.0, 999.0, 1e4, 1e30])
def test_no_finite_loss_would_have_been_clearer_than_a_divergence(level):
    """Two recipes that nearly can be told apart: with any loss in place of the diverged seed the end of the interval is
    no clearer (by more than the few levels that are tried differ)."""
    tele, other = recipes(np.random.default_rng(0), 2)
    finite, diverged = other.copy(), other.copy()
    finite[0], diverged[0] = np.maximum(level, other[0]), np.nan
    ends = []
    for losses in (finite, diverged):
        ends.append(verdict([entry("b", *losses), entry("a", *(0.5 * tele))], "a", "b").change.high)
    assert ends[1] <= ends[0] + 1


def test_run_aways_in_between_by_hand():
    one = entry("one", [1.0, 1.0, 1.0, 9e2])
    other = entry("other", [np.nan, np.nan, 2e3, 4e4], [4.0, np.nan, 8.0, 3e3])
    side = Side.of(other, one, "inner", 1)
    assert side.losses.tolist() == [[1e3, 1e3, 2e3, 4e4], [4, 1e3, 8, 3e3]]
    assert side.drawn_in.tolist() == [[4, 1e3, 8, 1e4], [4, 1e3, 8, 3e3]]
    assert side.bounded.tolist() == [[1e3, 1e3, 1e3, 1e4], [4, 1e3, 8, 3e3]]
    assert len(side.tempered) == len(BETWEEN)
    plain = Side.of(one, other, "inner", 1)
    assert all(x is plain.losses for x in plain.tempered)


# --- and makes no equals differ ------------------------------------------------------------------

LAWS = {
    "a seed in ten diverges": lambda r, x: np.where(r.random(x.shape[:2])[..., None] < 0.1, np.nan, x),
    "a seed in three diverges": lambda r, x: np.where(r.random(x.shape[:2])[..., None] < 0.33, np.nan, x),
    "a seed in three runs away": lambda r, x: np.where(r.random(x.shape[:2])[..., None] < 0.33, 1e9 * x, x),
    "a run in five diverges": lambda r, x: np.where(r.random(x.shape) < 0.2, np.nan, x),
    "seeds are heavy-tailed": lambda r, x: x * np.exp(r.standard_t(2, size=x.shape[:2]))[..., None],
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [2, 6])
def test_equals_that_run_away_now_and_then_are_not_told_apart(few_resamples, law, count):
    stream, wrong = np.random.default_rng(count), 0
    for seed in range(REPEATS):
        losses = LAWS[law](stream, recipes(stream, count, tasks=16, luck=0.3))
        entries = [entry(str(i), *x, budgets=SEEDS) for i, x in enumerate(losses)]
        wrong += any(v.outcome in ("better", "worse") for v in evaluation(entries, "0", seed=seed).verdicts)
    assert wrong <= FALSE_POSITIVES
