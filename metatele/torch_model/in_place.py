"""Teleporting a torch model in place, inside anybody's own training loop."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metatele.errors import ConfigError, SymmetryError
from metatele.landscape import (
    Landscape,
    LossFunction,
    ObjectiveFunction,
    Place,
    find_objective,
    gradient_norm,
    value_of,
)
from metatele.parts.point import Point, State
from metatele.parts.torch_state import CarriedState, reset_state
from metatele.support.messages import first_line
from metatele.symmetry import ProductGroup, check_finite, check_residual
from metatele.task.params import Params, map_params, task_norm
from metatele.task.stack import unwrapped
from metatele.teleports import OrbitTeleport, Teleport
from metatele.torch_model.arguments import (
    check_arguments,
    choose_moments,
    choose_teleport,
    choose_tolerance,
    find_group,
    list_of_optimizers,
)
from metatele.torch_model.guards import check_frozen, check_steady, finite, rounding
from metatele.torch_model.replicas import found_by_first
from metatele.torch_model.report import Teleported


class Destination(NamedTuple):
    """Where a teleport leads: what to report, and the parameters and the optimizer's state there, all [1, ...]."""

    report: Teleported
    params: Params
    covectors: list[Params]
    squares: list[Params]
    points: list[Params]


def teleport(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
    objective: str | ObjectiveFunction | None = None,
    *,
    by: Teleport | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    moments: str | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    **settings: Any,
) -> Teleported:
    """Teleport a model's parameters, in place, without a change of its loss.

        metatele.teleport(model, (x, y), loss_fn, objective="gradient_norm", optimizer=optimizer)

    Call it before `backward()`: gradients in `.grad` belong to the old point and are set to None. The
    forward pass must be deterministic: switch dropout off. Parameters that the optimizer does not hold move
    as well. If anything is wrong, model and optimizer are left exactly as they were.

    Args:
        model: any module; orbit teleports find the symmetries of an `nn.Sequential` by themselves
            (see `metatele.symmetries_of`), `LevelSetTeleport` and `NullSpaceTeleport` need none.
        batch: inputs [n, ...] and targets [n, ...].
        loss_fn: (predictions, targets) -> scalar.
        objective: what to climb along the orbit: "gradient_norm" (the default), "sharpness",
            "curvature", an object such as `Sharpness()`, or a function of a `Place`.
        by: any other teleport, such as `Balance()` or `LevelSetTeleport()`, instead of an objective.
        optimizer: the optimizer that trains the model, or a list of them; `moments` says what becomes of their state.
        moments: "transform" carries the optimizer's means of gradients and squared gradients along, and second copies
            of the weights, so that the teleport is all that changes, and names what stays as it was; "reset"
            starts the state anew, if the model was moved; "keep" does not touch it. By default
            "transform"; "reset" for teleports without a group, which have nothing to transform by, and
            for optimizers with a state that cannot be (LBFGS).
        tolerance: the largest relative change of the loss, and of what a layer sees of the batch; by
            default the teleport's own, or 1e-3.
        seed: seed of a random teleport's draws.
        settings: further arguments of `OptimisedTeleport`: steps, lr, direction, cap, symmetry.
    Returns: what the teleport did.
    Raises: SymmetryError if the model has no known symmetry, a group element is singular, the batch is
        too large for an action that depends on the data, the objective is not finite, or the loss
        moves by more than the tolerance; ConfigError for settings that do not go together, and for a
        model, batch or loss that does not run.
    """
    optimizers = list_of_optimizers(optimizer)
    check_arguments(model, batch, loss_fn, optimizers, seed)
    model = unwrapped(model)
    by = choose_teleport(by, objective, settings)
    named = dict(model.named_parameters())
    carried = CarriedState(optimizers, named) if optimizers else None
    moments = choose_moments(by, moments, carried)
    tolerance = choose_tolerance(by, tolerance)
    with _refused_in_a_line(by), _buffers_kept(model):
        there = found_by_first(model, lambda: _find(model, batch, loss_fn, by, carried, tolerance, seed))
    if there.report.distance > 0:
        _arrive(there, named, optimizers, carried, moments)
        left = carried.left if carried is not None and moments == "transform" else ()
        return replace(there.report, moments=moments, left=left) if optimizers else there.report
    return there.report


