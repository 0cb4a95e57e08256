"""Teleporting a torch model in place: what moves and what is reported."""

import copy

import pytest
import torch
from torch import Tensor, nn

import metatele
from metatele import (
    Balance,
    ConfigError,
    DenseTeleport,
    LevelSetTeleport,
    NeuronTeleport,
    NullSpaceTeleport,
    OrbitTeleport,
    RandomTeleport,
    Sharpness,
    Stay,
    Svd,
    SymmetryError,
    White,
    Wout,
)
from metatele.landscape import gradient_norm
from metatele.symmetry import HiddenLayer, PositiveScaling
from metatele.task.params import flatten
from tests.torch_model.conftest import DOUBLE, LR, build, data, everything, mlp, mse, step, tensors, untouched, vector


@pytest.mark.parametrize("direction", ["ascend", "descend"])
@pytest.mark.parametrize(
    "objective",
    ["gradient_norm", "sharpness", "curvature", gradient_norm, Sharpness((0.1,), 3)],
    ids=["gradient_norm", "sharpness", "curvature", "a function", "an object"],
)
def test_every_objective_climbs_and_descends(objective, direction):
    model = mlp()
    report = metatele.teleport(model, data(), mse, objective, direction=direction, steps=3, lr=0.05)
    change = report.objective_after - report.objective_before
    assert (change if direction == "ascend" else -change) > 1e-6
    assert report.loss_after == pytest.approx(report.loss_before, rel=1e-10)


@pytest.mark.parametrize(
    "by", [Balance(), Balance(symmetry="general_linear"), Svd(), White(), Wout(symmetry="scaling")]
)
def test_rules_move_a_model_as_they_move_a_stack(by):
    batch, model = data(), mlp(activation=nn.Identity())
    here = {k: p.detach().clone().unsqueeze(0) for k, p in model.named_parameters()}
    group = by.group(model)
    element, _ = by.element(metatele.Point(here, here, batch[0].unsqueeze(0), 0), group, metatele.State())
    report = metatele.teleport(model, batch, mse, by=by)
    torch.testing.assert_close(
        vector(model), flatten(group.act(element, here, batch[0].unsqueeze(0)))[0].detach(), rtol=1e-10, atol=1e-12
    )
    assert report.distance > 0.01
    assert report.objective_after == report.gradient_norm_after != report.gradient_norm_before


def test_a_teleports_own_move_and_its_observer_are_heard():
    class Back(RandomTeleport):
        """Moves to where it was told to, and back."""

        def move(self, point, *arguments, **options):
            _, state, moments = super().move(point, *arguments, **options)
            return point, state, moments

    model, seen = mlp(), []
    by = Back()
    by.observer = lambda *what: seen.append(what)
    before = vector(model)
    assert metatele.teleport(model, data(), mse, by=by).distance == 0
    assert torch.equal(vector(model), before)
    assert [step for step, *_ in seen] == [0]
    assert by.observer is not None


