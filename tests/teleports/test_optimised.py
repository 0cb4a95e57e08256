"""Climbing an objective along an orbit: what it may not do, and the maxima it must find."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import (
    Adam,
    CheckpointError,
    ConfigError,
    GradientDescent,
    InnerOptimizer,
    MetaBatch,
    OptimisedTeleport,
    Point,
    Sharpness,
    SymmetryError,
    Unroll,
    load_checkpoint,
    sample_meta_batch,
    save_checkpoint,
)
from metatele.experiments.functions import Booth, Quadratic, Rosenbrock, value_loss
from metatele.landscape import Landscape, Objective, Place, find_objective, gradient_norm
from metatele.symmetry import Kind, group_of
from metatele.task.params import Params, flatten, map_params, task_norm
from metatele.teleports import Climb
from metatele.teleports.optimised import rows_of
from metatele.testing import ExampleFamily, check_teleport
from tests.symmetry.cases import SoftmaxFamily, draw_batch

DOUBLE = torch.float64
FAMILIES: dict[Kind, ExampleFamily] = {
    "auto": ExampleFamily(rows=6),
    "scaling": ExampleFamily((3, 4, 5, 2), (nn.ReLU(), nn.LeakyReLU(0.2)), bias=False, rows=6),
    "general_linear": ExampleFamily((4, 3, 3, 2), (None, None), rows=6),
    "data_dependent": ExampleFamily((3, 3, 3, 2), (nn.LeakyReLU(0.2),) * 2),
    "pseudo_inverse": ExampleFamily((3, 5, 4, 2), (nn.Tanh(), nn.Softplus()), rows=3),
}
KINDS = list(FAMILIES)
EXACT: list[Kind] = ["auto", "scaling", "general_linear"]


def landscape_of(batch: MetaBatch, kind: Kind) -> Landscape:
    return Landscape(batch.network, batch.family.loss, *batch.rows("inner"), group_of(batch.network, kind))


def function_landscape(network: nn.Module, points: Tensor) -> tuple[Landscape, Params]:
    empty = torch.zeros(len(points), 1, 0, dtype=DOUBLE)
    return Landscape(network, value_loss, empty, empty, group_of(network)), {"w": points}


def moved(landscape: Landscape, params: Params, algebra: list[Tensor]) -> Params:
    group = landscape.group
    return group.act(group.exp(algebra), params, landscape.inputs)


def one(batch: MetaBatch, i: int) -> MetaBatch:
    """Task i alone."""
    inputs, targets = ({p: side[p][i : i + 1] for p in side} for side in (batch.inputs, batch.targets))
    params = {k: p[i : i + 1] for k, p in batch.params.items()}
    return replace(batch, params=params, inputs=inputs, targets=targets, seeds=batch.seeds[i : i + 1])


def true_norm(place: Place) -> Tensor:
    """The gradient norm by a backward pass at the place itself, whatever the group could carry."""
    return task_norm(place.landscape.gradient(place.params, create_graph=True))


# The climb


@pytest.mark.parametrize("direction", ["ascend", "descend"])
@pytest.mark.parametrize("objective", ["gradient_norm", "sharpness", "curvature"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_never_gets_worse_and_is_what_is_reported(kind, objective, direction):
    batch = draw_batch(FAMILIES[kind], 3, 0)
    landscape = landscape_of(batch, kind)
    measure = find_objective(objective)
    if objective == "sharpness":
        measure = Sharpness((0.1, 0.5), directions=3)
    algebra, values = Climb(measure, 5, 0.1, direction).run(landscape, batch.params)
    assert values.shape == (6, 3)
    sign = 1 if direction == "ascend" else -1
    assert bool((sign * values.diff(dim=0) >= 0).all())
    assert bool((sign * (values[-1] - values[0]) > 0).all())
    there = moved(landscape, batch.params, algebra)
    torch.testing.assert_close(measure(Place(landscape, batch.params)).detach(), values[0], rtol=1e-8, atol=0)
    torch.testing.assert_close(measure(Place(landscape, there)).detach(), values[-1], rtol=1e-7, atol=0)
    torch.testing.assert_close(landscape.loss(there), landscape.loss(batch.params), rtol=1e-8, atol=0)
    assert not any(t.requires_grad for t in algebra)


@given(st.sampled_from(KINDS), st.integers(0, 100), st.floats(0.01, 2), st.sampled_from(["ascend", "descend"]))
def test_no_task_ends_worse_whatever_the_step_length(kind, seed, lr, direction):
    batch = draw_batch(FAMILIES[kind], 2, seed)
    landscape = landscape_of(batch, kind)
    algebra, values = Climb(gradient_norm, 4, lr, direction).run(landscape, batch.params)
    sign = 1 if direction == "ascend" else -1
    before, after = (true_norm(Place(landscape, p)) for p in (batch.params, moved(landscape, batch.params, algebra)))
    assert bool((sign * (after - before) >= -1e-7 * before).all())
    torch.testing.assert_close(after, values[-1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_step_goes_along_the_slope(kind):
    """Also where the group is not exact, so that the slope is a second derivative of the loss."""
    batch = draw_batch(FAMILIES[kind], 2, 3)
    landscape, h = landscape_of(batch, kind), 1e-5
    algebra, values = Climb(gradient_norm, 1, 1e-3).run(landscape, batch.params)
    assert bool((values[1] > values[0]).all())
    zeros = [torch.zeros_like(t) for t in algebra]
    numeric = [torch.zeros_like(t) for t in algebra]
    for i, t in enumerate(zeros):
        for entry in range(t[0].numel()):
            sides = []
            for sign in (1, -1):
                trial = [z.clone() for z in zeros]
                trial[i].view(len(t), -1)[:, entry] = sign * h
                sides.append(true_norm(Place(landscape, moved(landscape, batch.params, trial))).detach())
            numeric[i].view(len(t), -1)[:, entry] = (sides[0] - sides[1]) / (2 * h)
    flat = torch.cat([n.flatten(1) for n in numeric], 1)
    expected = 1e-3 * flat / flat.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.cat([t.flatten(1) for t in algebra], 1), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", EXACT)
def test_exact_groups_carry_the_gradient_that_a_backward_pass_gives(kind, bias):
    family = FAMILIES[kind]
    batch = draw_batch(ExampleFamily(family.widths, family.activations, bias, rows=6), 2, 1)
    landscape, seen = landscape_of(batch, kind), []

    def spy(place: Place) -> Tensor:
        seen.append((flatten(place.params).detach(), flatten(place.gradient).detach(), place.gradient_norm.detach()))
        true = place.landscape.gradient({k: p.detach() for k, p in place.params.items()})
        torch.testing.assert_close(flatten(place.gradient).detach(), flatten(true), rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(place.gradient_norm.detach(), task_norm(true), rtol=1e-10, atol=0)
        return place.gradient_norm

    carried, values = Climb(spy, 5, 0.2).run(landscape, batch.params)
    assert len(seen) == 6
    assert (seen[-1][0] - seen[0][0]).norm() > 0.01
    uncarried, expected = Climb(true_norm, 5, 0.2).run(landscape, batch.params)
    for found, t in zip(carried, uncarried, strict=True):
        torch.testing.assert_close(found, t, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", [Booth, Rosenbrock, lambda w: Quadratic(torch.diag(torch.tensor([1.0, 4.0])), w)])
def test_functions_carry_the_gradient_too(make):
    points = torch.tensor([[0.3, 1.2], [-1.0, 0.5]], dtype=DOUBLE)
    landscape, params = function_landscape(make([0.0, 0.0]), points)
    carried, values = Climb(gradient_norm, 6, 0.3).run(landscape, params)
    uncarried, expected = Climb(true_norm, 6, 0.3).run(landscape, params)
    torch.testing.assert_close(carried[0], uncarried[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=0)


def test_a_gradient_that_is_known_is_used(make_batch):
    batch = make_batch()
    landscape = landscape_of(batch, "auto")
    calls = []

    def counting(prediction: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return batch.family.loss(prediction, target)

    counted = replace(landscape, loss_function=counting)
    known, _ = Climb(gradient_norm, 5, 0.1).run(counted, batch.params, landscape.gradient(batch.params))
    assert not calls, "an exact group needs no forward or backward pass for the gradient norm"
    found, _ = Climb(gradient_norm, 5, 0.1).run(counted, batch.params)
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(known, found, strict=True))


@pytest.mark.parametrize("direction", ["ascend", "descend"])
def test_a_cap_is_approached_and_never_passed(make_batch, direction):
    batch = make_batch(tasks=3)
    landscape = landscape_of(batch, "auto")
    start = gradient_norm(Place(landscape, batch.params)).detach()
    free = Climb(gradient_norm, 40, 0.3, direction).run(landscape, batch.params)[1][-1]
    cap = float(1.5 * start[0] if direction == "ascend" else (start[0] + free[0]) / 2)
    values = Climb(gradient_norm, 40, 0.3, direction, cap).run(landscape, batch.params)[1]
    sign = 1 if direction == "ascend" else -1
    beyond = sign * start > sign * cap
    assert bool((sign * values[-1] <= sign * torch.where(beyond, start, cap)).all())
    assert float(values[-1, 0]) == pytest.approx(cap, rel=1e-3)
    assert torch.equal(values[-1][beyond], values[0][beyond]), "a task beyond the cap at the start stays"


def test_tasks_whose_objective_is_not_finite_stay(make_batch):
    batch = make_batch(tasks=3)
    landscape = landscape_of(batch, "auto")
    start = gradient_norm(Place(landscape, batch.params)).detach()

    def broken(place: Place) -> Tensor:
        norm = place.gradient_norm
        norm = torch.where(torch.tensor([True, False, False]), torch.nan, norm)
        return torch.where(torch.tensor([False, True, False]) & (norm > 1.0001 * start), torch.inf, norm)

    algebra, values = Climb(broken, 4, 0.1).run(landscape, batch.params)
    lengths = torch.stack([t.flatten(1).norm(dim=1) for t in algebra]).norm(dim=0)
    assert lengths[0] == 0, "not finite from the start"
    assert values[-1, 1] <= 1.0001 * start[1], "not finite from some way off"
    assert lengths[2] > 0.1
    plain, _ = Climb(gradient_norm, 4, 0.1).run(landscape, batch.params)
    for found, expected in zip(algebra, plain, strict=True):
        torch.testing.assert_close(found[2], expected[2], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_are_not_finite_are_their_own_tasks_outcome(kind):
    batch = draw_batch(FAMILIES[kind], 3, 0)
    batch.inputs["inner"][1] = torch.nan
    landscape = landscape_of(batch, kind)
    algebra, _ = Climb(gradient_norm, 3, 0.1).run(landscape, batch.params)
    assert all(not t[1].any() for t in algebra)
    keep = torch.tensor([0, 2])
    others = replace(landscape, inputs=landscape.inputs[keep], targets=landscape.targets[keep])
    expected, _ = Climb(gradient_norm, 3, 0.1).run(others, {k: p[keep] for k, p in batch.params.items()})
    for found, t in zip(algebra, expected, strict=True):
        torch.testing.assert_close(found[keep], t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["gradient_norm", "sharpness", "curvature"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_climbs_as_each_task_does(kind, objective):
    batch = draw_batch(FAMILIES[kind], 3, 2)
    climb = Climb(find_objective(objective), 3, 0.1)
    whole, values = climb.run(landscape_of(batch, kind), batch.params)
    for i in range(3):
        alone, value = climb.run(landscape_of(one(batch, i), kind), one(batch, i).params)
        torch.testing.assert_close(value[:, 0], values[:, i], rtol=1e-8, atol=0)
        for t, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(t[0], expected[i], rtol=1e-6, atol=1e-9)


@given(st.integers(2, 4), st.integers(0, 1000))
def test_the_largest_gradient_of_a_quadratic_is_along_the_top_eigenvector(n, seed):
    """On w^T A w = c the largest |2 A w|^2 is 4 c times the largest eigenvalue."""
    stream = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=DOUBLE))[0]
    values = torch.arange(1, n + 1, dtype=DOUBLE)
    matrix = basis @ torch.diag(values) @ basis.mT
    landscape, params = function_landscape(
        Quadratic(matrix, torch.zeros(n)), torch.randn(2, n, generator=stream, dtype=DOUBLE)
    )
    level = landscape.loss(params)
    algebra, norms = Climb(gradient_norm, 150, 0.5).run(landscape, params)
    torch.testing.assert_close(norms[-1], (4 * values[-1] * level).sqrt(), rtol=1e-4, atol=0)
    w = moved(landscape, params, algebra)["w"]
    torch.testing.assert_close(landscape.loss({"w": w}), level, rtol=1e-10, atol=0)
    cosine = (w @ basis[:, -1]).abs() / w.norm(dim=1)
    assert bool((cosine > 0.999).all())


def test_the_largest_and_smallest_gradient_of_booth():
    """L = |J w - b|^2 and |grad L|^2 = 4 u^T J J^T u, between 4 L and 36 L, as J has the eigenvalues 3 and -1."""
    points = torch.tensor([[0.0, 0.0], [3.0, -2.0], [1.4, -3.5]], dtype=DOUBLE)
    landscape, params = function_landscape(Booth([0.0, 0.0]), points)
    level = landscape.loss(params)
    for direction, factor in (("ascend", 36), ("descend", 4)):
        algebra, norms = Climb(gradient_norm, 80, 0.5, direction).run(landscape, params)
        torch.testing.assert_close(norms[-1], (factor * level).sqrt(), rtol=1e-8, atol=0)
        torch.testing.assert_close(landscape.loss(moved(landscape, params, algebra)), level, rtol=1e-10, atol=0)


@pytest.mark.parametrize("objective", ["gradient_norm", lambda place: place.landscape.loss(place.params).detach()])
def test_what_no_orbit_changes_cannot_be_climbed(objective):
    batch = draw_batch(SoftmaxFamily(), 2, 0)
    with pytest.raises(SymmetryError, match="does not change along the orbits of LogitTranslation"):
        Climb(find_objective(objective), 3, 0.1).run(landscape_of(batch, "softmax"), batch.params)


def test_softmax_orbits_change_other_objectives():
    batch = draw_batch(SoftmaxFamily(), 2, 0)
    landscape = landscape_of(batch, "softmax")
    algebra, values = Climb(lambda place: flatten(place.params).square().sum(1), 30, 0.3, "descend").run(
        landscape, batch.params
    )
    assert bool((values[-1] < values[0]).all())
    there = moved(landscape, batch.params, algebra)
    torch.testing.assert_close(landscape.loss(there), landscape.loss(batch.params), rtol=1e-10, atol=0)


def test_a_climb_leaves_its_arguments_as_they_are_and_needs_no_grad_mode(make_batch):
    batch = make_batch()
    before = map_params(torch.clone, batch.params)
    landscape = landscape_of(batch, "auto")
    algebra, _ = Climb(gradient_norm, 3, 0.1).run(landscape, batch.params)
    with torch.no_grad():
        again, _ = Climb(gradient_norm, 3, 0.1).run(landscape, batch.params)
    assert all(torch.equal(a, b) for a, b in zip(algebra, again, strict=True))
    assert all(torch.equal(before[k], p) and not p.requires_grad for k, p in batch.params.items())


# The teleport


@pytest.mark.parametrize("kind", KINDS)
def test_optimised_teleports_obey_the_laws_in_every_group(kind):
    check_teleport(OptimisedTeleport(steps=3, symmetry=kind), draw_batch(FAMILIES[kind], 2, 0))


@pytest.mark.parametrize(
    "teleport",
    [
        OptimisedTeleport("sharpness", steps=2, direction="descend"),
        OptimisedTeleport("curvature", steps=2, last=None, every=2),
        OptimisedTeleport(steps=2, rows=3, last=None),
        OptimisedTeleport(lambda place: flatten(place.params).square().sum(1), direction="descend", first=1, last=2),
    ],
    ids=["sharpness", "curvature", "rows", "own"],
)
def test_optimised_teleports_obey_the_laws_with_other_settings(teleport, make_batch):
    check_teleport(teleport, make_batch(rows=7, parts=(1, 0, 0), batch_size=None))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0]),
        ({"last": None}, [0, 1, 2, 3, 4, 5]),
        ({"first": 2, "last": None, "every": 2}, [2, 4]),
        ({"first": 1, "last": 5, "every": 3}, [1, 4]),
        ({"first": 3, "last": 3}, [3]),
    ],
)
def test_teleports_keep_to_their_schedule(make_batch, settings, steps):
    seen = []

    def spy(place: Place) -> Tensor:
        seen.append(1)
        return place.gradient_norm

    teleport = OptimisedTeleport(spy, steps=1, **settings)
    assert [k for k in range(6) if teleport.active(k)] == steps
    batch = make_batch()
    unroll = Unroll(InnerOptimizer(GradientDescent(0.01), teleport), batch, 6)
    unroll.window(unroll.start(), 6)
    assert len(seen) == 2 * len(steps)


def test_a_callable_objective_is_that_of_its_name(make_batch):
    ends = []
    for objective in ("gradient_norm", gradient_norm, true_norm):
        batch = make_batch()
        unroll = Unroll(InnerOptimizer(GradientDescent(0.01), OptimisedTeleport(objective, steps=3)), batch, 2)
        ends.append(flatten(unroll.window(unroll.start(), 2).end.params))
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-8, atol=1e-10)


def test_rows_are_drawn_by_each_task_s_own_seed(make_batch):
    batch = make_batch(tasks=3, rows=20)
    landscape = landscape_of(batch, "auto")
    found = rows_of(landscape, 6, batch.seeds, 4)
    assert found.inputs.shape[:2] == found.targets.shape[:2] == (3, 6)
    again = rows_of(landscape, 6, batch.seeds, 4)
    assert torch.equal(found.inputs, again.inputs)
    assert not torch.equal(found.inputs, rows_of(landscape, 6, batch.seeds, 5).inputs)
    indices = []
    for i in range(3):
        match = (found.inputs[i].unsqueeze(1) == landscape.inputs[i]).all(2)
        assert match.sum(1).tolist() == [1] * 6, "rows of the task, none of them twice"
        indices.append(match.int().argmax(1))
        assert indices[i].unique().numel() == 6
        assert torch.equal(found.targets[i], landscape.targets[i][indices[i]])
        alone = rows_of(landscape_of(one(batch, i), "auto"), 6, batch.seeds[i : i + 1], 4)
        assert torch.equal(alone.inputs[0], found.inputs[i])
    assert not torch.equal(indices[0], indices[1])
    assert rows_of(landscape, 20, batch.seeds, 4) is landscape


@pytest.mark.parametrize(
    ("kind", "rows", "family"),
    [
        ("auto", 9, ExampleFamily(rows=20, batch_size=4)),
        ("pseudo_inverse", 5, ExampleFamily((4, 6, 6, 2), (nn.Tanh(),) * 2, rows=20, batch_size=4)),
    ],
)
def test_the_climb_looks_at_the_drawn_rows_and_gives_the_gradient_on_the_step_s(kind, rows, family):
    batch = sample_meta_batch(family, "train", range(2)).to(DOUBLE)
    teleport = OptimisedTeleport(steps=3, rows=rows, symmetry=kind)
    group = teleport.group(batch.network)
    whole = Landscape(batch.network, batch.family.loss, *batch.rows("inner"))
    here = Landscape(batch.network, batch.family.loss, *batch.rows("inner", batch.minibatches("inner")[0]))
    point = Point(batch.params, here.gradient(batch.params), here.inputs, 0, here, whole)
    there, _, _ = teleport.move(point, group, state := teleport.start(batch.params, group, batch.seeds), state)
    chosen = replace(rows_of(whole, rows, batch.seeds, 0), group=group)
    algebra, _ = Climb(gradient_norm, 3, 0.1).run(chosen, batch.params)
    expected = group.act(group.exp(algebra), batch.params, chosen.inputs)
    torch.testing.assert_close(flatten(there.params), flatten(expected), rtol=1e-10, atol=1e-12)
    true = here.gradient(map_params(torch.detach, there.params))
    torch.testing.assert_close(flatten(there.gradient), flatten(true), rtol=1e-8, atol=1e-10)
    on_rows = (chosen.loss(there.params) - chosen.loss(batch.params)).abs().max()
    on_step = (here.loss(there.params) - here.loss(batch.params)).abs().max()
    assert on_rows < 1e-9
    assert (on_step < 1e-9) == group.exact, "a group that depends on the data keeps the loss on the drawn rows only"
    assert there.inputs is here.inputs
    assert there.landscape is here


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("rows", [None, 3, 9])
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("auto", ExampleFamily(rows=16, parts=(0.75, 0.25, 0.0), batch_size=4)),
        ("data_dependent", ExampleFamily((4, 4, 4, 2), (nn.LeakyReLU(0.2),) * 2, rows=16, batch_size=4)),
        ("pseudo_inverse", ExampleFamily((4, 6, 6, 2), (nn.Tanh(),) * 2, rows=16, batch_size=4)),
    ],
)
def test_it_runs_in_an_unroll_with_minibatches(kind, family, rows, order):
    if kind == "data_dependent" and rows is not None:
        rows = 4  # as many as inputs
    batch = sample_meta_batch(family, "train", range(2)).to(DOUBLE)
    # More rows than the 6 neurons have no exact action; here that is allowed.
    teleport = OptimisedTeleport(steps=2, lr=0.05, rows=rows, symmetry=kind, last=None, every=2, residual=1.0)
    inner = InnerOptimizer(GradientDescent(0.01, learn=True), teleport, order).double()
    unroll = Unroll(inner, batch, 4, second_order=True)
    window = unroll.window(unroll.start(), 4)
    assert bool(window.end.alive.all())
    first = unroll.window(unroll.start(), 1)
    torch.testing.assert_close(
        torch.cat([first.meta_losses, unroll.window(first.end, 3).meta_losses]), window.meta_losses, rtol=1e-9, atol=0
    )
    (slope,) = torch.autograd.grad(window.meta_losses.sum(), [p for p in inner.parameters() if p.requires_grad])
    assert bool(slope.isfinite())
    assert bool(slope.abs() > 0)


def test_the_whole_unroll_of_an_exact_teleport_starts_elsewhere_on_the_level_set(make_batch):
    batch = make_batch(tasks=2)
    inner = InnerOptimizer(GradientDescent(0.05), OptimisedTeleport(steps=10, direction="descend"))
    plain = InnerOptimizer(GradientDescent(0.05))
    windows = []
    for each in (inner, plain):
        unroll = Unroll(each.double(), batch, 1)
        windows.append(unroll.window(unroll.start(), 1))
    torch.testing.assert_close(windows[0].inner_losses, windows[1].inner_losses, rtol=1e-12, atol=0)
    # The recorded norm is before the teleport; a smaller gradient makes a smaller first step down.
    assert bool((windows[0].meta_losses > windows[1].meta_losses).all())


def test_a_point_without_its_loss_is_refused(make_batch):
    batch = make_batch()
    landscape = landscape_of(batch, "auto")
    bare = Point(batch.params, landscape.gradient(batch.params), landscape.inputs, 0)
    for settings in ({}, {"rows": 2}):
        teleport = OptimisedTeleport(**settings)
        state = teleport.start(batch.params, landscape.group, batch.seeds)
        with pytest.raises(SymmetryError, match="OptimisedTeleport needs a point with its landscape"):
            teleport.move(bare, landscape.group, state, state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "height"}, "got 'height'"),
        ({"steps": 0}, "steps must be .* got 0"),
        ({"lr": 0.0}, "lr must be above 0 .* got 0.0"),
        ({"direction": "up"}, "direction must be one of ascend, descend, got 'up'"),
        ({"cap": "high"}, "cap must be a number or None, got 'high'"),
        ({"rows": 0}, "rows must be .* got 0"),
        ({"symmetry": "none"}, "symmetry must be one of .* got 'none'"),
        ({"every": 0}, "every must be .* got 0"),
        ({"first": 2}, "first=2, last=0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        OptimisedTeleport(**settings)


def test_it_is_saved_and_loaded_by_the_name_of_its_objective(tmp_path):
    teleport = OptimisedTeleport("sharpness", 3, 0.2, "descend", 4.0, 7, "scaling", 1, 5, 2)
    loaded = load_checkpoint(save_checkpoint(InnerOptimizer(Adam(), teleport), tmp_path / "it")).teleport
    assert isinstance(loaded, OptimisedTeleport)
    assert loaded.arguments() == teleport.arguments()
    objectives: list[Callable[[], Objective]] = [Sharpness, lambda: gradient_norm]
    for make in objectives:
        with pytest.raises(CheckpointError, match="objective"):
            save_checkpoint(InnerOptimizer(Adam(), OptimisedTeleport(make())), tmp_path / "other")


def test_a_batch_too_large_for_an_exact_action_is_refused():
    family = ExampleFamily((4, 6, 6, 2), (nn.Tanh(),) * 2, rows=16)
    batch = sample_meta_batch(family, "train", range(2)).to(DOUBLE)

    def play(**settings):
        inner = InnerOptimizer(GradientDescent(0.01), OptimisedTeleport(symmetry="pseudo_inverse", **settings))
        unroll = Unroll(inner, batch, 1)
        return unroll.window(unroll.start(), 1).end.alive

    with pytest.raises(SymmetryError, match=r"hidden layer after '0'.*tolerance 0.001, on 16 data rows; .* at most 6"):
        play()
    assert bool(play(residual=10.0).all())
    assert bool(play(rows=6).all())


def test_an_objective_that_is_nowhere_finite_is_refused():
    batch = sample_meta_batch(ExampleFamily(), "train", range(2)).to(DOUBLE)
    inner = InnerOptimizer(GradientDescent(0.01), OptimisedTeleport(lambda place: place.gradient_norm * torch.nan))
    unroll = Unroll(inner, batch, 1)
    with pytest.raises(SymmetryError, match="objective is not finite for any task"):
        unroll.window(unroll.start(), 1)


def test_data_on_which_the_group_cannot_act_are_the_tasks_outcome():
    # All rows are equal, so every matrix of activations is singular; no task is to blame for an error.
    batch = sample_meta_batch(ExampleFamily((4, 4, 2), (nn.Tanh(),), rows=4), "train", range(2)).to(DOUBLE)
    batch.inputs["inner"].copy_(batch.inputs["inner"][:, :1].clone())
    unroll = Unroll(InnerOptimizer(GradientDescent(0.01), OptimisedTeleport(symmetry="pseudo_inverse")), batch, 1)
    assert unroll.window(unroll.start(), 1).end.alive.tolist() == [False, False]
