"""What teleports do in an evaluation."""

import math

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent

from metatele import (
    RandomTeleport,
    Unroll,
    sample_meta_batch,
)
from metatele.evaluation import Moves
from metatele.evaluation.play.run import play
from metatele.parts.point import Point, State
from tests.evaluation.conftest import FAMILY, TELEPORTS, gd, learned


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
