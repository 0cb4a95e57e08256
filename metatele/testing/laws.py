"""What all conformance checks share: how a law is stated, and how tensors are compared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metatele.parts.point import State
from metatele.task.params import Params

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def gradient_of(loss: Loss, params: Mapping[str, Tensor]) -> Params:
    """Gradient of each task's loss [B] with respect to its parameters {name: [B, ...]}, detached."""
    leaves = {k: p.detach().requires_grad_() for k, p in params.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves).sum(), list(leaves.values())), strict=True))


def assert_law(condition: bool, law: str) -> None:
    """State a law, and whether it holds."""
    if not condition:
        raise AssertionError(f"broken law: {law}")


def same(found: Any, expected: Any, tolerance: float, law: str) -> None:
    """Equality up to `tolerance` times the largest entry of each tensor."""
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        a, b = a.detach(), b.detach()
        if a.shape != b.shape:
            raise AssertionError(f"broken law: {law}: shape {tuple(a.shape)} instead of {tuple(b.shape)}")
        if tolerance == 0 or b.numel() == 0:
            assert_law(torch.equal(a, b), law)
        else:
            off, size = float((a - b).abs().max()), float(b.abs().max())
            assert_law(off <= tolerance * max(size, 1e-3), f"{law}: off by {off:.3g} at size {size:.3g}")


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, State):
        return tensors([value.covectors, value.squares, value.memory])
    return [t for v in (value.values() if isinstance(value, Mapping) else value) for t in tensors(v)]


@contextmanager
def untouched(law: str, *values: Any) -> Iterator[None]:
    """State that the tensors in `values` keep their values."""
    before = [t.detach().clone() for t in tensors(values)]
    yield
    after = tensors(values)
    assert_law(len(before) == len(after) and all(map(torch.equal, before, after)), law)


def same_shapes(before: State, after: State, name: str) -> None:
    """State that a part's state keeps its shapes from step to step."""
    shapes = [[t.shape for t in tensors(state)] for state in (before, after)]
    assert_law(
        shapes[0] == shapes[1], f"{name}: the next state has the shapes of the last, {shapes[0]}; got {shapes[1]}"
    )


def one_task(params: Params, i: int) -> Params:
    """The parameters of task i, as a stack of one."""
    return {k: p[i : i + 1] for k, p in params.items()}
