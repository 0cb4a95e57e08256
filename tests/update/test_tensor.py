"""`TensorUpdate`: what its design promises, on networks of any kind."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metatele.tasks import TeacherStudent

from metatele import (
    Adam,
    Balance,
    ConfigError,
    InnerOptimizer,
    TensorUpdate,
    Unroll,
    sample_meta_batch,
)
from metatele.landscape import Landscape
from metatele.parts.point import Point
from metatele.support.seeding import seeded
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, flatten, map_params
from metatele.update import span
from metatele.update.size_free import LEAST_SQUARE
from tests.update.paths import (
    ODD,
    SHAPES,
    assert_finite,
    assert_horizon_is_seen,
    assert_steps,
    path,
    random_params,
    scaled,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "per coordinate": {"per_coordinate": 3},
    "absolute steps": {"relative": False},
    "no decay": {"decay": "none"},
    "absolute decay": {"decay": "absolute"},
    "no secant": {"secant": False},
    "no data": {"data": False},
}
SCALES = st.floats(-3, 3).map(lambda x: 10.0**x)  # beyond, the least gradients' squares meet what is added to them
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def strong(**settings: Any) -> TensorUpdate:
    """An update whose LSTM has much to say."""
    update = TensorUpdate(6, **settings)
    with seeded(1):
        for p in update.parameters():
            torch.nn.init.normal_(p, std=0.4)
    return update.double()


@every_setting
@given(scale=SCALES)
def test_the_scale_of_the_loss_changes_nothing(settings, scale):
    update, start = strong(**settings), random_params(SHAPES, 0)
    assert_steps(path(update, start, lambda g: map_params(lambda x: scale * x, g)), path(update, start))


@pytest.mark.parametrize("decay", ["none", "relative"])
@pytest.mark.parametrize("per_coordinate", [0, 3])
@given(scales=st.lists(SCALES, min_size=4, max_size=4))
def test_steps_go_with_the_scale_of_each_tensor(decay, per_coordinate, scales):
    """As a rescaling of neurons, which divides the gradients, asks for; a tensor of zeros has no scale."""
    update, start = strong(decay=decay, per_coordinate=per_coordinate), random_params(SHAPES, 0)
    found = path(update, scaled(start, scales), lambda g: scaled(g, [1 / s for s in scales]))
    assert_steps(found, [scaled(step, scales) for step in path(update, start)])


def test_absolute_decay_sees_the_scale():
    update, start = strong(decay="absolute"), random_params(SHAPES, 0)
    a, b = path(update, scaled(start, [9.0] * 4), lambda g: scaled(g, [1 / 9] * 4)), path(update, start)
    assert float((flatten(a[-1]) - 9 * flatten(b[-1])).abs().max()) > 1e-3


@every_setting
@given(data=st.data())
def test_neurons_may_be_numbered_in_any_order(settings, data):
    order = torch.tensor(data.draw(st.permutations(range(5))))

    def permuted(params: Params) -> Params:
        a, b, c, d = params.values()
        return dict(zip(params, (a[:, order], b[:, order], c[:, :, order], d), strict=True))

    update, start = strong(**settings), random_params(SHAPES, 0)
    found = path(update, permuted(start), permuted)
    assert_steps(found, [permuted(step) for step in path(update, start)])


@every_setting
@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("zero", ["nothing", "gradients", "parameters", "both"])
def test_networks_of_any_kind(case, settings, zero):
    assert_finite(strong(**settings), ODD[case], zero)


def test_a_silent_lstm_takes_adams_steps():
    update = TensorUpdate(4, lr=0.03, relative=False).double()
    for p in update.core.head.parameters():
        p.data.zero_()
    adam, start = Adam(0.03, eps=1e-12), random_params(SHAPES, 0)
    assert_steps(path(update, start), path(adam, start))


@every_setting
@pytest.mark.parametrize("case", [*ODD, "a network"])
def test_without_a_graph_it_takes_the_same_steps(settings, case, monkeypatch):
    for name in ("WORTH_PARTS", "WORTH_PLACE"):
        monkeypatch.setattr(span, name, 0)
    update, start = strong(**settings), random_params(ODD.get(case, SHAPES), 0)
    expected = path(update, start)
    with torch.no_grad():
        assert_steps(path(update, start), expected)


@every_setting
def test_what_it_was_bound_to_changes_nothing(settings):
    update, start = strong(**settings), random_params(SHAPES, 0)
    expected = path(update, start)
    for other in (SHAPES, SHAPES[:2], SHAPES[::-1]):
        update.bind(random_params(other, 0), ProductGroup([]))
        assert_steps(path(update, start), expected)
    assert_finite(update, SHAPES, "nothing")  # in another precision than it was bound in


@every_setting
def test_steps_whose_number_is_traced(settings):
    update, start = strong(**settings), random_params(SHAPES, 0)
    gradient, state = random_params(SHAPES, 1), update.start(start)
    for step, horizon in ((0, 9), (3, 9), (20, 9), (3, None)):
        point = Point(start, gradient, torch.empty(0), step, horizon=horizon)
        numbers = (torch.tensor(math.nan if n is None else n, dtype=torch.float64) for n in (step, horizon))
        traced = replace(point, **dict(zip(("step", "horizon"), numbers, strict=True)))
        (expected, kept), (found, after) = (update.propose(p, state) for p in (point, traced))
        assert_steps(*([map_params(torch.detach, f)] for f in (found, expected)))
        torch.testing.assert_close(after.tensors(), kept.tensors())


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (64, 64), (64, 4)])
def test_relative_steps_change_the_spectral_norm_alike_at_every_width(shape):
    """By about a tenth in the first step, if the gradient is of rank one."""
    update = TensorUpdate(4, relative=True).double()
    for p in update.core.head.parameters():
        p.data.zero_()
    stream = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(1, *shape, generator=stream, dtype=torch.float64)}
    gradient = {"w": torch.outer(*(torch.randn(n, generator=stream, dtype=torch.float64) for n in shape))[None]}
    step, _ = update.propose(Point(start, gradient, torch.empty(0), 0), update.start(start))
    sizes = [float(torch.linalg.matrix_norm(x["w"].detach(), 2)) for x in (step, start)]
    assert 0.07 < sizes[0] / sizes[1] < 0.13


def test_what_it_sees_of_the_horizon():
    assert_horizon_is_seen(strong(), strong(horizon=False), 1e-6)


@pytest.mark.parametrize("told", [True, False])
def test_that_unseen_rows_count_has_outputs_of_its_own(told):
    """Which act on the step even if the LSTM sees nothing."""
    update, start = strong(), random_params(SHAPES, 0)
    cell, head = update.core.lstm_cells[0], update.core.head
    cell.weight_ih.data.zero_()
    whole = Landscape(None, None, torch.empty(2, 9), None)
    gradient, horizon = random_params(SHAPES, 1), 9 if told else None
    point = Point(start, gradient, torch.empty(2, 4), 1, whole=whole, horizon=horizon)
    nobody, yes, no = (
        map_params(torch.detach, update.propose(replace(point, unseen=unseen), update.start(start))[0])
        for unseen in (None, True, False)
    )
    assert told != all(torch.equal(yes[name], no[name]) for name in start)
    head.weight.data[len(head.weight) // 2 :] = 0
    head.bias.data[len(head.bias) // 2 :] = 0
    silent, _ = update.propose(replace(point, unseen=True), update.start(start))
    assert_steps([silent], [nobody])


@pytest.mark.parametrize("settings", [{}, {"course": False}, {"secant": False, "per_coordinate": 3}])
def test_it_may_begin_with_what_did_not_see_the_data(settings):
    blind, update, start = (
        strong(data=False, **settings),
        TensorUpdate(6, **settings).double(),
        random_params(SHAPES, 0),
    )
    assert update.begin_with(blind)
    whole, gradient = Landscape(None, None, torch.empty(2, 9), None), random_params(SHAPES, 1)
    point = Point(start, gradient, torch.empty(2, 4), 1, whole=whole, horizon=9, unseen=True)
    steps = [map_params(torch.detach, part.propose(point, part.start(start))[0]) for part in (update, blind)]
    assert_steps(steps[:1], steps[1:])
    assert not blind.begin_with(update)
    assert not TensorUpdate(7, **settings).begin_with(blind)


def test_teleports_carry_the_last_step_along():
    """A rescaling of neurons leaves the slope along it what it was."""
    batch = sample_meta_batch(TeacherStudent(rows=8, spread=10), "train", range(3)).to(torch.float64)
    inner = InnerOptimizer(strong(), Balance())
    group = inner.bind(batch.network, batch.params)
    inner.double()
    here = Landscape(batch.network, batch.family.loss, *batch.rows("inner"))
    params, state = batch.params, inner.start(batch.params, group, batch.seeds)
    for k in (1, 2):
        point = Point(params, here.gradient(params), here.inputs, k, here, here)
        params, state = inner.step(point, group, state, active=False)
    point = Point(params, here.gradient(params), here.inputs, 3, here, here)
    there, _, carried = inner.teleport.move(point, group, state.teleport, state.update)
    before, after = (
        flatten(s.covectors[2]) / (flatten(s.squares[0]) + LEAST_SQUARE)
        for s in (state.update.detach(), carried.detach())
    )
    assert float((before - after).abs().max()) > 0.1 * float(before.abs().max())
    slopes = [(flatten(p.gradient) * last).sum(1) for p, last in ((point, before), (there, after))]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-6, atol=0)


def test_a_fresh_one_trains():
    batch = sample_meta_batch(TeacherStudent(), "test", range(4))
    unroll = Unroll(InnerOptimizer(TensorUpdate()), batch, 100)
    window = unroll.window(unroll.start(), 100, differentiable=False)
    assert bool((window.meta_losses[-1] < 0.2 * window.inner_losses[0]).all())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"relative": 1}, "relative must be true or false, got 1"),
        ({"decay": "some"}, "decay must be one of none, relative, absolute, both, got 'some'"),
        ({"per_coordinate": -1}, "per_coordinate must be a whole number of at least 0, got -1"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(ConfigError, match=said):
        TensorUpdate(**settings)
