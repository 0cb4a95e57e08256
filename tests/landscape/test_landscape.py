"""The loss as a landscape: gradients of moved parameters, sharpness and curvature against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import ConfigError, Curvature, MetaBatch, Sharpness, SymmetryError
from metatele.experiments.functions import Quadratic, value_loss
from metatele.landscape import Landscape, Place, curve_curvature, find_objective, gradient_norm
from metatele.landscape.sharpness import evaluate_all
from metatele.support.seeding import generator
from metatele.symmetry import Kind, ProductGroup, group_of
from metatele.task.params import Params, flatten, map_params, unflatten
from metatele.testing import ExampleFamily
from tests.symmetry.cases import draw_batch

DOUBLE = torch.float64


def landscape_of(batch: MetaBatch, kind: Kind | None = None) -> Landscape:
    group = ProductGroup() if kind is None else group_of(batch.network, kind)
    return Landscape(batch.network, batch.family.loss, *batch.rows("inner"), group)


def place_of(batch: MetaBatch, kind: Kind | None = None) -> Place:
    return Place(landscape_of(batch, kind), batch.params)


def quadratic(matrix: Tensor, points: Tensor) -> Place:
    """L(w) = w^T A w at points [B, n], with its group."""
    network = Quadratic(matrix, points[0])
    empty = torch.zeros(len(points), 1, 0, dtype=DOUBLE)
    return Place(Landscape(network, value_loss, empty, empty, group_of(network)), {"w": points})


def random_quadratic(n: int, seed: int, tasks: int = 3) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=stream, dtype=DOUBLE)
    return root @ root.mT + torch.eye(n), torch.randn(tasks, n, generator=stream, dtype=DOUBLE)


def one(batch: MetaBatch, i: int) -> MetaBatch:
    """Task i alone."""
    sides = ({part: side[part][i : i + 1] for part in side} for side in (batch.inputs, batch.targets))
    inputs, targets = sides
    params = {k: p[i : i + 1] for k, p in batch.params.items()}
    return replace(batch, params=params, inputs=inputs, targets=targets, seeds=batch.seeds[i : i + 1])


# The gradient


def test_loss_and_gradient_are_those_of_an_ordinary_network(make_batch):
    batch = make_batch(tasks=3)
    landscape = landscape_of(batch)
    losses, gradient = landscape.loss(batch.params), landscape.gradient(batch.params)
    for i in range(3):
        network = batch.family.network().double()
        network.load_state_dict({k: p[i] for k, p in batch.params.items()})
        loss = batch.family.loss(network(landscape.inputs[i]), landscape.targets[i])
        loss.backward()
        torch.testing.assert_close(losses[i], loss.detach(), rtol=1e-12, atol=0)
        for k, p in network.named_parameters():
            torch.testing.assert_close(gradient[k][i], p.grad, rtol=1e-10, atol=1e-14)
        alone = landscape_of(one(batch, i))
        torch.testing.assert_close(alone.loss(one(batch, i).params)[0], losses[i].detach(), rtol=1e-12, atol=0)


def test_the_gradient_of_parameters_that_depend_on_each_other_is_the_partial_one(make_batch):
    batch = make_batch(widths=(3, 3, 3, 2), activations=(nn.LeakyReLU(0.2),) * 2)
    landscape = landscape_of(batch)
    lead = batch.params["0.weight"].clone().requires_grad_()
    bound = {**batch.params, "0.weight": lead, "2.weight": batch.params["2.weight"] * (1 + lead.square())}
    expected = landscape.gradient(map_params(torch.detach, bound))
    for create_graph in (False, True):
        found = landscape.gradient(bound, create_graph)
        torch.testing.assert_close(flatten(found), flatten(expected), rtol=1e-12, atol=1e-14)

    def norm(value: Tensor) -> Tensor:
        moved = {**batch.params, "0.weight": value, "2.weight": batch.params["2.weight"] * (1 + value.square())}
        return gradient_norm(Place(landscape, moved))

    assert torch.autograd.gradcheck(norm, (lead,))


def test_a_gradient_needs_no_grad_mode(make_batch):
    batch = make_batch()
    landscape = landscape_of(batch)
    expected = landscape.gradient(batch.params)
    with torch.no_grad():
        found = landscape.gradient(batch.params)
    assert all(torch.equal(found[k], expected[k]) and not found[k].requires_grad for k in expected)
    assert not any(p.requires_grad for p in batch.params.values())


@pytest.mark.parametrize("training", [True, False])
def test_one_network_may_have_buffers_which_stay_as_they_are(training):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).double().train(training)
    x, y = torch.randn(6, 4, dtype=DOUBLE), torch.randn(6, 2, dtype=DOUBLE)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    params = {k: p.detach().unsqueeze(0) for k, p in network.named_parameters()}
    landscape = Landscape(network, nn.functional.mse_loss, x.unsqueeze(0), y.unsqueeze(0))
    loss, gradient = landscape.loss(params), landscape.gradient(params, create_graph=True)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    own = nn.functional.mse_loss(network(x), y)
    torch.testing.assert_close(loss[0], own.detach(), rtol=1e-12, atol=0)
    for k, g in zip(gradient, torch.autograd.grad(own, list(network.parameters())), strict=True):
        torch.testing.assert_close(gradient[k][0].detach(), g, rtol=1e-10, atol=1e-12)


def test_parameters_without_influence_have_a_gradient_of_zeros(make_batch):
    batch = make_batch()
    network = nn.Sequential(*batch.network, nn.Flatten()).double()
    network.register_parameter("idle", nn.Parameter(torch.ones(2, 3, dtype=DOUBLE)))
    landscape = replace(landscape_of(batch), network=network)
    gradient = landscape.gradient({**batch.params, "idle": torch.ones(2, 2, 3, dtype=DOUBLE)})
    assert gradient["idle"].shape == (2, 2, 3)
    assert not gradient["idle"].any()
    assert all(bool(g.any()) for k, g in gradient.items() if k != "idle")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, y: (p - y).square(), r"one number, got \(4, 2\)"),
        (lambda p, y: 3.0, "one number, got float"),
        (lambda p, y: (p - y).detach().mean(), "does not depend on the parameters"),
    ],
)
def test_a_loss_that_is_no_scalar_of_the_parameters_is_refused(make_batch, loss, message):
    batch = make_batch(tasks=1)
    with pytest.raises(ConfigError, match=message):
        replace(landscape_of(batch), loss_function=loss).gradient(batch.params)


# The gradient norm


@given(st.integers(2, 5), st.integers(0, 1000))
def test_the_gradient_norm_of_a_quadratic(n, seed):
    matrix, points = random_quadratic(n, seed)
    expected = 2 * (points @ matrix).norm(dim=1)
    torch.testing.assert_close(gradient_norm(quadratic(matrix, points)), expected, rtol=1e-12, atol=0)


def test_the_gradient_norm_has_a_derivative_where_it_is_zero():
    points = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    norm = gradient_norm(quadratic(torch.eye(3, dtype=DOUBLE), points))
    assert norm.tolist() == pytest.approx([0, 0], abs=1e-14)
    (slope,) = torch.autograd.grad(norm.sum(), points)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "objective must be one of gradient_norm, sharpness, curvature, got 'loss'"),
        (None, "got None"),
        (3, "got 3"),
        (["sharpness"], "got .'sharpness'."),
        (Sharpness, "got <class .*Sharpness"),
    ],
)
def test_an_unknown_objective_is_refused_with_its_value(name, message):
    with pytest.raises(ConfigError, match=message):
        find_objective(name)


def test_objectives_go_by_their_names_or_are_taken_as_they_are():
    assert find_objective("gradient_norm") is gradient_norm
    assert isinstance(find_objective("sharpness"), Sharpness)
    assert isinstance(find_objective("curvature"), Curvature)
    own = Sharpness(directions=2)
    assert find_objective(own) is own


# Sharpness


def directions_of(count: int, n: int, seed: int) -> Tensor:
    draws = torch.randn(count, n, generator=generator("sharpness", seed), dtype=DOUBLE)
    return draws / draws.norm(dim=1, keepdim=True)


@given(st.integers(2, 5), st.integers(0, 1000), st.lists(st.floats(0.01, 2.0), min_size=1, max_size=4))
def test_sharpness_of_a_quadratic_in_closed_form(n, seed, distances):
    """Mean of (w + td)^T A (w + td) = w^T A w + 2 t w^T A d + t^2 d^T A d."""
    matrix, points = random_quadratic(n, seed)
    found = Sharpness(tuple(distances), directions=6, seed=seed)(quadratic(matrix, points))
    d, t = directions_of(6, n, seed), torch.tensor(distances, dtype=DOUBLE)
    linear = 2 * t.mean() * (points @ matrix @ d.mT).mean(1)
    bend = t.square().mean() * ((d @ matrix) * d).sum(1).mean()
    expected = ((points @ matrix) * points).sum(1) + linear + bend
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_many_directions_give_the_trace():
    """At the minimum the mean over the sphere is t^2 tr(A) / n, and the default distances are the paper's grid."""
    matrix, points = random_quadratic(4, 0)
    found = Sharpness(directions=20_000)(quadratic(matrix, torch.zeros_like(points)))
    grid = [0.001 + 0.01 * i for i in range(20)]
    expected = sum(t * t for t in grid) / 20 * float(matrix.trace()) / 4
    assert found.tolist() == pytest.approx([expected] * 3, rel=0.01)