@contextmanager
def _refused_in_a_line(by: Teleport) -> Iterator[None]:
    """Turn what a model, batch or loss that does not run raises into a ConfigError of one line."""
    try:
        yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"{type(by).__name__} does not run on this model, batch and loss: {first_line(error)}"
        ) from error


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo what looking at a model does to its buffers: reading a weight with spectral norm takes a power iteration."""
    before = [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _find(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
    by: Teleport,
    carried: CarriedState | None,
    tolerance: float,
    seed: int,
) -> Destination:
    """Where the teleport leads. Changes nothing.

    Raises: SymmetryError if a number there is not finite, the loss changes too much, or a frozen parameter moves.
    """
    group = find_group(model, by)
    # A teleport without a group leaves alone what is frozen; a group needs all parameters of its layers.
    named = {k: p for k, p in model.named_parameters() if p.requires_grad or group.factors}
    landscape = Landscape(model, loss_fn, batch[0].unsqueeze(0), batch[1].unsqueeze(0), group)
    here = Place(landscape, {k: p.detach().unsqueeze(0) for k, p in named.items()})
    check_steady(here)
    objective = find_objective(getattr(by, "objective", gradient_norm))
    before = finite("before the teleport", by, here, loss=here.loss, objective=value_of(objective, here))
    params, residual, *carry = _move(by, here, carried, tolerance, seed)
    there = Place(landscape, params)
    after = finite("after the teleport", by, there, loss=there.loss, objective=value_of(objective, there))
    allowed = tolerance * abs(before["loss"]) + rounding(here)
    if not abs(after["loss"] - before["loss"]) <= allowed:
        raise SymmetryError(
            f"{type(by).__name__} moved the loss from {before['loss']:.6g} to {after['loss']:.6g}, more than the "
            f"relative tolerance {tolerance:.3g} (residuals {residual or 'none'}); give it a smaller batch, teleport "
            "less far, or allow a larger tolerance"
        )
    check_frozen(named, params)
    report = Teleported(
        loss_before=before["loss"],
        loss_after=after["loss"],
        gradient_norm_before=float(gradient_norm(here).detach()),
        gradient_norm_after=float(gradient_norm(there).detach()),
        objective_before=before["objective"],
        objective_after=after["objective"],
        distance=float(task_norm(map_params(torch.sub, params, here.params))),
        residual=residual,
    )
    return Destination(report, params, *carry)


def _move(
    by: Teleport, here: Place, carried: CarriedState | None, tolerance: float, seed: int
) -> tuple[Params, dict[str, float], list[Params], list[Params], list[Params]]:
    """Parameters after the teleport, the residual of each layer; covectors, squares and points."""
    landscape, group = here.landscape, here.landscape.group
    gradient = map_params(torch.detach, here.gradient)
    point = Point(here.params, gradient, landscape.inputs, by.first, landscape, landscape)
    mine = _fitted(by, here.params, group)
    state = mine.start(here.params, group, torch.tensor([seed]))
    if not isinstance(mine, OrbitTeleport):
        return mine.move(point, group, state, State())[0].params, {}, [], [], []
    seen, residual = mine.look(point, state), dict[str, Tensor]()

    def check(step: int, group: ProductGroup, element: list[Tensor]) -> None:
        check_finite(group, element, here.params, seen.inputs)
        residual.update(check_residual(group, element, here.params, seen.inputs, tolerance))

    covectors, squares = ((), ()) if carried is None else (tuple(carried.covectors), tuple(carried.squares))
    mine.residual, mine.observer = tolerance, getattr(by, "observer", None)
    with mine.observed_by(check):
        there, _, moments = mine.move(point, group, state, State(covectors, squares))
    mine.observer = None
    copies = [] if carried is None else carried.points
    points = [map_params(torch.detach, mine.move(point, group, state, State(), onto=p)[0].params) for p in copies]
    moments, params = moments.detach(), map_params(torch.detach, there.params)
    sizes = {k: float(r) for k, r in residual.items()}
    return params, sizes, list(moments.covectors), list(moments.squares), points


def _fitted(by: Teleport, params: Params, group: ProductGroup) -> Teleport:
    """A copy of the teleport; of a learned one in the dtype and on the device of the parameters."""
    by.bind(params, group)
    learned = any(True for _ in by.parameters())
    return copy.deepcopy(by).to(next(iter(params.values()))) if learned else copy.copy(by)


def _arrive(
    there: Destination,
    named: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    carried: CarriedState | None,
    moments: str,
) -> None:
    """Write the optimizers' state, then the model: a constructor of an optimizer may raise."""
    if carried is not None and moments == "transform":
        carried.write(there.covectors, there.squares, there.points)
    elif moments == "reset":
        for optimizer in optimizers:
            held = {p for group in optimizer.param_groups for p in group["params"]}
            reset_state(optimizer, [p for p in named.values() if p in held])
    with torch.no_grad():
        for name, moved in there.params.items():
            named[name].copy_(moved[0])
            named[name].grad = None
