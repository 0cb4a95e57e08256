"""The spread between meta-seeds: values by hand, and how often two equals are told apart."""

import math

import numpy as np
import pytest
from scipy import stats

from metatele.evaluation.seeds import SeedPool

EQUAL = 3000  # comparisons of two equals


def recipe(*means: float, tasks: int = 2) -> np.ndarray:
    """Values [K, tasks] of a recipe whose seeds have these means."""
    return np.array(means)[:, None] + np.linspace(-1, 1, tasks)


def t(confidence: float, dof: int) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, dof))


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_one_seed_each_has_no_spread(paired):
    assert SeedPool((recipe(1, 2, 9),), paired).reach(recipe(1), recipe(5), 0.99) == 0


def test_two_recipes_alone():
    a, b = recipe(0, 2, 4), recipe(1, 1, 1)
    # Variances 4 and 0; pooled 2 with 4 degrees of freedom. Each counts with the larger of its own and 2.
    assert SeedPool().reach(a, b, 0.95) == pytest.approx(math.sqrt(4 / 3 + 2 / 3) * t(0.95, 4))
    # Paired, it is Student's t of the differences -1, 1, 3.
    assert SeedPool(paired=True).reach(a, b, 0.95) == pytest.approx(2 / math.sqrt(3) * t(0.95, 2))


@pytest.mark.parametrize("swapped", [False, True])
def test_one_recipe_against_what_was_not_meta_trained(swapped):
    two = (recipe(0, 2, 4), recipe(7))
    reach = SeedPool((recipe(0, 0, 0),)).reach(*(two[::-1] if swapped else two), 0.95)
    assert reach == pytest.approx(2 / math.sqrt(3) * t(0.95, 4)), "its own spread is the larger one"


def test_a_lucky_small_spread_counts_with_the_pooled_one():
    calm, others = recipe(1, 1), (recipe(0, 2), recipe(10, 12))
    assert SeedPool(others).reach(calm, recipe(3), 0.9) == pytest.approx(math.sqrt(4 / 3) / math.sqrt(2) * t(0.9, 3))


def test_what_a_seed_does_to_all_recipes_cancels_in_pairs():
    seeds = np.array([0.0, 100.0, -50.0])
    a, b, c = (recipe(*(seeds + own)) for own in ([0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]))
    paired, unpaired = (SeedPool((c,), p).reach(a, b, 0.99) for p in (True, False))
    # Residuals of the 3 x 3 block design have the variance 0.1^2 * (1 - 1 / 3) * 3 / 4 with 4 degrees of freedom.
    own = np.std([0.1, -0.1, 0], ddof=1)
    assert paired == pytest.approx(max(own, math.sqrt(2 * 0.01 * 2 / 4)) / math.sqrt(3) * t(0.99, 4))
    assert unpaired > 100


@pytest.mark.parametrize("paired", [False, True])
def test_the_pool_does_not_make_an_own_spread_smaller(paired):
    a, b = recipe(0, 9, -9), recipe(3, -3, 0)
    calm = tuple(recipe(i, i, i) for i in range(8))
    own = np.std(a.mean(1) - b.mean(1), ddof=1) if paired else math.hypot(9, 3)
    assert SeedPool(calm, paired).reach(a, b, 0.95) >= own / math.sqrt(3) * stats.norm.ppf(0.975)


@pytest.mark.parametrize("paired", [False, True])
def test_levels_of_recipes_do_not_matter_and_the_scale_comes_through(paired):
    draws = np.random.default_rng(0).normal(size=(4, 3, 5))
    a, b, *others = draws
    reach = SeedPool(tuple(others), paired).reach(a, b, 0.95)
    moved = SeedPool(tuple(r + 7 for r in others), paired)
    assert moved.reach(a - 3, b + 5, 0.95) == pytest.approx(reach)
    assert moved.map(lambda r: 2 * r).reach(2 * a, 2 * b, 0.95) == pytest.approx(2 * reach)
    assert SeedPool(tuple(others), paired).reach(b, a, 0.95) == pytest.approx(reach)


def test_mapped_pools_stay_paired():
    pool = SeedPool((recipe(1, 2),), True).map(np.exp)
    assert pool.paired
    np.testing.assert_array_equal(pool.recipes[0], np.exp(recipe(1, 2)))


# --- how often two equals are told apart ---------------------------------------------------------

SPREADS = {"equal": lambda r, n: np.ones(n), "unequal": lambda r, n: np.exp(0.7 * r.normal(size=n))}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("recipes", "seeds"), [(2, 3), (10, 2), (10, 3)])
def test_two_equals_of_several_are_told_apart_no_more_often_than_said(recipes, seeds, paired, spread):
    """Recipes whose spreads are one draw of a law each; the seeds have an effect on all alike if paired."""
    stream, wrong = np.random.default_rng(seeds), 0
    for _ in range(EQUAL):
        means = stream.normal(size=(recipes, seeds)) * SPREADS[spread](stream, recipes)[:, None]
        a, b, *others = (means + paired * stream.normal(size=seeds))[:, :, None]
        wrong += abs(a.mean() - b.mean()) > SeedPool(tuple(others), paired).reach(a, b, 0.95)
    assert wrong / EQUAL <= 0.065


@pytest.mark.parametrize("paired", [False, True])
def test_other_recipes_help_to_see_a_difference(paired):
    """Five standard deviations, three seeds, a confidence of one among thirty verdicts at 99%."""
    stream, seen, alone = np.random.default_rng(0), 0, 0
    for _ in range(200):
        a, b, *others = stream.normal(size=(10, 3, 1))
        difference = abs(5 + a.mean() - b.mean())
        seen += difference > SeedPool(tuple(others), paired).reach(a, b, 1 - 0.01 / 30)
        alone += difference > SeedPool((), paired).reach(a, b, 1 - 0.01 / 30)
    assert seen > 130
    assert alone < 50
