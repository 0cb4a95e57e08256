"""Numbers over tasks and meta-seeds: by hand, by law, and how often the intervals hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from metatele.evaluation import statistics
from metatele.evaluation.statistics import (
    Comparison,
    Interval,
    area_under_log,
    as_change,
    cautious_interval,
    compare,
    first_reached,
    mean_interval,
    performance_profile,
    summarise,
)

LOGS = st.floats(-20, 20)
TABLES = hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(2, 12)), elements=LOGS)
REPEATS = 400


def bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def few_resamples(monkeypatch):
    """A bootstrap of 500 resamples in place of 5000: many intervals in little time. Student's t, the other of
    the two that intervals are made from, stays as it is."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)


# --- summaries -----------------------------------------------------------------------------------


def test_summary_by_hand():
    s = summarise([[1.0, 4.0, 16.0]])
    assert (s.mean, s.median) == (7.0, 4.0)
    assert s.geometric_mean == pytest.approx(4.0)
    assert math.isnan(s.seed_spread)
    two = summarise([[1.0, 1.0], [math.e**2, math.e**2]])
    assert two.seed_spread == pytest.approx(math.sqrt(2))  # of the logs 0 and 2, n - 1 = 1
    assert two.geometric_mean == pytest.approx(math.e)


def test_summary_of_losses_that_are_not_positive():
    s = summarise([[1.0, -1.0], [3.0, 3.0]])
    assert (s.mean, s.seed_spread) == (1.5, pytest.approx(3 / math.sqrt(2)))  # of the means 0 and 3
    assert math.isnan(s.geometric_mean)
    assert math.isnan(summarise([[0.0, 1.0]]).geometric_mean)
    nothing = summarise(np.empty((0, 0)))
    assert all(math.isnan(x) for x in (nothing.mean, nothing.median, nothing.geometric_mean, nothing.iqm))


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.floats(-1e3, 1e3)))
def test_interquartile_mean_is_scipy_s(losses):
    assert summarise(losses).iqm == pytest.approx(float(stats.trim_mean(losses.ravel(), 0.25)), abs=1e-9)


def test_interquartile_mean_leaves_a_quarter_out_at_each_end():
    assert summarise([[100.0, 2.0, 3.0, -50.0]]).iqm == 2.5


@given(TABLES, st.floats(1e-3, 1e3))
def test_summary_scales_with_the_loss(logs, factor):
    one, other = summarise(np.exp(logs)), summarise(factor * np.exp(logs))
    for name in ("mean", "median", "geometric_mean", "iqm"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-9)
    assert other.seed_spread == pytest.approx(one.seed_spread, rel=1e-6, abs=1e-9, nan_ok=True)


# --- comparisons ---------------------------------------------------------------------------------


def test_comparison_by_hand():
    p = compare([[2.0, 8.0]], [[1.0, 2.0]], rng())
    assert p.difference.value == pytest.approx(3.5)
    assert p.change.value == pytest.approx(100 * (math.sqrt(8) - 1))
    assert p.win_rate == 0
    # Two values, 1 and 6: Student's t with one degree of freedom, standard error 2.5.
    reach = 2.5 * math.tan(math.pi * 0.475)
    assert p.difference.low == pytest.approx(3.5 - reach)
    assert p.difference.high == pytest.approx(3.5 + reach)


def test_one_task_has_a_difference_but_no_interval():
    p = compare([[2.0]], [[1.0]], rng())
    assert (p.difference.value, p.change.value) == (1.0, pytest.approx(100))
    assert all(math.isnan(x) for i in (p.difference, p.change) for x in (i.low, i.high))


def test_losses_that_are_not_positive_have_no_ratio():
    for a, b in (([[1.0, -1.0]], [[1.0, 1.0]]), ([[1.0, 1.0]], [[0.0, 1.0]])):
        p = compare(a, b, rng())
        assert math.isfinite(p.difference.low)
        assert all(math.isnan(x) for x in bounds(p.change))


def test_equal_losses_differ_by_exactly_zero():
    losses = rng().lognormal(size=(1, 9))
    p = compare(losses, losses, rng())
    assert bounds(p.difference) == bounds(p.change) == (0, 0, 0)
    assert p.win_rate == 0.5