@pytest.mark.parametrize("tasks", [1, 3])
def test_sharpness_is_a_loop_over_displacements(make_batch, tasks):
    batch = make_batch(tasks=tasks)
    place = place_of(batch)
    flat, distances = flatten(batch.params), (0.05, 0.5)
    losses = [
        place.landscape.loss(unflatten(flat + t * d, batch.params))
        for d in directions_of(3, flat.shape[1], 7)
        for t in distances
    ]
    expected = torch.stack(losses).mean(0).detach()
    for chunk in (None, 1, 4, 100):
        found = Sharpness(distances, 3, 7, chunk)(place)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not torch.equal(Sharpness(distances, 3, 8)(place), found)


class Recurrent(nn.Module):
    """A GRU or LSTM over [n, time, 3] and a read-out of its last output."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM] = nn.GRU) -> None:
        super().__init__()
        self.cell, self.out = cell(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Branching(nn.Sequential):
    """A network whose control flow depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else 2 * y


UNBATCHABLE = {
    "gru": (Recurrent, (5, 6, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 6, 3)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), (5, 3)),
    "branching": (lambda: Branching(nn.Linear(3, 2)), (5, 3)),
}


def place_of_model(network: nn.Module, shape: tuple[int, ...]) -> Place:
    x, y = torch.randn(1, *shape, dtype=DOUBLE), torch.randn(1, shape[0], 2, dtype=DOUBLE)
    params = {k: p.detach().clone().unsqueeze(0) for k, p in network.double().named_parameters()}
    return Place(Landscape(network, nn.functional.mse_loss, x, y), params)


