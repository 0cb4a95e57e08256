"""The probability of the lower loss: by hand, its symmetry, and how often two equals are told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from metatele.evaluation.judge.wins import win_interval
from metatele.evaluation.seeds import SeedPool
from tests.evaluation.conftest import entry, verdict

ALONE = SeedPool()
LOSSES = st.integers(1, 3).flatmap(lambda k: arrays(np.float64, (k, 5), elements=st.integers(-9, 9).map(float)))


def test_one_seed_each_is_clopper_and_pearsons():
    a, b = np.zeros((1, 10)), np.array([[1.0] * 8 + [-1.0] * 2])
    found = win_interval(a, b, 0.0, 0.95, ALONE)
    exact = stats.binomtest(8, 10).proportion_ci(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, exact.low, exact.high))


@pytest.mark.parametrize("wins", [0, 10])
def test_ten_of_ten_are_no_certainty(wins):
    found = win_interval(np.zeros((1, 10)), np.array([[1.0] * wins + [-1.0] * (10 - wins)]), 0.0, 0.95, ALONE)
    exact = stats.binomtest(wins, 10).proportion_ci(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_ties_count_half():
    a, b = np.zeros((1, 4)), np.array([[0.05, -0.05, 1.0, -1.0]])
    assert win_interval(a, b, 0.1, 0.95, ALONE).value == 0.5
    assert win_interval(a, b, 0.01, 0.95, ALONE).value == 0.5
    assert win_interval(a, b + 0.1, 0.1, 0.95, ALONE).value == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_the_luck_of_seeds_by_hand():
    """Of two recipes of two seeds each, one seed always wins in the one, and there are ties in the other."""
    a, b = np.array([[0.0] * 100, [1.0] * 100]), np.full((2, 100), 2.0)
    found = win_interval(a, b, 0.0, 0.5, ALONE)
    # Variances 1/8 and 0, pooled 1/16 with 2 degrees of freedom: (1/8 + 1/16) / 2.
    luck = np.sqrt(3 / 32) * stats.t.ppf(0.75, 2)
    tasks = 1 - stats.binomtest(100, 100).proportion_ci(0.5).low
    assert (found.value, found.low) == pytest.approx((1, 1 - np.hypot(tasks, luck)))
    calm = SeedPool((np.zeros((5, 100)),))
    assert win_interval(a, b, 0.0, 0.5, calm).low > found.low, "other recipes know better"


@given(LOSSES, LOSSES, st.sampled_from([0.0, 0.5]))
def test_what_the_one_wins_the_other_loses(a, b, tie):
    ours, theirs = win_interval(a, b, tie, 0.9, ALONE), win_interval(b, a, tie, 0.9, ALONE)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert (theirs.low, theirs.value, theirs.high) == pytest.approx((1 - ours.high, 1 - ours.value, 1 - ours.low))


@given(LOSSES, LOSSES)
def test_only_the_order_counts(a, b):
    assert win_interval(a, b, 0.0, 0.9, ALONE) == win_interval(np.exp(a), np.exp(b), 0.0, 0.9, ALONE)


@pytest.mark.parametrize("values", [np.zeros((1, 1)), np.array([[np.nan, 1.0]])])
def test_what_has_no_interval(values):
    found = win_interval(values, np.ones_like(values), 0.0, 0.9, ALONE)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.1), (3, 1.0), (3, 10.0), (10, 1.0)])
@pytest.mark.parametrize("others", [0, 8])
def test_two_equals_are_told_apart_no_more_often_than_said(seeds, luck, others):
    stream, wrong, repeats = np.random.default_rng(seeds), 0, 400
    for _ in range(repeats):
        draws = stream.normal(size=(2 + others, seeds, 16)) + luck * stream.normal(size=(2 + others, seeds, 1))
        a, b, *pool = draws
        found = win_interval(a, b, 0.0, 0.95, SeedPool(tuple(pool) if seeds > 1 else ()))
        wrong += not found.low <= 0.5 <= found.high
    assert wrong / repeats <= 0.07


def heavy(stream):
    """Factors of which some are enormous, so that their mean logarithm is anything."""
    return np.exp(np.where(np.arange(64) % 16 == 0, 60 * stream.random(64), 0.0))


def test_wins_decide_where_the_mean_cannot():
    stream = np.random.default_rng(0)
    losses = stream.lognormal(size=64)
    found = verdict([entry("b", losses), entry("a", 0.99 * losses * heavy(stream))], "a", "b")
    assert found.change.low < 0 < found.change.high
    assert (found.outcome, found.win_rate) == ("better", 60 / 64)


def test_wins_decide_nothing_against_the_mean():
    losses = np.random.default_rng(0).lognormal(size=256)
    factors = np.where(np.arange(256) % 4 == 0, 100.0, 0.99)
    found = verdict([entry("b", losses), entry("a", factors * losses)], "a", "b")
    assert found.change.low > 0
    assert found.wins.low > 0.5
    assert found.outcome == "not distinguishable"
