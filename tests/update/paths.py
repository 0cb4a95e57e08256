"""Steps that an update takes along given gradients, and laws of them that several updates keep."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from metatele.tasks import TeacherStudent
from torch import Tensor

from metatele import InnerOptimizer, MetaSettings, UnrollSettings, Update, ValidationSettings, meta_train
from metatele.parts.point import Point
from metatele.task.params import Params, flatten, map_params

SHAPES = ((5, 3), (5,), (2, 5), (2,))
ODD = {
    "a scalar": [()],
    "one tensor": [(3, 4)],
    "a vector": [(7,)],
    "no entries": [(4, 3), (0, 4), (4, 0), (0,), ()],
    "a convolution": [(4, 3, 2, 2), (4,), (1, 4)],
}


def random_params(shapes: Sequence[tuple[int, ...]], seed: int, tasks: int = 2) -> Params:
    stream = torch.Generator().manual_seed(seed)
    return {str(i): torch.randn(tasks, *s, generator=stream, dtype=torch.float64) for i, s in enumerate(shapes)}


def path(
    update: Update,
    start: Params,
    change: Callable[[Params], Params] = lambda g: g,
    horizon: int | None = None,
    steps: int = 4,
) -> list[Params]:
    """The steps from a start along given gradients, each of which is changed before the update sees it."""
    params, state, out = start, update.start(start), list[Params]()
    for k in range(steps):
        gradient = change(random_params([tuple(p.shape[1:]) for p in start.values()], 10 + k))
        step, state = update.propose(Point(params, gradient, torch.empty(0), k, horizon=horizon), state)
        params = map_params(lambda p, f: (p + f).detach(), params, step)
        out.append(map_params(torch.detach, step))
    return out


def scaled(params: Params, factors: Sequence[float]) -> Params:
    return {name: f * p for f, (name, p) in zip(factors, params.items(), strict=True)}


def assert_steps(found: list[Params], expected: list[Params]) -> None:
    for a, e in zip(found, expected, strict=True):
        for name in e:
            size = float(e[name].abs().max()) if e[name].numel() else 0.0
            torch.testing.assert_close(a[name], e[name], rtol=0, atol=1e-6 * size)


def assert_finite(update: Update, shapes: Sequence[tuple[int, ...]], zero: str, size: float = 1.0) -> None:
    """In single precision: finite steps, with finite derivatives, also where everything is zero.

    zero: "nothing", "gradients", "parameters", or "both".
    """
    update, start = update.float(), map_params(Tensor.float, random_params(shapes, 0))
    if zero in ("parameters", "both"):
        start = map_params(torch.zeros_like, start)
    leaves = map_params(lambda p: p.clone().requires_grad_(), start)
    slopes = [map_params(lambda g: (size * g).float().requires_grad_(), random_params(shapes, k)) for k in range(3)]
    if zero in ("gradients", "both"):
        slopes = [map_params(lambda g: torch.zeros_like(g, requires_grad=True), g) for g in slopes]
    params, state = leaves, update.start(leaves)
    for k, gradient in enumerate(slopes):
        step, state = update.propose(Point(params, gradient, torch.empty(0), k, horizon=2), state)
        assert {n: (f.shape, f.dtype) for n, f in step.items()} == {n: (p.shape, p.dtype) for n, p in start.items()}
        params = map_params(torch.add, params, step)
    assert bool(flatten(params).isfinite().all())
    inputs = [*leaves.values(), *(g for gradient in slopes for g in gradient.values()), *update.parameters()]
    found = torch.autograd.grad(flatten(params).square().sum(), inputs, allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in found if g is not None)


def assert_meta_training_helps(update: Update, estimator: Any) -> None:
    inner, family = InnerOptimizer(update), TeacherStudent(4, 6, 2, rows=16)
    unroll = UnrollSettings(20, 10, second_order=False)
    meta = MetaSettings(25, 8, lr=0.01, estimator=estimator)
    history = meta_train(inner, family, unroll, meta, ValidationSettings(8, every=5)).history
    found = [i.validation for i in history if i.validation is not None]
    assert found[-1] < found[0] - 0.4  # logarithms of losses


def assert_horizon_is_seen(sees: Update, does_not: Update, least: float) -> None:
    """Steps differ by at least so much with other horizons, and are in order beyond them; or do not differ at all."""
    start = random_params(SHAPES, 0)
    assert_steps(path(does_not, start, horizon=9), path(does_not, start))
    ends = [flatten(path(sees, start, horizon=horizon)[-1]) for horizon in (None, 4, 400)]
    for i, a in enumerate(ends):
        assert all(float((a - b).abs().max()) > least for b in ends[:i])
    for horizon in (-1, 0, 1, 2):  # passed long ago
        assert all(bool(flatten(f).isfinite().all()) for f in path(sees, start, horizon=horizon, steps=6))