def test_win_rate_counts_a_tie_half_and_every_pair_of_seeds():
    def wins(a, b):
        return compare(a, b, rng()).win_rate

    assert wins([[1.0, 2.0, 3.0, 4.0]], [[2.0, 2.0, 2.0, 2.0]]) == (1 + 0.5) / 4
    assert wins([[1.0, 3.0], [2.0, 1.0]], [[2.0, 2.0]]) == (1 + 0 + 0.5 + 1) / 4


@given(TABLES, st.data())
def test_swapping_the_two_turns_the_comparison_round(a, data):
    b = data.draw(hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.just(a.shape[1])), elements=LOGS))
    there, back = (cautious_interval(*pair, rng(), 0.95) for pair in ((a, b), (b, a)))
    size = 1e-9 + np.abs([*bounds(there)]).max() * 1e-9
    assert bounds(there) == pytest.approx((-back.value, -back.high, -back.low), abs=size)
    wins = [compare(np.exp(x), np.exp(y), rng()).win_rate for x, y in ((a, b), (b, a))]
    assert sum(wins) == pytest.approx(1)


def test_swapping_the_two_of_skewed_losses_agrees_up_to_resampling():
    a, b = rng().lognormal(size=(2, 1, 40))
    there, back = compare(a, b, rng(1)).change, compare(b, a, rng(2)).change
    logs = [np.log1p(np.array(bounds(c)) / 100) for c in (there, back)]
    np.testing.assert_allclose(logs[0], -logs[1][[0, 2, 1]], atol=0.02)
    assert logs[0][0] == pytest.approx(-logs[1][0], abs=1e-12)


@given(TABLES, st.floats(1e-6, 1e6), st.integers(0, 5))
def test_change_does_not_depend_on_the_scale_of_the_loss(logs, factor, seed):
    a = np.exp(logs)
    b = a * rng(seed).lognormal(size=a.shape)
    one, other = compare(a, b, rng()), compare(factor * a, factor * b, rng())
    assert bounds(other.change) == pytest.approx(bounds(one.change), rel=1e-6, abs=1e-6)
    assert bounds(other.difference) == pytest.approx(tuple(factor * x for x in bounds(one.difference)), rel=1e-6)


@given(TABLES, st.floats(0.5, 0.9), st.floats(0.91, 0.9999))
def test_interval_holds_its_value_and_grows_with_confidence(a, less, more):
    b = np.zeros_like(a[:1])
    narrow, wide = (cautious_interval(a, b, rng(), c) for c in (less, more))
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high


@given(TABLES)
def test_change_is_the_ratio_of_geometric_means(logs):
    a, b = np.exp(logs), np.exp(logs[::-1, ::-1] / 2)
    ratio = summarise(a).geometric_mean / summarise(b).geometric_mean
    p: Comparison = compare(a, b, rng())
    assert p.change.value == pytest.approx(100 * (ratio - 1), rel=1e-9, abs=1e-9)


def test_change_in_percent():
    assert bounds(as_change(Interval(0.0, -math.log(2), math.log(3)))) == pytest.approx((0, -50, 200))


# --- intervals -----------------------------------------------------------------------------------


def test_bootstrap_of_two_values():
    # A resample's mean is 1, 3.5 or 6, the ends with probability 1/4 each.
    assert bounds(mean_interval(np.array([1.0, 6.0]), rng())) == (3.5, 1.0, 6.0)


def test_bootstrap_of_nothing_one_and_equal_values():
    assert all(math.isnan(x) for x in bounds(mean_interval(np.array([]), rng())))
    value, low, high = bounds(mean_interval(np.array([2.0]), rng()))
    assert (value, math.isnan(low), math.isnan(high)) == (2.0, True, True)
    assert all(math.isnan(x) for x in bounds(mean_interval(np.array([1.0, np.nan, 2.0]), rng())))
    assert bounds(mean_interval(np.full(5, 0.1), rng())) == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)


