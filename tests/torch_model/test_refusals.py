"""Errors of `metatele.teleport` leave model and optimizer as they were."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metatele
from metatele import (
    Balance,
    ConfigError,
    InnerOptimizer,
    LevelSetTeleport,
    MetateleError,
    NullSpaceTeleport,
    OptimisedTeleport,
    OrbitTeleport,
    RandomTeleport,
    Sharpness,
    SymmetryError,
)
from tests.torch_model.conftest import build, data, everything, mlp, mse, step, untouched


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
    "no optimizer": (
        {"optimizer": InnerOptimizer(metatele.Adam())},
        ConfigError,
        "of torch.optim, or a list, got InnerOptimizer",
    ),
    "no loss": ({"loss_fn": None}, ConfigError, "loss_fn must be a function .* got None"),
    "no batch": ({"batch": data()[0]}, ConfigError, r"two tensors, \(inputs, targets\), got Tensor"),
    "three in a batch": ({"batch": (*data(), data()[0])}, ConfigError, "two tensors"),
    "unequal rows": ({"batch": (data()[0], data()[1][:3])}, ConfigError, "the same number of rows, .* got 8 and 3"),
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
