"""The laws of a symmetry, continuous or discrete."""

from collections.abc import Callable

import torch
from torch import Tensor

from metatele.support.seeding import generator
from metatele.symmetry import DiscreteSymmetry, GroupAction, Symmetry
from metatele.task.params import Params, flatten, map_params
from metatele.testing.laws import Loss, assert_law, gradient_of, one_task, same, untouched

SIGNS = 64  # random gradients whose mean square is taken


def check_symmetry(
    symmetry: Symmetry,
    params: Params,
    inputs: Tensor,
    loss: Loss,
    scale: float = 0.3,
    rtol: float = 1e-10,
    seed: int = 0,
) -> None:
    """Check that a symmetry is a Lie group, acts on the parameters, and leaves the loss unchanged.

    Args:
        symmetry: the group.
        params: parameters of B networks, {name: [B, ...]} in float64, B at least 2.
        inputs: the networks' inputs, [B, n, ...], for groups that depend on the data.
        loss: the loss of each task as a function of the parameters, [B]; for a group that depends
            on the data, the loss on `inputs`, which must be data on which the group is exact.
        scale: standard deviation of the Lie algebra elements to try.
        rtol: relative change of the loss that counts as none.
    Raises: AssertionError that names the broken law.
    """
    name, stream = type(symmetry).__name__, generator("check_symmetry", seed)
    params = {k: p.detach() for k, p in params.items()}
    shape = (len(inputs), *symmetry.algebra_shape)
    s, t = (scale * torch.randn(shape, generator=stream, dtype=torch.float64) for _ in range(2))
    with untouched(f"{name} leaves its arguments unchanged", s, t, params, inputs):
        g, h = symmetry.exp(s), symmetry.exp(t)
        unit = symmetry.identity(next(iter(params.values())))
        same(symmetry.exp(torch.zeros_like(s)), unit, 1e-12, f"{name}: exp(0) is the identity")
        same(symmetry.compose(g, g), symmetry.exp(2 * s), 1e-10, f"{name}: exp(T) exp(T) = exp(2 T)")
        _check_group(symmetry, g, h, unit, 1e-10)
        _check_size(symmetry, g, unit)
        _check_action(symmetry, g, h, unit, params, inputs)
        _check_loss(symmetry, g, unit, params, inputs, loss, rtol)
    _check_derivatives(symmetry, symmetry.exp, [s], params, inputs, gradient_of(loss, params))


def check_discrete_symmetry(
    symmetry: DiscreteSymmetry, params: Params, inputs: Tensor, loss: Loss, rtol: float = 1e-10, seed: int = 0
) -> None:
    """Check that a discrete symmetry is a group, acts on the parameters, and leaves the loss unchanged.

    Args: as for `check_symmetry`.
    Raises: AssertionError that names the broken law.
    """
    name, tasks, like = type(symmetry).__name__, len(inputs), next(iter(params.values())).detach()
    params = {k: p.detach() for k, p in params.items()}

    def draw(i: int, *of: int) -> Tensor:
        streams = [generator("check_discrete_symmetry", seed, i, task) for task in of]
        return symmetry.sample(streams, like[: len(of)])

    with untouched(f"{name} leaves its arguments unchanged", params, inputs):
        unit = symmetry.identity(like)
        draws = [draw(i, *range(tasks)) for i in range(20)]
        g = next((g for g in draws if not torch.equal(g, unit)), unit)
        assert_law(not torch.equal(g, unit), f"{name}.sample draws more than the identity")
        h = draws[0] if g is not draws[0] else draws[1]
        for i in range(tasks):
            law = f"{name}.sample: a task's element depends on its generator only, not on how tasks are stacked"
            same(draw(0, i), draws[0][i : i + 1], 0, law)
        _check_group(symmetry, g, h, unit, 0)
        _check_size(symmetry, g, unit)
        _check_action(symmetry, g, h, unit, params, inputs)
        _check_loss(symmetry, g, unit, params, inputs, loss, rtol)
    _check_derivatives(symmetry, lambda: g, [], params, inputs, gradient_of(loss, params))


