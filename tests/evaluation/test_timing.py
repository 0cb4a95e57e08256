"""Wall-clock and memory."""

import time

import numpy as np
import pytest
from metatele.tasks import GaussianMixture

import metatele.evaluation.stages as stages
from metatele import (
    GradientDescent,
    InnerOptimizer,
    sample_meta_batch,
)
from metatele.evaluation.play.timing import clock
from tests.evaluation.conftest import Noise, gd, quick


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
