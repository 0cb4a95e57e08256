"""Steps that an update takes along given gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatele import Update
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