@pytest.mark.parametrize("name", UNBATCHABLE)
def test_sharpness_of_one_network_that_vmap_cannot_batch(name):
    torch.manual_seed(0)
    build, shape = UNBATCHABLE[name]
    place = place_of_model(build(), shape)
    buffers = {k: b.clone() for k, b in place.landscape.network.named_buffers()}
    start = flatten(place.params).requires_grad_()
    found = Sharpness((0.05, 0.5), 3, 7)(Place(place.landscape, unflatten(start, place.params)))
    assert all(torch.equal(b, buffers[k]) for k, b in place.landscape.network.named_buffers())
    losses = [
        place.landscape.loss(unflatten(start + t * d, place.params))
        for d in directions_of(3, start.shape[1], 7)
        for t in (0.05, 0.5)
    ]
    expected = torch.stack(losses).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (slope,), (own,) = (torch.autograd.grad(v, start) for v in (found, expected))
    assert slope.any()
    torch.testing.assert_close(slope, own)


@pytest.mark.parametrize("tasks", [1, 2])
def test_one_by_one_or_as_a_batch_is_the_same(make_batch, tasks):
    """Where vmap refuses a loss, the same numbers come from a loop."""
    place = place_of(make_batch(tasks=tasks))
    flat = flatten(place.params)

    def loss(shift: Tensor) -> Tensor:
        return place.landscape.loss(unflatten(flat + shift, place.params))

    def alone(shift: Tensor) -> Tensor:
        float(shift.sum())  # which vmap refuses
        return loss(shift)

    shifts = 0.1 * torch.randn(5, flat.shape[1], dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = evaluate_all(alone, shifts, chunk=2)
    torch.testing.assert_close(found, evaluate_all(loss, shifts, chunk=2), rtol=1e-12, atol=0)


def test_errors_of_a_forward_pass_are_its_own():
    place = place_of_model(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), (5, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Sharpness(directions=2)(place)


def test_sharpness_of_a_random_forward_is_left_to_others_to_refuse():
    torch.manual_seed(0)
    place = place_of_model(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)), (5, 3))
    assert Sharpness(directions=2)(place).isfinite().all()


