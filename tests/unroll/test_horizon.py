"""The length of a trajectory, where it is known: what an update sees of it, and that every engine tells it."""

import functools
import itertools
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from metatele.tasks import GaussianMixture
from torch import Tensor

from metatele import (
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    TensorUpdate,
    UnrollSettings,
    ValidationSettings,
    sample_meta_batch,
)
from metatele.landscape import Landscape
from metatele.meta_training import MetaSettings, trainer
from metatele.parts.numbers import row
from metatele.parts.point import AMOUNTS, PROGRESS, Point, State
from metatele.support.seeding import seeded
from metatele.task.params import Params, map_params
from metatele.testing import ExampleFamily
from metatele.unroll import Unroll
from metatele.unroll.compiled import CompiledUnroll, Programs, program, programs

LIKE = torch.zeros(2, 3, dtype=torch.float64)


def at(step: int, horizon: int | None) -> Tensor:
    return Point({}, {}, LIKE, step, horizon=horizon).progress(LIKE)


def test_what_a_part_sees_of_the_horizon():
    assert at(5, None).tolist() == [0.0] * PROGRESS
    begin, middle, end = at(0, 9), at(3, 9), at(9, 9)
    assert begin[:3].tolist() == [1.0, 0.0, 0.0]
    expected = [1.0, 1 / 3, math.log(0.7) / 3, math.log(10) / 3]
    assert middle.tolist() == pytest.approx(expected)
    assert float(end[1]) == 1


@pytest.mark.parametrize("horizon", [-3, 0, 1, 4])
def test_steps_beyond_the_horizon_see_its_end(horizon: int):
    expected = at(max(horizon, 1), max(horizon, 1))
    for step in (max(horizon, 1), 5, 1000):
        assert bool(at(step, horizon).isfinite().all())
        torch.testing.assert_close(at(step, horizon), expected)


def test_a_horizon_that_is_traced_is_a_number_like_any_other():
    for step, horizon in itertools.product((0, 3, 20), (1, 9)):
        numbers = (torch.tensor(float(n), dtype=torch.float64) for n in (step, horizon))
        traced = replace(Point({}, {}, LIKE, 0), **dict(zip(("step", "horizon"), numbers, strict=True)))
        torch.testing.assert_close(traced.progress(LIKE), at(step, horizon))


def with_rows(batch: int, every: int, horizon: int | None, unseen: bool | None = None) -> Point:
    params = {"w": torch.ones(2, 3, 4), "b": torch.ones(2, 3)}
    whole = Landscape(torch.nn.Linear(4, 3), torch.nn.functional.mse_loss, torch.ones(2, every, 4), LIKE)
    return Point(params, params, torch.ones(2, batch, 4), 1, whole=whole, horizon=horizon, unseen=unseen)


@pytest.mark.parametrize(("unseen", "told"), [(None, 0.0), (False, -1.0), (True, 1.0)])
def test_what_a_part_sees_of_the_data(unseen, told):
    expected = [1.0, math.log(5) / 3 - 1, math.log(30) / 3 - 1, math.log(15 / 30) / 3, told]
    point = with_rows(5, 30, 9, unseen)
    assert point.amounts() == pytest.approx(expected)
    traced = replace(point, horizon=torch.tensor(9.0, dtype=torch.float64))
    assert [float(x) for x in traced.amounts()] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("horizon", [None, torch.tensor(math.nan, dtype=torch.float64)])
def test_nothing_is_seen_of_the_data_where_the_horizon_or_they_are_not_known(horizon):
    assert [float(x) for x in with_rows(5, 30, horizon).amounts()] == [0.0] * AMOUNTS
    assert replace(with_rows(5, 30, 9), whole=None).amounts() == [0.0] * AMOUNTS
    assert all(math.isfinite(x) for x in with_rows(0, 0, 9).amounts())


@pytest.mark.parametrize("data", [False, True])
def test_a_tensor_update_sees_the_data_if_it_is_to(data):
    update = TensorUpdate(4, data=data)
    with seeded(0):
        for p in update.parameters():
            torch.nn.init.normal_(p, std=0.4)
    points = with_rows(5, 30, 9, True), with_rows(5, 300, 9, True), with_rows(5, 30, 9, False)
    first, *others = (update.propose(point, update.start(point.params))[0]["w"] for point in points)
    assert [torch.allclose(first, other) for other in others] == [not data] * 2


MIX = torch.tensor([0.3, -1.7, 0.9, 2.3, 0.7], dtype=torch.float64)  # no two data give the same sum


