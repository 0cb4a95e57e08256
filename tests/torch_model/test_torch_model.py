"""Teleporting a torch model in place: what moves, what the optimizer remembers, and what errors leave alone."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metatele
from metatele import (
    Balance,
    ConfigError,
    DenseTeleport,
    InnerOptimizer,
    LevelSetTeleport,
    MetateleError,
    NeuronTeleport,
    NullSpaceTeleport,
    OptimisedTeleport,
    OrbitTeleport,
    RandomTeleport,
    Sharpness,
    Stay,
    Svd,
    SymmetryError,
    TorchUpdate,
    Unroll,
    White,
    Wout,
)
from metatele.landscape import gradient_norm
from metatele.symmetry import HiddenLayer, PositiveScaling, group_of
from metatele.task.params import flatten

DOUBLE = torch.float64
LR = 0.02
OPTIMIZERS = {
    "sgd": ("SGD", {"lr": LR}),
    "momentum": ("SGD", {"lr": LR, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": LR, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": LR, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": LR, "momentum": 0.5, "centered": True}),
    "adam": ("Adam", {"lr": LR, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": LR, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": LR}),
    "radam": ("RAdam", {"lr": LR}),
    "adamax": ("Adamax", {"lr": LR}),
    "adadelta": ("Adadelta", {}),
    "asgd": ("ASGD", {"lr": LR}),
    "rprop": ("Rprop", {"lr": LR}),
    "adafactor": ("Adafactor", {"lr": LR}),
    "muon": ("Muon", {"lr": LR}),
}


def mlp(bias: bool = True, activation: nn.Module | None = None) -> nn.Sequential:
    """4-5-3 in float64, always the same weights."""
    torch.manual_seed(0)
    activation = nn.LeakyReLU(0.1) if activation is None else activation
    return nn.Sequential(nn.Linear(4, 5, bias), activation, nn.Linear(5, 3, bias)).double()


def data(rows: int = 8, inputs: int = 4, outputs: int = 3) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    x, y = (torch.randn(rows, width, generator=stream, dtype=DOUBLE) for width in (inputs, outputs))
    return x, y


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, batch: Any = None) -> None:
    """Ordinary training."""
    x, y = data() if batch is None else batch

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = mse(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def build(name: str, model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    cls, options = OPTIMIZERS[name]
    if not hasattr(torch.optim, cls):
        pytest.skip(f"torch {torch.__version__} has no {cls}")
    return getattr(torch.optim, cls)(model.parameters(), **{**options, **more})


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested containers, and numbers as tensors."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    if isinstance(value, (dict, list, tuple)):
        return [t for v in (value.values() if isinstance(value, dict) else value) for t in tensors(v)]
    return [torch.tensor(float(value))] if isinstance(value, (int, float)) else []


def everything(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> tuple[list[Tensor], list[Any]]:
    """Parameters, buffers, gradients and the optimizer's state, bit by bit; what they are called and set to."""
    values = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    values += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    about: list[Any] = [
        [(k, id(p), p.requires_grad, p.grad is None) for k, p in model.named_parameters()],
        [(k, id(b)) for k, b in model.named_buffers()],
        [m.training for m in model.modules()],
    ]
    if optimizer is not None:
        for p in model.parameters():
            state = optimizer.state.get(p)
            values += tensors(state)
            about.append(None if state is None else list(state))
        values += tensors([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
        about.append([[id(p) for p in g["params"]] for g in optimizer.param_groups])
    return values, about


def untouched(before: tuple[list[Tensor], list[Any]], after: tuple[list[Tensor], list[Any]]) -> bool:
    pairs = list(zip(before[0], after[0], strict=False))
    equal = len(before[0]) == len(after[0]) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    return equal and before[1] == after[1]


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def norm_of_gradient(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    grads = torch.autograd.grad(mse(model(batch[0]), batch[1]), list(model.parameters()))
    return float(torch.cat([g.flatten() for g in grads]).norm())


# What a teleport does


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_stays_and_the_objective_grows_inside_any_optimizer(name, moments):
    model, batch = mlp(bias=name != "muon"), data()
    optimizer = build(name, model)
    step(model, optimizer, 3)
    before, norm = vector(model), norm_of_gradient(model, batch)
    loss = mse(model(batch[0]), batch[1]).item()
    report = metatele.teleport(model, batch, mse, optimizer=optimizer, moments=moments, steps=5)
    assert report.loss_before == pytest.approx(loss, rel=1e-12)
    assert report.loss_after == pytest.approx(loss, rel=1e-10)
    assert mse(model(batch[0]), batch[1]).item() == pytest.approx(loss, rel=1e-10)
    assert report.gradient_norm_before == report.objective_before == pytest.approx(norm, rel=1e-10)
    assert report.gradient_norm_after == pytest.approx(norm_of_gradient(model, batch), rel=1e-9)
    assert report.objective_after == report.gradient_norm_after > 1.01 * norm
    assert report.distance == pytest.approx(float((vector(model) - before).norm()), rel=1e-10)
    assert report.residual == {}
    assert all(p.grad is None for p in model.parameters())
    step(model, optimizer, 2)
    assert bool(vector(model).isfinite().all())


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
@pytest.mark.parametrize(
    "teleport",
    [OptimisedTeleport(steps=4, first=3, last=3), RandomTeleport(0.3, first=3, last=3), Balance(first=3, last=3)],
    ids=["optimised", "random", "balance"],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_loop_with_a_teleport_is_the_inner_loop_with_it(name, teleport, moments, make_batch):
    bias = name != "muon"
    batch = make_batch(tasks=1, widths=(4, 5, 3), activations=(nn.LeakyReLU(0.1),), bias=bias, rows=8)
    model = mlp(bias)
    model.load_state_dict({k: p[0] for k, p in batch.params.items()})
    rows = tuple(t[0] for t in batch.rows("inner"))
    start, optimizer = vector(model), build(name, model)
    step(model, optimizer, 3, rows)
    seed = int(batch.seeds[0])
    metatele.teleport(model, rows, mse, by=teleport, optimizer=optimizer, moments=moments, seed=seed)
    step(model, optimizer, 3, rows)
    unroll = Unroll(InnerOptimizer(TorchUpdate(*OPTIMIZERS[name]), teleport, "before", moments), batch, 6)
    end = unroll.window(unroll.start(), 6, differentiable=False).end.params
    moved = vector(model) - start
    assert moved.norm() > 1e-4
    torch.testing.assert_close(moved, flatten(end)[0] - start, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reset_makes_the_state_of_a_new_optimizer(name):
    model, batch = mlp(bias=name != "muon"), data()
    optimizer = build(name, model, lr=0.013)
    step(model, optimizer, 3)
    metatele.teleport(model, batch, mse, optimizer=optimizer, moments="reset", steps=3)
    twin = copy.deepcopy(model)
    fresh = build(name, twin, lr=0.013)
    assert [optimizer.state.get(p, {}).keys() for p in model.parameters()] == [
        fresh.state.get(p, {}).keys() for p in twin.parameters()
    ]
    for m, o in ((model, optimizer), (twin, fresh)):
        step(m, o, 3)
    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keep_does_not_touch_the_state(name):
    model = mlp(bias=name != "muon")
    optimizer = build(name, model)
    step(model, optimizer, 3)
    before = tensors([optimizer.state[p] for p in model.parameters()])
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="keep", steps=3)
    after = tensors([optimizer.state[p] for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["scaling", "general_linear"])
def test_transform_is_the_dual_action_of_the_group(kind):
    batch = data()
    model = mlp(activation=nn.ReLU() if kind == "scaling" else nn.Identity())
    optimizer = build("adam", model)
    step(model, optimizer, 3)
    names = dict(model.named_parameters())
    here = {k: p.detach().clone().unsqueeze(0) for k, p in names.items()}

    def read(key: str) -> dict[str, Tensor]:
        return {k: optimizer.state[p][key].clone().unsqueeze(0) for k, p in names.items()}

    keys = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    old, steps = [read(key) for key in keys], [optimizer.state[p]["step"].clone() for p in names.values()]
    teleport = RandomTeleport(0.4, kind)
    metatele.teleport(model, batch, mse, by=teleport, optimizer=optimizer, seed=9)
    group = group_of(model, kind)
    point = metatele.Point(here, here, batch[0].unsqueeze(0), 0)
    element, _ = teleport.element(point, group, teleport.start(here, group, torch.tensor([9])))
    there, covectors, squares = group.carry(element, here, point.inputs, old[:1], old[1:])
    torch.testing.assert_close(vector(model), flatten(there)[0], rtol=1e-12, atol=0)
    for key, expected, before in zip(keys, [*covectors, *squares], old, strict=True):
        torch.testing.assert_close(flatten(read(key)), flatten(expected), rtol=1e-12, atol=0)
        assert not torch.allclose(flatten(before), flatten(expected))
    assert [optimizer.state[p]["step"] for p in names.values()] == steps


@pytest.mark.parametrize(
    ("kind", "rows"), [("scaling", 8), ("general_linear", 8), ("data_dependent", 4), ("pseudo_inverse", 3)]
)
def test_a_momentum_that_is_the_gradient_is_the_gradient_after_the_teleport_too(kind, rows):
    model, batch = mlp(activation=nn.Identity() if kind == "general_linear" else nn.LeakyReLU(0.1)), data(rows)
    optimizer = build("momentum", model)
    step(model, optimizer, 1, batch)
    for which in ("before", "after"):
        grads = torch.autograd.grad(mse(model(batch[0]), batch[1]), list(model.parameters()))
        for p, g in zip(model.parameters(), grads, strict=True):
            if which == "before":
                optimizer.state[p]["momentum_buffer"].copy_(g)
            else:
                torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], g, rtol=1e-7, atol=1e-9)
        if which == "before":
            metatele.teleport(model, batch, mse, optimizer=optimizer, symmetry=kind, steps=3)


def test_an_optimizer_that_has_not_stepped_or_has_other_parameters_too():
    model, other = mlp(), nn.Linear(2, 2).double()
    optimizer = torch.optim.Adam([{"params": model[0].parameters()}, {"params": other.parameters(), "lr": 1e-3}])
    for moments in ("transform", "reset", "keep"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, steps=2)
        assert all(len(s) == 0 for s in optimizer.state.values())
    other(torch.ones(1, 2, dtype=DOUBLE)).sum().backward()
    step_of_other = tensors(optimizer.state)
    optimizer.step()
    step(model, optimizer, 1)
    before = tensors([optimizer.state[p] for p in other.parameters()])
    assert step_of_other == []
    for moments in ("transform", "reset"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, by=RandomTeleport())
        after = tensors([optimizer.state[p] for p in other.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p not in optimizer.state for p in model.parameters())


def test_lbfgs_and_sparse_adam_may_stand_by():
    for make in (torch.optim.LBFGS, torch.optim.SparseAdam):
        model = mlp()
        optimizer = make(model.parameters())
        if make is torch.optim.LBFGS:
            step(model, optimizer, 2)
        for moments in (None, "reset"):
            report = metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, steps=2)
            assert report.loss_after == pytest.approx(report.loss_before, rel=1e-9)
            assert not optimizer.state, "by default it starts anew: lists of past steps cannot be carried"
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())
    step(model, optimizer, 2)
    with pytest.raises(ConfigError, match=r"LBFGS.*cannot be transformed; reset it"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments="transform", steps=2)
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="reset", steps=2)
    twin = copy.deepcopy(model)
    for m, o in ((model, optimizer), (twin, torch.optim.LBFGS(twin.parameters()))):
        step(m, o, 1)
    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-10, atol=1e-12)