def test_sharpness_of_a_stack_is_that_of_each_task(make_batch):
    batch = make_batch(tasks=3)
    whole = Sharpness(directions=4)(place_of(batch))
    for i in range(3):
        torch.testing.assert_close(Sharpness(directions=4)(place_of(one(batch, i)))[0], whole[i], rtol=1e-12, atol=0)
    assert len({round(v, 9) for v in whole.tolist()}) == 3


def test_sharpness_has_a_gradient(make_batch):
    batch = make_batch(tasks=2, widths=(3, 2, 1), activations=(nn.Tanh(),))
    landscape, names = landscape_of(batch), list(batch.params)
    leaves = tuple(p.clone().requires_grad_() for p in batch.params.values())
    measure = Sharpness((0.3,), directions=2)
    assert torch.autograd.gradcheck(lambda *p: measure(Place(landscape, dict(zip(names, p, strict=True)))), leaves)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distances": ()}, "at least one distance"),
        ({"distances": (0.1, 0.0)}, "distance must be above 0 .* got 0.0"),
        ({"distances": (math.nan,)}, "got nan"),
        ({"directions": 0}, "directions must be .* got 0"),
        ({"chunk": 0}, "chunk must be .* got 0"),
        ({"chunk": 1.5}, "got 1.5"),
    ],
)
def test_impossible_settings_of_sharpness_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sharpness(**settings)


# Curvature


@given(st.floats(0.1, 10), st.floats(0, 6.28))
def test_the_curvature_of_a_circle(radius, angle):
    point = radius * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=DOUBLE)
    for elements in (1, 3):
        found = Curvature(elements)(quadratic(torch.eye(2, dtype=DOUBLE), point))
        torch.testing.assert_close(found, torch.tensor([1 / radius], dtype=DOUBLE), rtol=1e-10, atol=0)


@given(st.floats(0.2, 5), st.floats(0.2, 5), st.floats(-3, 3), st.floats(0.1, 3))
def test_the_curvature_of_an_ellipse(a, b, x, y):
    """On a x^2 + b y^2 = c the curvature is 1 / (p^2 q^2 (x^2 / p^4 + y^2 / q^4)^(3/2)), p^2 = c / a, q^2 = c / b."""
    found = Curvature(2)(
        quadratic(torch.diag(torch.tensor([a, b], dtype=DOUBLE)), torch.tensor([[x, y]], dtype=DOUBLE))
    )
    c = a * x * x + b * y * y
    p2, q2 = c / a, c / b
    expected = 1 / (p2 * q2 * (x * x / p2**2 + y * y / q2**2) ** 1.5)
    assert found.tolist() == pytest.approx([expected], rel=1e-9)


