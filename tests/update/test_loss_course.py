"""What an update sees of how the loss has gone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metatele import Point, TensorUpdate, Unroll
from metatele.optimizer import InnerOptimizer
from metatele.update.loss_course import COURSE_FEATURES, COURSE_STATE, LossCourse
from tests.update.paths import random_params

DOUBLE = torch.float64


def played(losses: Tensor) -> Tensor:
    """The features of losses [K, B], [K, B, COURSE_FEATURES]."""
    course, found = LossCourse.start(losses.shape[1], losses), []
    for k, now in enumerate(losses):
        course, features = course.after(Point({}, {}, torch.empty(0), k, losses=now))
        found.append(features)
    assert len(course) == COURSE_STATE
    return torch.stack(found)


def test_it_is_the_logarithm_relative_to_the_first() -> None:
    losses = torch.tensor([[2.0], [1.0], [0.5], [0.5], [0.5]], dtype=DOUBLE)
    fast = slow = 0.0
    for loss, features in zip(losses[:, 0].tolist(), played(losses)[:, 0].tolist(), strict=True):
        now = math.log(loss / 2 + 1e-6)
        fast, slow = 0.9 * fast + 0.1 * now, 0.98 * slow + 0.02 * now
        assert features == pytest.approx([fast / 4, math.tanh(fast - slow), math.tanh(now - fast)], abs=1e-5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.floats(1e-6, 1e6))
def test_the_scale_of_a_loss_does_not_matter(losses: list[float], scale: float) -> None:
    plain = torch.tensor(losses, dtype=DOUBLE).unsqueeze(1)
    torch.testing.assert_close(played(plain), played(scale * plain), rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(-1e9, 1e9) | st.just(0.0), min_size=1, max_size=6))
def test_any_loss_is_seen_as_numbers_of_order_one(losses: list[float]) -> None:
    found = played(torch.tensor(losses, dtype=DOUBLE).unsqueeze(1))
    assert bool((found.abs() <= 4).all())
    torch.testing.assert_close(found[0], torch.zeros_like(found[0]), rtol=0, atol=2e-6)


def test_what_is_not_known_is_not_seen_and_changes_nothing() -> None:
    course = LossCourse(*torch.tensor([[2.0], [-1.0], [0.5]], dtype=DOUBLE))
    after, features = course.after(Point({}, {}, torch.empty(0), 3))
    assert after is course
    assert torch.equal(features, torch.zeros(1, COURSE_FEATURES, dtype=DOUBLE))


def strong(course: bool) -> TensorUpdate:
    torch.manual_seed(0)
    update = TensorUpdate(hidden=4, course=course).double()
    for p in update.parameters():
        p.data = 0.3 * torch.randn_like(p)
    return update


@pytest.mark.parametrize("course", [True, False])
def test_an_update_sees_it_if_it_is_asked_to(course: bool) -> None:
    update, params, gradient = strong(course), random_params([(3, 2), (3,)], 0), random_params([(3, 2), (3,)], 1)
    steps = []
    for second in (0.5, 2.0):
        state = update.start(params)
        for k, losses in enumerate((1.0, second)):
            tasks = len(next(iter(params.values())))
            seen = torch.full((tasks,), losses, dtype=DOUBLE)
            f, state = update.propose(Point(params, gradient, torch.empty(0), k, losses=seen), state)
        steps.append(torch.cat([x.flatten() for x in f.values()]))
    assert torch.equal(*steps) is not course


@pytest.mark.parametrize("data", [{}, {"rows": 24, "batch_size": 4}])
def test_the_inner_loop_shows_the_losses_of_its_steps(make_batch, monkeypatch, data) -> None:
    seen: list[Tensor] = []
    plain = TensorUpdate.propose

    def propose(self, point, state):
        seen.append(point.losses)
        return plain(self, point, state)

    monkeypatch.setattr(TensorUpdate, "propose", propose)
    batch = make_batch(**data)
    inner = InnerOptimizer(strong(True))
    inner.bind(batch.network, batch.params)
    unroll = Unroll(inner, batch, 3, second_order=True)
    window = unroll.window(unroll.start(), 3)
    torch.testing.assert_close(torch.stack(seen), window.inner_losses)
    assert all(losses.requires_grad for losses in seen[1:]), "in second order with their derivative"
    seen.clear()
    plainly = Unroll(inner, batch, 3, second_order=False)
    plainly.window(plainly.start(), 3)
    assert not any(losses.requires_grad for losses in seen)