def test_bootstrap_of_many_values_is_the_normal_one():
    values = rng().normal(3.0, 2.0, 2000)
    half = stats.norm.ppf(0.975) * values.std() / math.sqrt(2000)
    expected = (values.mean(), values.mean() - half, values.mean() + half)
    assert bounds(mean_interval(values, rng())) == pytest.approx(expected, abs=0.006)


def missed(draw, mean: float, tasks: int, confidence: float) -> float:
    """How often the interval over so many tasks misses the true mean."""
    stream = rng(3)
    out = 0
    for _ in range(REPEATS):
        interval = cautious_interval(draw(stream, tasks)[None], np.zeros((1, tasks)), stream, confidence)
        out += not interval.low <= mean <= interval.high
    return out / REPEATS


SYMMETRIC = {
    "normal": lambda r, n: r.normal(size=n),
    "heavy-tailed": lambda r, n: r.standard_t(2.5, size=n),
    "mostly equal": lambda r, n: r.normal(size=n) * (r.random(n) < 0.1),
}
SKEWED = {
    "exponential": (lambda r, n: r.exponential(size=n), 1.0),
    "lognormal": (lambda r, n: r.lognormal(sigma=0.75, size=n), math.exp(0.75**2 / 2)),
    "a few large": (lambda r, n: r.exponential(size=n) * (r.random(n) < 0.3), 0.3),
}


@pytest.mark.parametrize("law", SYMMETRIC)
@pytest.mark.parametrize("tasks", [8, 32])
@pytest.mark.parametrize(("confidence", "most"), [(0.95, 0.075), (0.99, 0.025)])
def test_intervals_of_symmetric_differences_hold_as_often_as_they_say(few_resamples, law, tasks, confidence, most):
    """Differences of two equals are symmetric, whatever the law of the losses. `most` is the level and
    about two and a half standard errors of the simulation."""
    assert missed(SYMMETRIC[law], 0.0, tasks, confidence) <= most


@pytest.mark.parametrize("law", SKEWED)
@pytest.mark.parametrize(("confidence", "most"), [(0.95, 0.10), (0.99, 0.045)])
def test_intervals_of_skewed_differences_hold_nearly_as_often(few_resamples, law, confidence, most):
    draw, mean = SKEWED[law]
    assert missed(draw, mean, 64, confidence) <= most


def test_intervals_are_no_wider_than_needed(few_resamples):
    assert missed(SYMMETRIC["normal"], 0.0, 64, 0.95) >= 0.03


# --- seeds ---------------------------------------------------------------------------------------


def test_one_seed_is_the_task_interval():
    """The wider of bootstrap and Student's t at each end; here, with skewed tasks, each wins once."""
    values = rng().exponential(size=30) ** 3
    plain = mean_interval(values, rng(1))
    reach = stats.sem(values) * stats.t.ppf(0.975, 29)
    both = cautious_interval(values[None], np.zeros((1, 30)), rng(1), 0.95)
    assert bounds(both) == pytest.approx((plain.value, plain.value - reach, plain.high))
    assert plain.low > plain.value - reach
    assert plain.high > plain.value + reach


def test_three_seeds_that_agree_are_no_more_tasks():
    one = rng().normal(size=(1, 5))
    three, zeros = np.repeat(one, 3, 0), np.zeros((1, 5))
    single, agreed = (cautious_interval(x, zeros, rng(), 0.95) for x in (one, three))
    assert bounds(agreed) == pytest.approx(bounds(single))


def test_three_seeds_that_nearly_agree_widen_the_interval_by_their_spread_in_squares():
    seeds = np.array([[-0.1], [0.0], [0.1]]) + np.array([[1.0, 2.0, 4.0, 5.0]])
    zeros = np.zeros((1, 4))
    alone = cautious_interval(seeds[1:2], zeros, rng(), 0.95)
    added = 0.1 / math.sqrt(3) * stats.t.ppf(0.975, 2)
    together = cautious_interval(seeds, zeros, rng(), 0.95)
    assert together.high - 3 == pytest.approx(math.hypot(alone.high - 3, added))
    assert 3 - together.low == pytest.approx(math.hypot(3 - alone.low, added))