def test_a_random_teleport_depends_on_the_seed_only():
    ends = []
    for seed in (3, 3, 4):
        torch.rand(5)
        model = mlp()
        metatele.teleport(model, data(), mse, by=RandomTeleport(), seed=seed)
        ends.append(vector(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("by", [NeuronTeleport(4), DenseTeleport(4)], ids=["neuron", "dense"])
def test_learned_teleports_take_the_type_of_the_model(by):
    model = mlp()
    torch.manual_seed(2)
    report = metatele.teleport(model, data(), mse, by=by)
    assert report.distance > 1e-4
    assert report.loss_after == pytest.approx(report.loss_before, rel=1e-10)
    assert all(p.dtype == torch.float32 for p in by.parameters())
    assert not any(p.requires_grad and p.grad_fn for p in model.parameters())


def test_staying_changes_nothing_but_the_gradients():
    model = mlp()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    before = vector(model), tensors([optimizer.state[p] for p in model.parameters()])
    report = metatele.teleport(model, data(), mse, by=Stay(), optimizer=optimizer)
    assert report.distance == 0
    assert torch.equal(vector(model), before[0])
    after = tensors([optimizer.state[p] for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after, strict=True))


@pytest.mark.parametrize(("kind", "rows"), [("data_dependent", 4), ("pseudo_inverse", 3)])
def test_groups_that_depend_on_the_data_report_their_residual(kind, rows):
    model = mlp()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    report = metatele.teleport(model, data(rows), mse, symmetry=kind, optimizer=optimizer, steps=3)
    assert list(report.residual) == ["the hidden layer after '0'"]
    assert 0 <= report.residual["the hidden layer after '0'"] < 1e-9
    assert report.objective_after > report.objective_before
    assert report.loss_after == pytest.approx(report.loss_before, rel=1e-8)


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("by", [LevelSetTeleport(steps=4), NullSpaceTeleport(steps=4)], ids=["level set", "null space"])
@pytest.mark.parametrize("name", ["momentum", "adam", "adagrad"])
def test_teleports_without_a_group_move_any_network(by, name):
    model = conv_net()
    stream = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 1, 6, 6, generator=stream, dtype=DOUBLE), torch.randn(3, 3, generator=stream, dtype=DOUBLE)
    optimizer = build(name, model)
    step(model, optimizer, 2, batch)
    model[0].bias.requires_grad_(False)
    frozen = model[0].bias.detach().clone()
    report = metatele.teleport(model, batch, mse, by=by, optimizer=optimizer)
    assert report.objective_after > 1.01 * report.objective_before
    assert report.loss_after == pytest.approx(report.loss_before, rel=1e-3)
    assert report.distance > 1e-3
    assert torch.equal(model[0].bias, frozen)
    twin = copy.deepcopy(model)
    fresh = build(name, twin)
    for m, o in ((model, optimizer), (twin, fresh)):  # by default the state starts anew
        step(m, o, 2, batch)
    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-12, atol=1e-14)
    with pytest.raises(ConfigError, match=f"{type(by).__name__} uses no group to transform"):
        metatele.teleport(model, batch, mse, by=by, optimizer=optimizer, moments="transform")


def test_a_teleport_that_finds_nothing_better_resets_nothing():
    model, batch = mlp(), data()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    before = vector(model), tensors([optimizer.state[p] for p in model.parameters()])
    report = metatele.teleport(model, batch, mse, cap=1e-9, optimizer=optimizer, moments="reset")
    assert report.distance == 0
    assert torch.equal(vector(model), before[0])
    after = tensors([optimizer.state[p] for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after, strict=True))


# Models of every kind


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_models_keep_their_type(dtype, tolerance):
    model, batch = mlp().to(dtype), tuple(t.to(dtype) for t in data())
    optimizer = build("adamw", model)
    step(model, optimizer, 2, batch)
    report = metatele.teleport(model, batch, mse, optimizer=optimizer, steps=3, tolerance=tolerance)
    assert report.objective_after > report.objective_before
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(s["exp_avg"].dtype == dtype for s in optimizer.state.values())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_the_buffers_of_a_model_stay(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.BatchNorm1d(3)).double().train(training)
    model(torch.randn(20, 4, dtype=DOUBLE))
    before = {k: b.clone() for k, b in model.named_buffers()}
    report = metatele.teleport(model, data(), mse, steps=3)
    assert report.distance > 0
    assert [m.training for m in model.modules()] == [training] * 5
    assert all(torch.equal(b, before[k]) for k, b in model.named_buffers())