def _check_group(symmetry: GroupAction, g: Tensor, h: Tensor, unit: Tensor, tolerance: float) -> None:
    """The axioms of a group, among its elements."""
    name, compose, inverse = type(symmetry).__name__, symmetry.compose, symmetry.inverse
    with untouched(f"{name}: compose and inverse leave group elements unchanged", g, h, unit):
        same(compose(g, unit), g, tolerance, f"{name}: g identity = g")
        same(compose(unit, g), g, tolerance, f"{name}: identity g = g")
        same(compose(g, inverse(g)), unit, tolerance, f"{name}: g g^-1 = identity")
        same(compose(inverse(g), g), unit, tolerance, f"{name}: g^-1 g = identity")
        same(compose(compose(g, h), g), compose(g, compose(h, g)), tolerance, f"{name}: (g h) g = g (h g)")


def _check_size(symmetry: GroupAction, g: Tensor, unit: Tensor) -> None:
    """`size` is 0 at the identity only, and about the same for g and g^-1 (a factor of 4 is allowed: the
    general version is right for small elements only)."""
    name = type(symmetry).__name__
    with untouched(f"{name}.size leaves the group element unchanged", g, unit):
        size, back = symmetry.size(g), symmetry.size(symmetry.inverse(g))
        nothing = symmetry.size(unit)
    assert_law(size.shape == (len(g),), f"{name}: size is one number a task, got {tuple(size.shape)}")
    assert_law(bool((nothing.abs() <= 1e-10).all()), f"{name}: the size of the identity is 0, got {nothing.tolist()}")
    moved = (g != unit).flatten(1).any(1)
    good = torch.where(moved, (size > 1e-10) & size.isfinite(), size <= 1e-10)
    assert_law(bool(good.all()), f"{name}: size is finite, and above 0 but for the identity, got {size.tolist()}")
    alike = (back <= 4 * size + 1e-10) & (size <= 4 * back + 1e-10)
    assert_law(
        bool(alike.all()), f"{name}: g and g^-1 have about the same size, got {size.tolist()} and {back.tolist()}"
    )
    for i in range(len(g)):
        same(symmetry.size(g[i : i + 1]), size[i : i + 1], 1e-8, f"{name}: the size of a stack = that of each task")


def _check_action(symmetry: GroupAction, g: Tensor, h: Tensor, unit: Tensor, params: Params, inputs: Tensor) -> None:
    """The axioms of an action, on stacked parameters."""
    name = type(symmetry).__name__
    with untouched(f"{name}.act leaves the group element unchanged", g):
        moved = symmetry.act(g, params, inputs)
    assert_law(list(moved) == list(params), f"{name}.act returns all parameters, in their order")
    same(symmetry.act(unit, params, inputs), params, 1e-8, f"{name}: the identity moves nothing")
    back = symmetry.act(symmetry.inverse(g), moved, inputs)
    same(back, params, 1e-8, f"{name}: g^-1 (g theta) = theta")
    twice = symmetry.act(symmetry.compose(h, g), params, inputs)
    same(twice, symmetry.act(h, moved, inputs), 1e-8, f"{name}: (h g) theta = h (g theta)")
    for i in range(len(inputs)):
        one = symmetry.act(g[i : i + 1], one_task(params, i), inputs[i : i + 1])
        same(one, one_task(moved, i), 1e-10, f"{name}: acting on a stack = acting on each task")


