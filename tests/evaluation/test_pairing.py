"""Which recipes are pooled, and which meta-seeds are paired."""

from dataclasses import replace

import numpy as np

from metatele.evaluation.judge.pairing import pool_of
from tests.evaluation.conftest import BUDGET, entry


def trained(name: str, seeds: tuple[int, ...], level: float = 1.0, **fields):
    """A checkpoint with a meta-seed for each number, whose losses tell the numbers."""
    losses = [level + np.array([0.1, 0.2]) * (1 + s) for s in seeds]
    return entry(name, *losses, budgets=tuple(replace(BUDGET, seed=s) for s in seeds), **fields)


def pooled(*others, ours=(0, 1), theirs=(0, 1)) -> tuple[int, bool]:
    """How many recipes are pooled for a comparison of two, and whether it is paired."""
    a, b = trained("a", ours), trained("b", theirs, 2.0)
    pool = pool_of([a, *others, b], a, b, "inner", 1)
    return len(pool.recipes), pool.paired


def test_equal_seeds_are_paired():
    assert pooled() == (0, True)
    assert pooled(theirs=(1, 0)) == (0, False), "in the same order"
    assert pooled(theirs=(0, 2)) == (0, False)
    assert pooled(ours=(0,), theirs=(0,)) == (0, False)


def test_recipes_of_other_seeds_are_pooled_for_unpaired_ones_only():
    others = [trained("c", (0, 1), 3), trained("d", (1, 2), 4), trained("e", (5,), 5)]
    assert pooled(*others) == (1, True)
    assert pooled(*others, theirs=(7, 8, 9)) == (2, False)


def test_only_checkpoints_that_ran_and_tell_something_new_are_pooled():
    c = trained("c", (0, 1), 3)
    assert pooled(c, replace(c, name="c again")) == (1, True)
    assert pooled(replace(c, kind="control")) == (0, True)
    assert pooled(replace(c, runs=())) == (0, True)
    assert pooled(trained("c", (0, 1), -9)) == (0, True), "its losses have no logarithm"


def test_unknown_seeds_are_not_paired():
    a, b = (replace(trained(name, (0, 1)), budgets=(None, None)) for name in "ab")
    assert not pool_of([a, b], a, b, "inner", 1).paired
