"""Models, batches and optimizers that the tests of `metatele.teleport` share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