@given(st.integers(0, 1000), st.sampled_from([nn.ReLU(), nn.LeakyReLU(0.3)]))
def test_the_curvature_of_a_hyperbola(seed, activation):
    """Positive scaling takes weights (a, b) of one neuron along x y = a b."""
    batch = draw_batch(ExampleFamily((1, 1, 1), (activation,), bias=False, rows=3), 3, seed)
    found = Curvature(2)(place_of(batch, "scaling"))
    x, c = (f(p.flatten()) for f, p in ((torch.abs, batch.params["0.weight"]), (torch.abs, batch.params["0.weight"])))
    c = c * batch.params["2.weight"].flatten().abs()
    expected = 2 * c / x**3 / (1 + c**2 / x**4) ** 1.5
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("auto", ExampleFamily()),
        ("general_linear", ExampleFamily((3, 2, 3, 2), (None, None))),
        ("data_dependent", ExampleFamily((3, 3, 3, 2), (nn.LeakyReLU(0.2),) * 2)),
        ("pseudo_inverse", ExampleFamily((3, 4, 2), (nn.Tanh(),), rows=3)),
        ("softmax", ExampleFamily()),
    ],
)
def test_curvature_by_finite_differences(kind, family):
    batch, h = draw_batch(family, 2, 1), 1e-4
    place = place_of(batch, kind)
    group, inputs = place.landscape.group, place.landscape.inputs
    stream = generator("curvature", 5)
    draws = [torch.randn(1, *s, generator=stream, dtype=DOUBLE).expand(2, *s) for s in group.algebra_shapes]
    norm = torch.cat([d[0].flatten() for d in draws]).norm()

    def curve(t: float) -> Tensor:
        return flatten(group.act(group.exp([t * d / norm for d in draws]), batch.params, inputs))

    behind, here, ahead = curve(-h), curve(0.0), curve(h)
    velocity, acceleration = (ahead - behind) / (2 * h), (ahead - 2 * here + behind) / h**2
    dot = (velocity * acceleration).sum(1)
    speed2, size2 = velocity.square().sum(1), acceleration.square().sum(1)
    expected = (speed2 * size2 - dot**2).clamp_min(0).sqrt() / speed2**1.5
    found = Curvature(1, seed=5)(place)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert bool((found > 1e-3).all()) == (kind != "softmax"), "translations go straight"


def test_curvature_of_a_stack_is_that_of_each_task_and_a_mean_over_draws(make_batch):
    batch = make_batch(tasks=3)
    whole = Curvature(6)(place_of(batch, "auto"))
    for i in range(3):
        torch.testing.assert_close(Curvature(6)(place_of(one(batch, i), "auto"))[0], whole[i], rtol=1e-10, atol=0)
    assert torch.equal(Curvature(6)(place_of(batch, "auto")), whole)
    assert not torch.allclose(Curvature(6, seed=1)(place_of(batch, "auto")), whole)


def test_curvature_has_a_gradient_along_the_orbit(make_batch):
    batch = make_batch(tasks=2, widths=(2, 2, 1), activations=(nn.ReLU(),))
    place = place_of(batch, "auto")
    group, inputs = place.landscape.group, place.landscape.inputs

    def measure(algebra: Tensor) -> Tensor:
        return Curvature(2)(Place(place.landscape, group.act(group.exp([algebra]), batch.params, inputs)))

    start = torch.zeros(2, 2, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(measure, (start,))


def test_curvature_needs_a_group(make_batch):
    with pytest.raises(SymmetryError, match="this landscape has no group; use a network whose symmetry"):
        Curvature()(place_of(make_batch()))
    with pytest.raises(ConfigError, match=r"elements must be .* got 0"):
        Curvature(0)


def test_straight_curves_and_still_ones_have_no_curvature_and_a_finite_derivative():
    velocity = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    acceleration = torch.tensor([[-2.0, -4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 5.0]], dtype=DOUBLE, requires_grad=True)
    found = curve_curvature(velocity, acceleration)
    assert found[:2].tolist() == pytest.approx([0, 0], abs=1e-14)
    assert found[2:].tolist() == [0, 0]
    for slope in torch.autograd.grad(found.sum(), (velocity, acceleration)):
        assert bool(slope.isfinite().all())


@given(st.integers(0, 1000), st.integers(2, 6), st.floats(0.1, 10))
def test_curvature_is_the_formula_and_does_not_depend_on_the_clock(seed, n, rate):
    stream = torch.Generator().manual_seed(seed)
    v, a = torch.randn(2, 3, n, generator=stream, dtype=DOUBLE)
    formula = (v.square().sum(1) * a.square().sum(1) - (v * a).sum(1) ** 2).clamp_min(0).sqrt() / v.norm(dim=1) ** 3
    torch.testing.assert_close(curve_curvature(v, a), formula, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(curve_curvature(rate * v, rate**2 * a + v), formula, rtol=1e-6, atol=1e-9)


def test_what_measures_look_at_stays_as_it_is(make_batch):
    batch = make_batch()
    before: Params = map_params(torch.clone, batch.params)
    for name in ("gradient_norm", "sharpness", "curvature"):
        find_objective(name)(place_of(batch, "auto"))
    assert all(torch.equal(before[k], p) and not p.requires_grad for k, p in batch.params.items())