class Telling(GradientDescent):
    """Each entry moves by a sum of what is told of the data."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        _, state = super().propose(point, state)
        return map_params(lambda p: torch.zeros_like(p) + row(point.amounts(), p) @ MIX, point.params), state


@pytest.mark.parametrize("parts", [(1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.5, 0.25, 0.25)])
def test_both_engines_tell_the_data(parts, traced_only):
    family = GaussianMixture(3, rows=24, hidden=[5], parts=parts, batch_size=4)
    batch = sample_meta_batch(family, "train", range(2)).to(torch.float64)
    every = round(24 * parts[0])
    entries = sum(p[0].numel() for p in batch.params.values())
    numbers = [1.0, math.log(4) / 3 - 1, math.log(every) / 3 - 1, math.log(entries / every) / 3]
    expected = float(torch.tensor([*numbers, -1.0 if parts[0] == 1 else 1.0], dtype=torch.float64) @ MIX)
    for make in (Unroll, functools.partial(CompiledUnroll, Programs())):
        play = make(InnerOptimizer(Telling(0.1)), batch, 9)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="unroll.engine")  # falling back on 'higher'
            end = play.window(play.start(), 1, differentiable=False).end
        for name, p in batch.params.items():
            torch.testing.assert_close(end.params[name] - p, torch.full_like(p, expected), rtol=1e-12, atol=1e-12)
    assert len(traced_only) == 1


class Annealed(GradientDescent):
    """Steps that shrink towards the end, and stop there."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        known, passed, _, _ = point.progress(point.inputs)
        step, state = super().propose(point, state)
        return map_params(lambda f: f * (1 - known * passed), step), state


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is traced is run by torch, operation by operation; gives what has been traced."""
    made: list[object] = []
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: made.append(graph) or (lambda v: graph(*v)))
    monkeypatch.setattr(programs, "compiling", nullcontext)
    return made


@pytest.mark.parametrize("moments", ["transform", "reset"])
def test_both_engines_tell_it_and_one_step_serves_for_all(moments, traced_only):
    """A state that is reset counts steps, and the horizon, from where it begins."""
    inner = InnerOptimizer(Annealed(0.05), NeuronTeleport(3, first=1, last=1), moments=moments).double()
    batch = sample_meta_batch(ExampleFamily(), "train", range(3)).to(torch.float64)
    held, traced = Programs(), []
    for horizon in (4, 7, 2):
        plain, compiled = Unroll(inner, batch, horizon), CompiledUnroll(held, inner, batch, horizon)
        windows = [play.window(play.start(), 6, differentiable=False) for play in (plain, compiled)]
        torch.testing.assert_close(windows[1].meta_losses, windows[0].meta_losses, rtol=1e-9, atol=0)
        still = windows[0].meta_losses.diff(dim=0).abs().sum(1) < 1e-14
        assert still.tolist() == [k >= horizon for k in range(1, 6)]
        traced.append(len(traced_only))
    assert traced[0] == traced[-1] > 0
    assert not held.refused


class Noted(GradientDescent):
    """Notes at which step, of how many, it is asked."""

    def __init__(self) -> None:
        super().__init__(0.01, learn=True)
        self.asked: list[tuple[int, int | None]] = []

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        self.asked.append((point.step, point.horizon))
        return super().propose(point, state)


def trained(update: Noted, iterations: int, **unroll: Any) -> trainer.MetaTrainer:
    """A run that is about to begin, with horizons of 3 to 9."""
    settings = UnrollSettings((3, 9), 3, **unroll), MetaSettings(iterations, 2), ValidationSettings(2, 2)
    training = trainer.MetaTrainer(InnerOptimizer(update), [ExampleFamily()], *settings)
    training.initialise()
    training.enter()
    return training


def test_one_that_is_not_told_is_none_to_both_engines(traced_only):
    inner = InnerOptimizer(Annealed(0.05)).double()
    batch = sample_meta_batch(ExampleFamily(), "train", range(3)).to(torch.float64)
    plain, compiled = Unroll(inner, batch, None), CompiledUnroll(Programs(), inner, batch, None)
    constant = Unroll(InnerOptimizer(GradientDescent(0.05)).double(), batch, 6)
    windows = [play.window(play.start(), 6, differentiable=False) for play in (constant, plain, compiled)]
    assert traced_only
    for window in windows[1:]:
        torch.testing.assert_close(window.meta_losses, windows[0].meta_losses, rtol=1e-9, atol=0)


def test_meta_training_hides_it_from_a_fraction():
    update = Noted()
    training = trained(update, 40, untold=0.5)
    flights = [training.begin(number) for number in range(40)]
    assert 8 < sum(flight.told is None for flight in flights) < 32
    for flight in flights[:6]:
        update.asked.clear()
        training.estimator.gradient(flight)
        assert {horizon for _, horizon in update.asked} == {flight.told}
        assert flight.told in (None, flight.horizon)


def test_meta_training_tells_each_trajectory_its_own():
    """Also one that goes on after a restart, whose horizon depends on when it was begun."""
    update = Noted()
    training = trained(update, 6, in_flight=2)
    flights = [training.begin(number) for number in range(6)]
    assert len({flight.horizon for flight in flights}) > 1
    for flight in [*flights, training.begin(1, horizon=5)]:
        update.asked.clear()
        while not flight.done:
            training.estimator.gradient(flight)
        assert update.asked == [(k, flight.horizon) for k in range(flight.horizon)]