class Tied(nn.Module):
    """Two names for one weight, one parameter that does nothing, and scalings of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.third.weight = self.first.weight
        self.idle = nn.Parameter(torch.ones(2, 2))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return x @ self.third.weight.mT

    def symmetries(self) -> list[PositiveScaling]:
        return [PositiveScaling(HiddenLayer("between", 4, "first.weight", "first.bias", "second.weight"))]


def test_tied_weights_and_idle_parameters_without_a_group():
    model = Tied()
    assert model.third.weight is model.first.weight
    optimizer = build("momentum", model)
    batch = data(outputs=4)
    step(model, optimizer, 2, batch)
    idle = model.idle.detach().clone()
    report = metatele.teleport(model, batch, mse, by=LevelSetTeleport(steps=4), optimizer=optimizer)
    assert report.objective_after > report.objective_before
    assert model.third.weight is model.first.weight
    assert torch.equal(model.idle, idle)


def test_a_declared_symmetry_that_tied_weights_break_is_caught():
    """first.weight is used twice, so scaling its rows changes the loss."""
    model = Tied()
    optimizer = build("momentum", model)
    step(model, optimizer, 2, batch := data(outputs=4))
    before = everything(model, optimizer)
    with pytest.raises(SymmetryError, match="moved the loss from"):
        metatele.teleport(model, batch, mse, by=RandomTeleport(0.5), optimizer=optimizer)
    assert untouched(before, everything(model, optimizer))


class Tempered(nn.Module):
    """A network with a learned temperature, a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.temperature = mlp(), nn.Parameter(torch.tensor(1.3, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.temperature * self.body(x)

    def symmetries(self) -> list[PositiveScaling]:
        return [PositiveScaling(HiddenLayer("h", 5, "body.0.weight", "body.0.bias", "body.2.weight"))]


@pytest.mark.parametrize("by", [None, Balance(), LevelSetTeleport(steps=3)], ids=["optimised", "balance", "level set"])
def test_parameters_without_dimensions(by):
    model = Tempered()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    report = metatele.teleport(model, data(), mse, by=by, optimizer=optimizer)
    assert report.distance > 0
    assert model.temperature.shape == ()


def test_frozen_parameters_that_no_group_moves_may_stay_frozen():
    model = mlp()
    model[2].bias.requires_grad_(False)
    frozen = model[2].bias.detach().clone()
    report = metatele.teleport(model, data(), mse, steps=3)
    assert report.objective_after > report.objective_before
    assert torch.equal(model[2].bias, frozen)
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]


def test_it_works_without_grad_mode_and_leaves_no_graph():
    ends = []
    for grad in (True, False):
        model = mlp()
        with torch.set_grad_enabled(grad):
            metatele.teleport(model, data(), mse, steps=3)
        assert all(p.is_leaf and p.requires_grad for p in model.parameters())
        ends.append(vector(model))
    assert torch.equal(*ends)


def test_integer_inputs_and_targets_are_taken():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    batch = torch.randint(6, (7, 2)), torch.randint(3, (7,))
    report = metatele.teleport(model, batch, nn.functional.cross_entropy, steps=3)
    assert report.objective_after > report.objective_before


def test_the_tolerance_given_rules():
    rough = RandomTeleport(0.3, "pseudo_inverse")
    model = mlp(activation=nn.Tanh())
    with pytest.raises(SymmetryError, match=r"tolerance 1e-09, on 8 data rows; it is exact on at most 5"):
        metatele.teleport(model, data(), mse, by=rough, tolerance=1e-9)
    assert metatele.teleport(model, data(), mse, by=rough, tolerance=10.0).residual

    class Rough(OrbitTeleport):
        """A scaling that says it may move the loss by a half."""

        tolerance = 0.5

        def element(self, point, group, state):
            return [1.1 * torch.ones_like(g) for g in group.identity(point.inputs)], state

    class Careless(PositiveScaling):
        """Forgets the way out."""

        def act(self, g, params, inputs):
            return {**super().act(g, params, inputs), "2.weight": params["2.weight"]}

    model = mlp()
    layer = HiddenLayer("a layer", 5, "0.weight", "0.bias", "2.weight")
    model.symmetries = lambda: [Careless(layer)]
    with pytest.raises(SymmetryError, match="more than the relative tolerance 1e-06"):
        metatele.teleport(model, data(), mse, by=Rough(), tolerance=1e-6)
    metatele.teleport(model, data(), mse, by=Rough())


def test_a_loss_of_nearly_zero_is_not_held_to_its_rounding():
    model = mlp().float()
    x = data()[0].float()
    y = model(x).detach() + 1e-7 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        assert metatele.teleport(model, (x, y), mse, steps=20).distance > 0


def test_gradients_stay_when_nothing_moves():
    model = mlp()
    mse(model(data()[0]), data()[1]).backward()
    report = metatele.teleport(model, data(), mse, cap=1e-6)
    assert report.distance == 0
    assert all(p.grad is not None for p in model.parameters())


def test_measuring_a_model():
    model = mlp()
    kept = vector(model).clone()
    sharp = Sharpness((0.1,), 50)
    loss = float(mse(model(data()[0]), data()[1]).detach())
    assert metatele.measure(model, data(), mse, lambda place: place.loss.sum()) == pytest.approx(loss, rel=1e-12)
    assert metatele.measure(model, data(), mse, sharp) == pytest.approx(loss, rel=0.1)
    report = metatele.teleport(copy.deepcopy(model), data(), mse, "curvature", steps=3)
    assert metatele.measure(model, data(), mse, "curvature") == pytest.approx(report.objective_before, rel=1e-12)
    with torch.no_grad():
        norm = metatele.measure(model, data(), mse, "gradient_norm")
    assert norm == pytest.approx(report.gradient_norm_before, rel=1e-12)
    assert torch.equal(vector(model), kept)
    with pytest.raises(SymmetryError, match="no symmetry"):
        metatele.measure(mlp(activation=nn.Tanh()), data(), mse, "curvature")
    assert metatele.measure(mlp(activation=nn.Tanh()), data(), mse) > 0


def test_a_report_reads_well():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    assert str(metatele.teleport(model, data(), mse, cap=1e-6)).startswith("not moved (no step improved")
    text = str(metatele.teleport(model, data(), mse, "sharpness", optimizer=optimizer))
    assert "gradient norm" in text
    assert "objective" in text
    assert text.endswith("optimizer state: transform")
    assert metatele.teleport(model, data(), mse, by=LevelSetTeleport(), optimizer=optimizer).moments == "reset"


def test_several_optimizers_follow():
    model = mlp(activation=nn.Identity())
    x, y = data()
    first, second = (torch.optim.Adam(params, 1e-3) for params in (model[0].parameters(), model[2].parameters()))
    for _ in range(3):
        model.zero_grad()
        mse(model(x), y).backward()
        first.step()
        second.step()
    alone = torch.optim.Adam(model.parameters(), 1e-3)
    for optimizer in (first, second):
        alone.state.update({p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()})
    twin = copy.deepcopy(model)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        alone.state[q] = alone.state.pop(p)
    alone.param_groups[0]["params"] = list(twin.parameters())
    metatele.teleport(model, (x, y), mse, by=Balance(), optimizer=[first, second])
    metatele.teleport(twin, (x, y), mse, by=Balance(), optimizer=alone)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        mine = first.state[p] or second.state[p]
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(mine[key], alone.state[q][key])
    with pytest.raises(ConfigError, match="holds none"):
        metatele.teleport(model, (x, y), mse, by=Balance(), optimizer=[first, torch.optim.SGD([torch.ones(1)], 0.1)])


def test_second_copies_of_the_weights_stay_on_their_level_set():
    model, (x, y) = mlp(activation=nn.ReLU()), data()
    optimizer = torch.optim.ASGD(model.parameters(), 0.05, t0=0)
    for _ in range(20):
        optimizer.zero_grad()
        mse(model(x), y).backward()
        optimizer.step()

    def average():
        names = [name for name, _ in model.named_parameters()]
        values = [optimizer.state[p]["ax"] for p in model.parameters()]
        return float(mse(torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,)), y))

    before = average()
    report = metatele.teleport(model, (x, y), mse, by=Balance(), optimizer=optimizer)
    assert average() == pytest.approx(before, rel=1e-9)
    assert report.left == ()


def test_what_is_not_carried_is_named():
    model, (x, y) = mlp(), data()
    optimizer = torch.optim.Adamax(model.parameters(), 0.01)
    mse(model(x), y).backward()
    optimizer.step()
    report = metatele.teleport(model, (x, y), mse, by=Balance(symmetry="scaling"), optimizer=optimizer)
    assert report.left == ("exp_inf",)
    assert "transform, but for exp_inf" in str(report)
