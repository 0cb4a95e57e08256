"""The laws of a symmetry."""

import torch
from torch import Tensor

from metatele.params import Params, flatten, map_params
from metatele.seeding import generator
from metatele.symmetry import Symmetry
from metatele.testing.laws import Loss, gradient_of, one_task, require, same, untouched


def check_symmetry(
    symmetry: Symmetry,
    params: Params,
    inputs: Tensor,
    loss: Loss,
    scale: float = 0.3,
    rtol: float = 1e-10,
    seed: int = 0,
) -> None:
    """Check that a symmetry is a group, acts on the parameters, and leaves the loss unchanged.

    Args:
        symmetry: the group.
        params: parameters of B networks, {name: [B, ...]} in float64, B at least 2.
        inputs: the networks' inputs, [B, n, ...], for groups that depend on the data.
        loss: the loss of each task as a function of the parameters, [B]; for a group that depends
            on the data, the loss on `inputs`.
        scale: standard deviation of the Lie algebra elements to try.
        rtol: relative change of the loss that counts as none.
    Raises: AssertionError that names the broken law.
    """
    name, stream, tasks = type(symmetry).__name__, generator("check_symmetry", seed), len(inputs)
    params = {k: p.detach() for k, p in params.items()}
    shape = (tasks, *symmetry.algebra_shape)
    s, t = (scale * torch.randn(shape, generator=stream, dtype=torch.float64) for _ in range(2))
    with untouched(f"{name} changes its arguments", s, t, params, inputs):
        g, h, unit = symmetry.exp(s), symmetry.exp(t), symmetry.identity(inputs)
        with untouched(f"{name}.act changes the group element", g):
            moved = symmetry.act(g, params, inputs)
        same(symmetry.exp(torch.zeros_like(s)), unit, 1e-12, f"{name}: exp(0) is the identity")
        same(symmetry.compose(g, g), symmetry.exp(2 * s), 1e-10, f"{name}: exp(T) exp(T) = exp(2 T)")
        same(symmetry.compose(g, symmetry.inverse(g)), unit, 1e-10, f"{name}: g g^-1 = identity")
        require(list(moved) == list(params), f"{name}.act returns all parameters, in their order")
        same(symmetry.act(unit, params, inputs), params, 1e-8, f"{name}: the identity moves nothing")
        back = symmetry.act(symmetry.inverse(g), moved, inputs)
        same(back, params, 1e-8, f"{name}: g^-1 (g theta) = theta")
        twice = symmetry.act(symmetry.compose(h, g), params, inputs)
        same(twice, symmetry.act(h, moved, inputs), 1e-8, f"{name}: (h g) theta = h (g theta)")
        same(loss(moved), loss(params), rtol, f"{name}: the loss is unchanged")

        gradient, there = gradient_of(loss, params), gradient_of(loss, moved)
        change = (flatten(there) - flatten(gradient)).norm() / flatten(gradient).norm()
        require(bool(change > 1e-6), f"{name}: the gradient changes (else the group is useless), by {float(change)}")
        carried = symmetry.dual(g, params, moved, gradient, inputs)
        same(carried, there, 1e-6, f"{name}: dual carries the gradient at theta to that at g theta")
        square = map_params(torch.square, gradient)
        kept = symmetry.dual_square(unit, params, params, square, inputs)
        same(kept, square, 1e-8, f"{name}: dual_square of the identity changes nothing")
        negative = any(bool((v < 0).any()) for v in symmetry.dual_square(g, params, moved, square, inputs).values())
        require(not negative, f"{name}: dual_square keeps squares at or above 0")

        for i in range(tasks):
            one = symmetry.act(symmetry.exp(s[i : i + 1]), one_task(params, i), inputs[i : i + 1])
            same(one, one_task(moved, i), 1e-10, f"{name}: acting on a stack = acting on each task")

    def moved_by(algebra: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        moved = symmetry.act(symmetry.exp(algebra), dict(zip(params, values, strict=True)), inputs)
        return tuple(moved.values())

    leaves = [x.clone().requires_grad_() for x in (s, *params.values())]
    try:
        torch.autograd.gradcheck(moved_by, leaves, fast_mode=True, atol=1e-6, rtol=1e-4)
    except RuntimeError as error:
        raise AssertionError(f"{name}: g theta is differentiable in T and theta: {error}") from error