class Peculiar(torch.optim.SGD):
    """An optimizer whose constructor takes other arguments than torch knows of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.01, momentum=0.9)


def test_reset_empties_the_state_of_an_optimizer_of_one_s_own():
    model = mlp()
    optimizer = Peculiar(model)
    step(model, optimizer, 2)
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="reset", steps=2)
    assert not optimizer.state
    step(model, optimizer, 1)


# Objectives and other teleports


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


# Errors leave everything as it was


class Zero(OrbitTeleport):
    """Acts with a singular element."""

    __module__ = "tests"

    def element(self, point, group, state):
        return [0 * f.identity(point.inputs) for f in group.factors], state


class Choosy(torch.optim.Adam):
    """An optimizer that cannot be made twice."""

    made = 0

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        Choosy.made += 1
        if Choosy.made > 1:
            raise ValueError("one is enough")


def raising(place: Any) -> Tensor:
    raise ZeroDivisionError("my objective")


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no symmetry": (
        {"model": lambda: mlp(activation=nn.Tanh())},
        SymmetryError,
        r"known for Sequential\(Linear, Tanh, Linear\).*supported are.*LevelSetTeleport",
    ),
    "no symmetry of the kind": (
        {"symmetry": "general_linear"},
        SymmetryError,
        "'general_linear' is known for Sequential",
    ),
    "singular element": ({"by": Zero("scaling")}, SymmetryError, "of the hidden layer after '0' is singular"),
    "overflow": ({"by": RandomTeleport(1e4)}, SymmetryError, "hidden layer after '0' is singular.*not finite"),
    "residual": (
        {"symmetry": "pseudo_inverse", "lr": 1.0},
        SymmetryError,
        r"on the hidden layer after '0' changes .* tolerance 0.001, on 8 data rows; it is exact on at most 5 rows",
    ),
    "not square": ({"symmetry": "data_dependent"}, SymmetryError, r"after '0'.*rows x inputs = \(8, 4\)"),
    "loss not finite": (
        {"batch": (data()[0] * torch.nan, data()[1])},
        SymmetryError,
        "loss is nan before the teleport",
    ),
    "objective not finite": ({"objective": lambda p: p.loss * torch.inf}, SymmetryError, "objective is inf before"),
    "objective raises": ({"objective": raising}, ZeroDivisionError, "my objective"),
    "objective of no tensor": (
        {"objective": lambda p: 1.0},
        ConfigError,
        r"objective must be a tensor .*\[1\], got 1.0",
    ),
    "objective of a shape": ({"objective": lambda p: p.loss.expand(2)}, ConfigError, r"\[1\], got shape \(2,\)"),
    "a teleport as objective": ({"objective": Balance()}, ConfigError, "Balance is a teleport .*pass it as by="),
    "constant objective": ({"objective": lambda p: p.loss.detach()}, SymmetryError, "cannot be climbed"),
    "unknown objective": ({"objective": "height"}, ConfigError, "got 'height'"),
    "a class as objective": ({"objective": Sharpness}, ConfigError, "got <class"),
    "loss of no scalar": ({"loss_fn": lambda p, y: (p - y).square()}, ConfigError, r"one number, got \(8, 3\)"),
    "loss of no tensor": ({"loss_fn": lambda p, y: 1.0}, ConfigError, "one number, got float"),
    "loss without a graph": ({"loss_fn": lambda p, y: (p - y).detach().mean()}, ConfigError, "not depend on the param"),
    "loss that raises": ({"loss_fn": lambda p, y: raising(p)}, ZeroDivisionError, ""),
    "by and objective": ({"by": Balance(), "objective": "sharpness"}, ConfigError, "objective: give these to Balance"),
    "by and steps": ({"by": Balance(), "steps": 3, "lr": 1.0}, ConfigError, "steps, lr: give these to Balance itself"),
    "by of a class": ({"by": Balance}, ConfigError, r"by must be a teleport such as Balance\(\), got <class"),
    "unknown setting": ({"step": 3}, ConfigError, "no such setting: .*'step'"),
    "bad setting": ({"steps": 0}, ConfigError, "steps must be .* got 0"),
    "bad direction": ({"direction": "up"}, ConfigError, "got 'up'"),
    "bad moments": ({"moments": "forget"}, ConfigError, "transform, keep, reset, got 'forget'"),
    "empty moments": ({"moments": ""}, ConfigError, "got ''"),
    "bad tolerance": ({"tolerance": 0.0}, ConfigError, "tolerance must be above 0 .* got 0.0"),
    "bad seed": ({"seed": 0.5}, ConfigError, "seed must be .* got 0.5"),
    "no module": ({"model": lambda: print, "optimizer": None}, ConfigError, "must be an nn.Module, got builtin_f"),
    "no optimizer": ({"optimizer": InnerOptimizer(metatele.Adam())}, ConfigError, "of torch.optim, got InnerOptimizer"),
    "no loss": ({"loss_fn": None}, ConfigError, "loss_fn must be a function .* got None"),
    "no batch": ({"batch": data()[0]}, ConfigError, r"two tensors, \(inputs, targets\), got Tensor"),
    "three in a batch": ({"batch": (*data(), data()[0])}, ConfigError, "two tensors"),
    "unequal rows": ({"batch": (data()[0], data()[1][:3])}, ConfigError, "equally many rows, .* got 8 and 3"),
    "no rows": ({"batch": (data()[0][:0], data()[1][:0])}, ConfigError, "got 0 and 0"),
    "wrong inputs": ({"batch": (data()[0][:, :2], data()[1])}, ConfigError, "does not run on .*8x2 and 4x5"),
    "wrong type": ({"batch": tuple(t.float() for t in data())}, ConfigError, "does not run on .*dtype"),
    "a schedule": ({"every": 3}, ConfigError, "every: a single call has no schedule"),
    "rows": ({"by": OptimisedTeleport(rows=3)}, ConfigError, "rows=3: here it looks at the whole batch"),
    "another's optimizer": (
        {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])},
        ConfigError,
        "holds none of the model's",
    ),
}


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", ERRORS)
def test_an_error_leaves_everything_as_it_was(case, mode):
    changes, error, message = ERRORS[case]
    changes = dict(changes)
    model = changes.pop("model", mlp)()
    arguments = {"batch": data(), "loss_fn": mse, **changes}
    optimizer, checked = None, isinstance(model, nn.Module)
    if checked:
        model.train(mode)
        optimizer = build("adam", model)
        step(model, optimizer, 2)
        before = everything(model, optimizer)
    arguments.setdefault("optimizer", optimizer)
    with pytest.raises(error, match=f"(?s){message}") as caught:
        metatele.teleport(model, arguments.pop("batch"), arguments.pop("loss_fn"), **arguments)
    if issubclass(error, MetateleError):
        assert "\n" not in str(caught.value)
    if checked:
        assert untouched(before, everything(model, optimizer))


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight"])
@pytest.mark.parametrize("by", [None, Balance(), RandomTeleport()], ids=["optimised", "balance", "random"])
def test_a_frozen_parameter_that_would_move_is_an_error(by, name):
    model = mlp()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    dict(model.named_parameters())[name].requires_grad_(False)
    before = everything(model, optimizer)
    with pytest.raises(SymmetryError, match=f"would move '{name}', which is frozen"):
        metatele.teleport(model, data(), mse, by=by, optimizer=optimizer)
    assert untouched(before, everything(model, optimizer))


@pytest.mark.parametrize(
    "by", [None, LevelSetTeleport(), NullSpaceTeleport()], ids=["orbit", "level set", "null space"]
)
def test_dropout_in_training_mode_is_an_error(by):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    before = everything(model, optimizer)
    with pytest.raises(MetateleError, match="dropout"):
        metatele.teleport(model, data(3), mse, by=by, optimizer=optimizer)
    assert untouched(before, everything(model, optimizer))
    model.eval()
    assert metatele.teleport(model, data(3), mse, by=by, optimizer=optimizer).distance > 0


def test_a_teleport_that_misses_its_own_tolerance_is_an_error():
    class Sloppy(metatele.Teleport):
        __module__ = "tests"

        def move(self, point, group, state, moments, alive=None, onto=None):
            return replace(point, params={k: 1.1 * p for k, p in point.params.items()}), state, moments

    model = mlp()
    optimizer = build("adam", model)
    step(model, optimizer, 2)
    before = everything(model, optimizer)
    with pytest.raises(SymmetryError, match=r"Sloppy moved the loss from .* relative tolerance 0.001 .*residuals none"):
        metatele.teleport(model, data(), mse, by=Sloppy(), optimizer=optimizer)
    assert untouched(before, everything(model, optimizer))
    assert metatele.teleport(model, data(), mse, by=Sloppy(), optimizer=optimizer, tolerance=10.0).distance > 0


def test_an_optimizer_that_cannot_be_made_anew_is_an_error_of_its_own():
    Choosy.made, model = 0, mlp()
    optimizer = Choosy(model.parameters(), lr=0.01)
    step(model, optimizer, 2)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="one is enough"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments="reset")
    assert untouched(before, everything(model, optimizer))


def test_rmsprops_momentum_stays_under_a_scaling():
    # It is a mean of gradients divided by their size, which a scaling of both leaves as it is.
    model = mlp()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=LR, momentum=0.5)
    step(model, optimizer, 3)
    before = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()]
    assert metatele.teleport(model, data(), mse, optimizer=optimizer).distance > 0
    for old, p in zip(before, model.parameters(), strict=True):
        assert torch.equal(old["momentum_buffer"], optimizer.state[p]["momentum_buffer"])
    changed = [
        not torch.allclose(old["square_avg"], optimizer.state[p]["square_avg"])
        for old, p in zip(before, model.parameters(), strict=True)
    ]
    assert sum(changed) >= 3


def test_lbfgs_goes_on_after_a_teleport():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())
    step(model, optimizer, 3)
    metatele.teleport(model, data(), mse, optimizer=optimizer, symmetry="scaling", steps=20)
    step(model, optimizer, 3)
    assert bool(vector(model).isfinite().all())


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