def _check_loss(
    symmetry: GroupAction, g: Tensor, unit: Tensor, params: Params, inputs: Tensor, loss: Loss, rtol: float
) -> None:
    """The loss is unchanged; the gradient changes as `dual` says, and not at all if the group says so."""
    name, moved = type(symmetry).__name__, symmetry.act(g, params, inputs)
    same(loss(moved), loss(params), rtol, f"{name}: the loss is unchanged")
    residual = symmetry.residual(g, params, inputs)
    assert_law(residual.shape == (len(inputs),), f"{name}: residual is one number a task, got {tuple(residual.shape)}")
    assert_law(bool((residual <= max(rtol, 1e-8)).all()), f"{name}: residual is 0 where the group is exact")

    gradient, there = gradient_of(loss, params), gradient_of(loss, moved)
    change = float((flatten(there) - flatten(gradient)).norm() / flatten(gradient).norm())
    if symmetry.moves_gradient:
        assert_law(change > 1e-6, f"{name}: the gradient changes (else the group is useless), by {change:.3g}")
    else:
        assert_law(
            change <= 1e-8, f"{name}: the gradient does not change, as moves_gradient = False says, by {change:.3g}"
        )
        step = float((flatten(moved) - flatten(params)).norm() / flatten(params).norm())
        assert_law(step > 1e-6, f"{name}: the parameters change, by {step:.3g}")
    carried = symmetry.dual(g, params, moved, gradient, inputs)
    same(carried, there, 1e-6, f"{name}: dual carries the gradient at theta to that at g theta")
    square = map_params(torch.square, gradient)
    kept = symmetry.dual_square(unit, params, params, square, inputs)
    same(kept, square, 1e-8, f"{name}: dual_square of the identity changes nothing")
    negative = any(bool((v < 0).any()) for v in symmetry.dual_square(g, params, moved, square, inputs).values())
    assert_law(not negative, f"{name}: dual_square keeps squares at or above 0")
    _check_size_of_squares(symmetry, g, params, moved, square, inputs)


def _check_size_of_squares(
    symmetry: GroupAction, g: Tensor, params: Params, moved: Params, square: Params, inputs: Tensor
) -> None:
    """Given mean squares of gradients, `dual_square` gives the mean squares of the carried gradients. It may be an
    estimate: summed over a task's parameters, within a factor of 4 of the mean over random signs."""
    name, stream, total = type(symmetry).__name__, generator("squares"), torch.zeros(len(inputs), dtype=torch.float64)
    for _ in range(SIGNS):
        signed = map_params(
            lambda v: v.sqrt() * (2 * torch.randint(2, v.shape[1:], generator=stream) - 1).to(v), square
        )
        total += flatten(symmetry.dual(g, params, moved, signed, inputs)).square().sum(1) / SIGNS
    ratio = flatten(symmetry.dual_square(g, params, moved, square, inputs)).sum(1) / total
    law = f"{name}: dual_square has the size of the squares of what dual carries; it is {ratio.tolist()} times that"
    assert_law(bool((ratio > 0.25).all() and (ratio < 4).all()), law)


def _check_derivatives(
    symmetry: GroupAction,
    element: Callable[..., Tensor],
    algebra: list[Tensor],
    params: Params,
    inputs: Tensor,
    gradient: Params,
) -> None:
    """Derivatives of the action and, because meta-gradients pass through it, of `dual`, which is itself
    a derivative: in the parameters, the gradient and what `element` makes the group element from."""
    cuts = [len(algebra), len(params), len(gradient)]

    def moved_by(*values: Tensor) -> tuple[Tensor, ...]:
        sources, here, there = (values[sum(cuts[:i]) : sum(cuts[: i + 1])] for i in range(3))
        g, theta = element(*sources), dict(zip(params, here, strict=True))
        moved = symmetry.act(g, theta, inputs)
        carried = symmetry.dual(g, theta, moved, dict(zip(params, there, strict=True)), inputs)
        return (*moved.values(), *carried.values())

    leaves = [x.clone().requires_grad_() for x in (*algebra, *params.values(), *gradient.values())]
    try:
        torch.autograd.gradcheck(moved_by, leaves, fast_mode=True, atol=1e-6, rtol=1e-4)
    except RuntimeError as error:
        law = f"{type(symmetry).__name__}: g theta is differentiable in {'T and ' if algebra else ''}theta"
        raise AssertionError(f"{law}: {error}") from error
