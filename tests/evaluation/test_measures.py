"""Measures of whole curves."""

import math

import numpy as np
import pytest

from metatele.evaluation import Run
from metatele.evaluation.judge.measures import measures_of
from metatele.evaluation.play.timing import Cost
from tests.evaluation.conftest import entry


def curves(*columns) -> Run:
    losses = np.array(columns, np.float64).T
    return Run(np.array([0, 1, 4]), {"inner": losses}, {}, np.ones_like(losses), np.full(losses.shape[1], 4))


def test_measures_by_hand():
    cost = Cost(np.array([0.0, 0.5, 3.0]), (3.0, 3.0), 1, 4, None)
    goal = entry("best", runs=(curves([8, 4, 2], [8, 4, 2], [8, 4, 2], [8, 4, 2]),))
    mine = entry("mine", runs=(curves([8, 2, 1], [8, 1, 3], [8, 8, 2], [8, 3, 3]),), cost=cost)
    never = entry("never", runs=(curves([8, 4, 2], [8, 4, 2], [8, 4, 3], [8, 4, 3]),))
    found = measures_of([goal, mine, never], goal, "inner")
    assert (found["mine"].reached, found["mine"].steps_to_target, found["mine"].seconds_to_target) == (0.75, 4, 3.0)
    assert (found["never"].reached, found["never"].steps_to_target) == (0.5, math.inf)
    assert (found["best"].reached, found["best"].steps_to_target) == (1, 4)
    # Logs in units of log 2 are 3, 2, 1: (2.5 x 1 + 1.5 x 3) / 4.
    assert found["best"].log_area == pytest.approx(7 / 4 * math.log(2))
    alone = measures_of([goal], None, "inner")["best"]
    assert math.isnan(alone.reached)
    assert math.isnan(alone.steps_to_target)


def test_measures_of_several_seeds_hold_each_against_the_same_targets():
    goal = entry("best", runs=(curves([8, 4, 2], [80, 40, 20]),))
    seeds = entry("seeds", runs=(curves([8, 2, 2], [80, 20, 20]), curves([8, 4, 3], [80, 4, 3])))
    assert measures_of([goal, seeds], goal, "inner")["seeds"].reached == 0.75