@pytest.mark.parametrize("side", [0, 1])
def test_two_seeds_that_disagree_prove_nothing_however_many_tasks(side):
    tasks = rng().normal(scale=0.01, size=(1, 500))
    pair = [np.array([[-1.0], [-2.0]]) + tasks, np.zeros((1, 500))]
    interval = cautious_interval(*(pair if side == 0 else pair[::-1]), rng(), 0.95)
    assert interval.low < -4
    assert interval.high > 4
    alone = cautious_interval(pair[0][:1], pair[1], rng(), 0.95)
    assert alone.high < -0.99


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (3, 3), (5, 1)])
@pytest.mark.parametrize(("confidence", "most"), [(0.95, 0.075), (0.99, 0.025)])
def test_intervals_over_seeds_hold_as_often_as_they_say(few_resamples, ours, theirs, confidence, most):
    """The mean over recipes' seeds is sought: effects of tasks, of seeds (as large), and of both together."""
    stream, tasks, out = rng(5), 16, 0
    for _ in range(REPEATS):
        a, b = (
            stream.normal(size=(k, 1)) * (k > 1) + stream.normal(size=(1, tasks)) + stream.normal(size=(k, tasks))
            for k in (ours, theirs)
        )
        interval = cautious_interval(a, b, stream, confidence)
        out += not interval.low <= 0 <= interval.high
    assert out / REPEATS <= most


# --- profiles, areas, targets --------------------------------------------------------------------


def test_performance_profile_by_hand():
    profile = performance_profile({"a": [[1.0, 4.0]], "b": [[2.0, 1.0]], "c": [[1.0, 8.0], [3.0, 1.0]]}, [1, 2, 3, 8])
    assert profile["a"].tolist() == [0.5, 0.5, 0.5, 1]
    assert profile["b"].tolist() == [0.5, 1, 1, 1]
    assert profile["c"].tolist() == [0.5, 0.5, 0.75, 1]


@given(st.lists(TABLES, min_size=1, max_size=4))
def test_performance_profile_rises_to_one_and_somebody_is_best(tables):
    tasks = min(t.shape[1] for t in tables)
    losses = {str(i): np.exp(t[:, :tasks]) for i, t in enumerate(tables)}
    ratios = [1.0, 1.5, 10.0, 1e6, math.exp(41)]
    profile = performance_profile(losses, ratios)
    for values in profile.values():
        assert (np.diff(values) >= 0).all()
        assert values[-1] == 1
    # On every task one contestant (in one of its seeds) is the best one.
    assert sum(values[0] * losses[name].size for name, values in profile.items()) >= tasks
    assert performance_profile({"alone": losses["0"][:1]}, [1.0])["alone"].tolist() == [1]


@given(st.floats(-3, 3), st.floats(-3, 3), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_area_under_a_straight_log_curve_is_its_middle_whatever_the_steps(begin, slope, gaps):
    at = np.cumsum([0, *gaps])
    curve = np.exp(begin + slope * at / at[-1])
    assert area_under_log(at, curve) == pytest.approx(begin + slope / 2, abs=1e-9)


def test_area_under_uneven_steps_by_hand():
    # Trapezoids of the logs 0, 2, 2 over 1 and 3 steps: (1 + 6) / 4.
    assert area_under_log([0, 1, 4], np.exp([0.0, 2.0, 2.0])) == pytest.approx(7 / 4)
    both = area_under_log([0, 2], [[1.0, 1.0], [math.e, 0.0]])
    assert both[0] == pytest.approx(0.5)
    assert math.isnan(both[1])
    assert area_under_log([0], [[math.e, 1.0]]) == pytest.approx([1, 0])


def test_first_step_at_the_target():
    curves = np.array([[4.0, 1.0, 4.0], [2.0, 3.0, 4.0], [1.0, 1.0, 4.0], [3.0, 0.0, np.nan]])
    assert first_reached([0, 10, 30, 100], curves, [2.0, 1.0, 3.0]).tolist() == [10, 0, np.inf]
    assert first_reached([0, 10, 30, 100], curves, 0.5).tolist() == [np.inf, 100, np.inf]
