"""Teleports that need no group: along the level set, and in the null spaces of the layers' inputs."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from metatele.checkpoint import describe
from metatele.errors import ConfigError, SymmetryError
from metatele.experiments.functions import Quadratic, value_loss
from metatele.landscape import Landscape, Place, gradient_norm
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point, State
from metatele.support.seeding import seeded
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, flatten, map_params
from metatele.teleports import LevelSetTeleport, NullSpaceTeleport, Teleport
from metatele.teleports.layer_inputs import find_layers, free_directions, layer_inputs, span
from metatele.testing import check_teleport
from metatele.unroll.higher.unroll import Unroll
from metatele.update import GradientDescent

BOTH = [LevelSetTeleport, NullSpaceTeleport]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v of [n, tokens, d], then a linear read-out of the mean token."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(d, w) for w in (d, d, d, 3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT / x.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ self.v(x)).mean(-2))


class MultiHead(nn.Module):
    """torch's own attention, whose projections are not called as modules."""

    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=self.need_weights)[0].mean(-2))


class Twice(nn.Module):
    """A layer that is called twice, by keyword the second time, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out, self.idle = nn.Linear(12, 12), nn.Linear(12, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(input=self.inner(x).tanh()).tanh())


def mlp(activation: nn.Module, d: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 3))


def conv(*first: nn.Module) -> nn.Module:
    """The first layers, mapping [2, 6, 6] or [2, 6] to anything, and a linear layer."""
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


# The rows are few enough for null spaces.
NETWORKS = {
    "relu": (lambda: mlp(nn.ReLU()), (7, 10)),
    "tanh": (lambda: mlp(nn.Tanh()), (7, 10)),
    "conv": (lambda: conv(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), (2, 2, 6, 6)),
    "attention": (Attention, (1, 5, 6)),
    "twice": (Twice, (4, 12)),
}
ATTENTIONS = {
    "multi-head": (MultiHead, (5, 5, 6)),
    "multi-head with weights": (lambda: MultiHead(True), (5, 5, 6)),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True), nn.Flatten(), nn.LazyLinear(3)
        ),
        (5, 5, 6),
    ),
}
CONVOLUTIONS = {
    "stride and padding": (lambda: conv(nn.Conv2d(2, 3, 3, stride=2, padding=1)), (1, 2, 6, 6)),
    "same": (lambda: conv(nn.Conv2d(2, 3, (2, 3), padding="same")), (1, 2, 3, 4)),
    "dilation": (lambda: conv(nn.Conv2d(2, 3, 2, dilation=(2, 3), bias=False)), (1, 2, 4, 4)),
    "groups": (lambda: conv(nn.Conv2d(4, 6, 3, groups=2)), (1, 4, 6, 5)),
    "circular": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", stride=3)), (1, 2, 6, 6)),
    "one dimension": (lambda: conv(nn.Conv1d(2, 3, 3, padding=2, dilation=2, stride=2)), (1, 2, 6)),
    "one dimension, reflected": (lambda: conv(nn.Conv1d(2, 4, 4, padding=2, padding_mode="reflect")), (1, 2, 6)),
}


def make(build, shape, tasks: int = 2, dtype=torch.float64) -> tuple[Landscape, Params]:
    """A network on random classification data, with random weights for each task."""
    params = []
    with seeded(3):
        x, y = torch.randn(tasks, *shape, dtype=dtype), torch.randint(0, 3, (tasks, shape[0]))
        for _ in range(tasks):
            network = build().to(dtype)
            functional_call(network, {}, (x[0],))  # gives lazy layers their sizes
            params.append({k: p.detach().clone() for k, p in network.named_parameters()})
    stacked = {k: torch.stack([p[k] for p in params]) for k in params[0]}
    return Landscape(network, nn.functional.cross_entropy, x, y), stacked


def one(landscape: Landscape, params: Params, i: int) -> tuple[Landscape, Params]:
    """Task i alone."""
    alone = Landscape(
        landscape.network, landscape.loss_function, landscape.inputs[i : i + 1], landscape.targets[i : i + 1]
    )
    return alone, {k: p[i : i + 1] for k, p in params.items()}


def norm_at(landscape: Landscape, params: Params) -> Tensor:
    return flatten(landscape.gradient(params)).norm(dim=1)


def equal(a: Params, b: Params) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def point_of(landscape: Landscape, params: Params) -> Point:
    return Point(params, landscape.gradient(params), landscape.inputs, 0, landscape, landscape)


def move(teleport: Teleport, point: Point, alive: Tensor | None = None) -> Point:
    seeds = torch.arange(len(point.inputs))
    there, _, _ = teleport.move(
        point, ProductGroup(), teleport.start(point.params, ProductGroup(), seeds), State(), alive
    )
    return there


def calls_of(landscape: Landscape, params: Params) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """(name, layer, input, output) of each call of a linear or convolutional layer, for a single task."""
    calls, handles = [], []
    for name, module in landscape.network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            handles.append(
                module.register_forward_hook(
                    lambda m, args, kwargs, out, name=name: calls.append(
                        (name, m, args[0] if args else kwargs["input"], out)
                    ),
                    with_kwargs=True,
                )
            )
    landscape.predict(params)
    for handle in handles:
        handle.remove()
    return calls


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", [*NETWORKS, *ATTENTIONS])
def test_the_loss_stays_and_the_gradient_grows(name, tasks):
    landscape, params = make(*(NETWORKS | ATTENTIONS)[name], tasks)
    found, report = LevelSetTeleport(steps=15).search(landscape, params)
    assert not report.undone.any()
    torch.testing.assert_close(landscape.loss(found), landscape.loss(params), rtol=1e-3, atol=0)
    torch.testing.assert_close(landscape.loss(found), report.loss_after)
    torch.testing.assert_close(norm_at(landscape, found), report.objective_after)
    torch.testing.assert_close(norm_at(landscape, params), report.objective_before)
    assert (report.objective_after > 1.5 * report.objective_before).all()


@pytest.mark.parametrize("teleport", BOTH)
@pytest.mark.parametrize(
    "objective", ["gradient_norm", "sharpness", lambda place: place.loss.exp() * gradient_norm(place)]
)
def test_objectives_rise_and_fall(teleport, objective):
    landscape, params = make(*NETWORKS["tanh"])
    up = teleport(objective, steps=15).search(landscape, params)[1]
    down = teleport(objective, steps=15, direction="descend").search(landscape, params)[1]
    torch.testing.assert_close(up.objective_before, down.objective_before)
    assert (up.objective_after > up.objective_before).all()
    assert (down.objective_after < down.objective_before).all()


@given(
    st.lists(st.floats(0.5, 4), min_size=2, max_size=5, unique=True),
    st.integers(0, 1000),
    st.floats(0.1, 0.5),
)
def test_on_a_quadratic_the_search_ends_at_the_top_eigenvector(eigenvalues, seed, lr):
    """On w^T A w = c the largest |2 A w| is 2 sqrt(lambda_max c), at an eigenvector of lambda_max."""
    n, top = len(eigenvalues), 5.0
    stream = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64))[0]
    values = torch.tensor([*eigenvalues[1:], top], dtype=torch.float64)
    matrix = basis @ torch.diag(values) @ basis.mT
    start = torch.randn(2, n, generator=stream, dtype=torch.float64)
    landscape = Landscape(Quadratic(matrix, start[0]), value_loss, torch.zeros(2, 1, 0), torch.zeros(2, 1))
    found, report = LevelSetTeleport(steps=100, lr=lr, tolerance=1e-9).search(landscape, {"w": start})
    assert not report.undone.any()
    torch.testing.assert_close(report.objective_after, 2 * (top * report.loss_before).sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found["w"] @ matrix, top * found["w"], rtol=1e-3, atol=1e-3)


def on_a_circle(objective: Callable[[Tensor], Tensor], steps: int, lr: float) -> Tensor:
    """Where a search ends that starts at (0, 1) on |w|^2 = 1 and climbs a function of w_0, [2].

    There the slope is along the circle, so the loss has no price, and a step of length r goes to
    (r, 1), where the loss is 1 + r^2.
    """
    eye, start = torch.eye(2, dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    landscape = Landscape(Quadratic(eye, start[0]), value_loss, torch.zeros(1, 1, 0), torch.zeros(1, 1))

    def measure(place: Place) -> Tensor:
        return objective(place.params["w"][:, 0])

    return LevelSetTeleport(measure, steps=steps, lr=lr).search(landscape, {"w": start})[0]["w"][0]


def test_a_step_that_gains_but_strays_too_far_is_refused_and_halved():
    still = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.equal(on_a_circle(lambda u: u, 1, 0.56), still)  # 0.31 off, and the leeway is 0.3
    assert on_a_circle(lambda u: u, 1, 0.54)[0] > 0.4
    assert torch.equal(on_a_circle(lambda u: u, 2, 0.56), on_a_circle(lambda u: u, 1, 0.28))


def test_a_step_that_gains_less_than_promised_is_refused_and_halved():
    def valley(u: Tensor) -> Tensor:
        """Of slope 0.25 at 0; a step of 0.5 is to bring 1e-4 * 0.5 * 0.25 = 1.25e-5 and brings 5e-7."""
        return u * ((u - 0.5).square() + 1e-6)

    still = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.equal(on_a_circle(valley, 1, 0.5), still)
    assert on_a_circle(lambda u: valley(u) + 1e-4 * u.square(), 1, 0.5)[0] > 0.4  # this brings 2.55e-5
    assert torch.equal(on_a_circle(valley, 2, 0.5), on_a_circle(valley, 1, 0.25))


@pytest.mark.parametrize("name", [*NETWORKS, *CONVOLUTIONS])
def test_no_layer_output_changes_in_the_null_space(name):
    landscape, params = one(*make(*(NETWORKS | CONVOLUTIONS)[name]), 1)
    found, report = NullSpaceTeleport(rtol=1e-9).search(landscape, params)
    assert not report.undone.any()
    assert (report.objective_after > 1.05 * report.objective_before).all()
    torch.testing.assert_close(report.loss_after, report.loss_before, rtol=1e-10, atol=0)
    before, after = calls_of(landscape, params), calls_of(landscape, found)
    moved = set()
    for (layer, module, x, out), (_, _, _, new) in zip(before, after, strict=True):
        change = {k: found[f"{layer}.{k}"][0] - params[f"{layer}.{k}"][0] for k, _ in module.named_parameters()}
        moved |= {layer} if any(bool(c.any()) for c in change.values()) else set()
        assert functional_call(module, change, (x,)).abs().max() < 1e-10
        torch.testing.assert_close(new, out, rtol=1e-10, atol=1e-10)
    assert moved
    if name in CONVOLUTIONS:
        assert "0" in moved  # the convolution


def test_the_first_layer_moves_even_when_others_cannot():
    landscape, params = make(lambda: nn.Sequential(nn.Linear(9, 2), nn.Tanh(), nn.Linear(2, 3)), (6, 9))
    found, _ = NullSpaceTeleport().search(landscape, params)
    assert [k for k in params if not torch.equal(found[k], params[k])] == ["0.weight", "0.bias"]


def test_only_layers_that_are_called_as_modules_move_in_the_null_space():
    landscape, params = make(lambda: MultiHead(), (3, 5, 6))
    found, report = NullSpaceTeleport().search(landscape, params)
    assert (report.objective_after > report.objective_before).all()
    assert {k for k in params if not torch.equal(found[k], params[k])} == {"out.weight", "out.bias"}


def test_parameters_of_several_modules_do_not_move_in_the_null_space():
    def tied() -> nn.Module:
        network = mlp(nn.Tanh(), 16)
        network[2].weight = network[0].weight
        return network

    landscape, params = make(tied, (4, 16))
    assert set(find_layers(landscape.network, params)) == {"4"}
    found, _ = NullSpaceTeleport().search(landscape, params)
    assert torch.equal(found["0.weight"], params["0.weight"])
    torch.testing.assert_close(landscape.predict(found), landscape.predict(params))


def test_frozen_parameters_stay():
    landscape, params = make(lambda: mlp(nn.ReLU()), (5, 10), tasks=1)
    trained = {k: p for k, p in params.items() if k != "0.bias"}
    for teleport in (LevelSetTeleport(), NullSpaceTeleport()):
        found, report = teleport.search(landscape, trained)
        assert list(found) == list(trained)
        assert not report.undone.any()


def test_a_basis_spans_the_inputs():
    landscape, params = make(*NETWORKS["twice"], tasks=3)
    inputs, counts = layer_inputs(landscape, params, find_layers(landscape.network, params))
    assert counts == {"inner": 8, "out": 4}
    basis = span(inputs["inner"], 1e-9)
    rows = torch.cat([landscape.inputs, torch.ones(3, 4, 1, dtype=torch.float64)], 2)
    torch.testing.assert_close(rows @ basis[:, 0] @ basis[:, 0].mT, rows)
    assert free_directions(basis).tolist() == [[13 - 8]] * 3


@pytest.mark.parametrize("build", [lambda: mlp(nn.Tanh(), 4), lambda: conv(nn.Conv1d(2, 2, 2))])
def test_full_inputs_are_refused_with_the_counts(build):
    shape = (40, 4) if isinstance(build()[0], nn.Linear) else (40, 2, 6)
    landscape, params = make(build, shape)
    with pytest.raises(SymmetryError, match=r"0 has 5 inputs and saw (40|200) rows.*smaller batch, or.*rows=\.\.\.;"):
        NullSpaceTeleport().search(landscape, params)
    point = point_of(landscape, params)
    assert not equal(move(NullSpaceTeleport(rows=2), point).params, params)


def test_networks_without_layers_are_refused():
    landscape = Landscape(Quadratic(torch.eye(2), [1.0, 2.0]), value_loss, torch.zeros(1, 1, 0), torch.zeros(1, 1))
    with pytest.raises(SymmetryError, match=r"found no nn\.Linear.*use LevelSetTeleport"):
        NullSpaceTeleport().search(landscape, {"w": torch.ones(1, 2)})


@pytest.mark.parametrize("teleport", BOTH)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_moves_as_each_task_alone(teleport, name):
    landscape, params = make(*NETWORKS[name], tasks=3)
    found, report = teleport().search(landscape, params)
    for i in range(3):
        alone, alone_report = teleport().search(*one(landscape, params, i))
        torch.testing.assert_close(alone, {k: p[i : i + 1] for k, p in found.items()}, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone_report.objective_after, report.objective_after[i : i + 1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("teleport", BOTH)
def test_what_leaves_the_tolerance_is_undone_bit_by_bit(teleport):
    landscape, params = make(*NETWORKS["tanh"])
    found, report = teleport(lr=1e4, tolerance=1e-300, steps=2).search(landscape, params)
    assert equal(found, params)
    assert torch.equal(report.loss_after, report.loss_before)
    assert torch.equal(report.objective_after, report.objective_before)


def test_an_undone_task_is_reported():
    landscape, params = make(*NETWORKS["tanh"])
    teleport = LevelSetTeleport(tolerance=1e-300)
    found, report = teleport.search(landscape, params)  # rounding alone leaves such a tolerance
    exact = landscape.loss(found) == landscape.loss(params)
    assert torch.equal(report.undone | exact, torch.ones(2, dtype=torch.bool))
    assert all(torch.equal(found[k][report.undone], params[k][report.undone]) for k in params)


@pytest.mark.parametrize("teleport", BOTH)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_tasks_that_have_diverged_stay_and_harm_no_other(teleport, bad):
    landscape, params = make(*NETWORKS["relu"])
    broken = map_params(torch.clone, params)
    broken["0.weight"][1, 0, 0] = bad
    found, report = teleport().search(landscape, broken)
    assert report.undone.tolist() == [False, True]
    torch.testing.assert_close(found["0.weight"][1], broken["0.weight"][1], equal_nan=True, rtol=0, atol=0)
    whole, _ = teleport().search(landscape, params)
    assert all(torch.equal(found[k][0], whole[k][0]) for k in params)
    alone, report = teleport().search(*one(landscape, broken, 1))
    assert report.undone.all()
    torch.testing.assert_close(alone, {k: p[1:] for k, p in broken.items()}, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("teleport", BOTH)
def test_tasks_that_are_not_alive_stay(teleport):
    point = point_of(*make(*NETWORKS["relu"]))
    there = move(teleport(), point, torch.tensor([True, False]))
    whole = move(teleport(), point)
    for k in point.params:
        assert torch.equal(there.params[k][1], point.params[k][1])
        assert torch.equal(there.gradient[k][1], point.gradient[k][1])
        assert torch.equal(there.params[k][0], whole.params[k][0])
    assert not torch.equal(there.params["0.weight"][0], point.params["0.weight"][0])


@pytest.mark.parametrize("teleport", BOTH)
def test_a_move_gives_the_gradient_where_it_ends_and_passes_gradients_to_its_start(teleport):
    landscape, params = make(*NETWORKS["tanh"])
    start = map_params(lambda p: p.clone().requires_grad_(), params)
    point = Point(start, landscape.gradient(start, create_graph=True), landscape.inputs, 0, landscape, landscape)
    there = move(teleport(), point)
    torch.testing.assert_close(there.gradient, landscape.gradient(map_params(torch.detach, there.params)))
    landscape.loss(there.params).sum().backward(retain_graph=True)
    torch.testing.assert_close(map_params(lambda p: p.grad, start), map_params(torch.detach, there.gradient))
    torch.autograd.grad(there.gradient["0.weight"].sum(), start["2.weight"])  # to any order


@pytest.mark.parametrize("teleport", BOTH)
def test_rows_are_drawn_by_each_task(teleport):
    landscape, params = make(lambda: mlp(nn.Tanh()), (30, 10))
    point = point_of(landscape, params)
    some, again = move(teleport(rows=5), point), move(teleport(rows=5), point)
    assert equal(some.params, again.params)
    torch.testing.assert_close(some.gradient, landscape.gradient(some.params))
    if teleport is LevelSetTeleport:
        assert not equal(some.params, move(teleport(), point).params)


@pytest.mark.parametrize("teleport", BOTH)
def test_a_move_leaves_a_report(teleport):
    landscape, params = make(lambda: mlp(nn.Tanh()), (30, 10))
    point, part = point_of(landscape, map_params(lambda p: p.requires_grad_(), params)), teleport(rows=5)
    assert part.last_report is None
    there = move(part, point, torch.tensor([True, False]))
    report = part.last_report
    assert report.undone.tolist() == [False, True]
    torch.testing.assert_close(report.step_loss_before, landscape.loss(params).detach())
    torch.testing.assert_close(report.step_loss_after, landscape.loss(there.params).detach())
    torch.testing.assert_close(report.loss_after, report.loss_before, rtol=1e-3, atol=0)
    change = report.step_loss_after / report.step_loss_before - 1
    assert abs(change[0]) > 0.01, "off the rows looked at the loss is not kept"
    assert change[1] == 0
    assert report.objective_after[0] > report.objective_before[0]
    assert report.objective_after[1] == report.objective_before[1]
    assert not any(t.requires_grad for t in vars(report).values())


@pytest.mark.parametrize("teleport", BOTH)
def test_on_the_whole_batch_the_report_is_that_of_the_search(teleport):
    landscape, params = make(*NETWORKS["relu"])
    part = teleport()
    move(part, point_of(landscape, params))
    found = teleport().search(landscape, params)[1]
    steps = {"step_loss_before": found.loss_before, "step_loss_after": found.loss_after}
    torch.testing.assert_close(vars(part.last_report), vars(replace(found, **steps)))


@pytest.mark.parametrize("teleport", BOTH)
def test_the_report_is_a_record_only(teleport):
    point, part = point_of(*make(*NETWORKS["relu"])), teleport()
    inner = InnerOptimizer(GradientDescent(0.01), part)
    before = json.dumps(describe(inner))
    first = move(part, point)
    assert json.dumps(describe(inner)) == before
    assert part.state_dict() == {}
    twin = copy.deepcopy(part)
    assert equal(move(twin, point).params, first.params)


@pytest.mark.parametrize("teleport", BOTH)
def test_single_precision(teleport):
    landscape, params = make(*NETWORKS["relu"], dtype=torch.float32)
    found, report = teleport().search(landscape, params)
    assert not report.undone.any()
    assert all(p.dtype == torch.float32 for p in found.values())
    assert (report.objective_after > 1.5 * report.objective_before).all()
    torch.testing.assert_close(report.loss_after, report.loss_before, rtol=1e-3, atol=0)


@pytest.mark.parametrize("teleport", BOTH)
def test_batch_norm_runs_for_a_single_task_and_keeps_its_statistics(teleport):
    network = lambda: nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    landscape, params = make(network, (7, 10), tasks=1)
    buffers = {k: b.clone() for k, b in landscape.network.named_buffers()}
    _, report = teleport().search(landscape, params)
    assert (report.objective_after > report.objective_before).all()
    assert equal(dict(landscape.network.named_buffers()), buffers)


@pytest.mark.parametrize("teleport", BOTH)
@pytest.mark.parametrize("objective", ["gradient_norm", "sharpness"])
def test_a_random_forward_pass_is_refused(teleport, objective):
    network = lambda: nn.Sequential(nn.Linear(10, 8), nn.Dropout(), nn.Linear(8, 3))  # noqa: E731
    landscape, params = make(network, (7, 10), tasks=1)
    with pytest.raises(ConfigError, match=r"deterministic.*network\.eval"):
        teleport(objective).search(landscape, params)
    landscape.network.eval()
    assert not teleport(objective).search(landscape, params)[1].undone.any()


def test_an_objective_without_a_gradient_is_refused():
    landscape, params = make(*NETWORKS["tanh"])
    with pytest.raises(ConfigError, match="nothing to climb"):
        LevelSetTeleport(lambda place: gradient_norm(place).detach()).search(landscape, params)


@pytest.mark.parametrize("teleport", BOTH)
def test_both_run_in_an_unroll(teleport, make_batch):
    batch = make_batch()
    ends = []
    for inner in (GradientDescent(0.01), teleport(last=2, every=2)), (GradientDescent(0.01), None):
        unroll = Unroll(InnerOptimizer(*inner, moments="reset"), batch, 4)
        window = unroll.window(unroll.start(), 4)
        assert inner[1] is None or not inner[1].last_report.undone.any()
        assert window.meta_losses.isfinite().all()
        ends.append(window)
    torch.testing.assert_close(ends[0].inner_losses[0], ends[1].inner_losses[0])
    assert (ends[0].meta_losses[0] < ends[1].meta_losses[0]).all()  # a steeper place, a larger step
    with pytest.raises(ConfigError, match="uses no group"):
        InnerOptimizer(GradientDescent(0.01), teleport(), moments="transform")


@pytest.mark.parametrize("teleport", BOTH)
def test_both_obey_the_laws(teleport):
    check_teleport(teleport(steps=4, last=2, every=2))


@pytest.mark.parametrize("teleport", BOTH)
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"objective": "height"}, "objective must be one of"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"lr": 0}, "lr must be above 0"),
        ({"direction": "up"}, "direction must be one of"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"rows": 0}, "rows must be a whole number"),
        ({"last": 1, "first": 2}, "must not come after"),
    ],
)
def test_bad_settings_are_refused(teleport, setting, text):
    with pytest.raises(ConfigError, match=text):
        teleport(**setting)


def test_rtol_is_a_fraction():
    with pytest.raises(ConfigError, match="rtol must be in"):
        NullSpaceTeleport(rtol=1.5)
