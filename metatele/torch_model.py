"""Teleporting a torch model in place, inside anybody's own training loop."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metatele.checks import above_zero, at_least, one_of
from metatele.errors import ConfigError, SymmetryError
from metatele.landscape import Landscape, LossFunction, ObjectiveFunction, Place, find_objective, gradient_norm
from metatele.params import Params, map_params, task_norm
from metatele.point import Point, State
from metatele.symmetry import ProductGroup, check_finite, check_residual
from metatele.teleports import OptimisedTeleport, OrbitTeleport, Teleport
from metatele.torch_state import CarriedState, reset_state

MOMENTS = ("transform", "keep", "reset")
TINY = 1e-12  # a loss below it counts as this, where changes are relative to it


@dataclass(frozen=True)
class Teleported:
    """What a teleport did to a model, measured on its batch.

    Attributes:
        loss_before, loss_after: the loss.
        gradient_norm_before, gradient_norm_after: the norm of the loss's gradient.
        objective_before, objective_after: what the teleport climbed; the gradient norm for a rule.
        distance: Euclidean norm of the change of the parameters; 0 if the teleport found nothing
            better, or was undone because it went beyond its tolerance.
        residual: {layer: relative change of what the next layer sees} for groups that depend on the
            data; empty for exact ones.
    """

    loss_before: float
    loss_after: float
    gradient_norm_before: float
    gradient_norm_after: float
    objective_before: float
    objective_after: float
    distance: float
    residual: dict[str, float] = field(default_factory=dict)


def teleport(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
    objective: str | ObjectiveFunction | None = None,
    *,
    by: Teleport | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    moments: str | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> Teleported:
    """Teleport a model's parameters, in place, without a change of its loss.

        metatele.teleport(model, (x, y), loss_fn, objective="gradient_norm", optimizer=optimizer)

    The forward must be deterministic: switch dropout off, and batch norm to evaluation. Gradients in
    `.grad` belong to the old point and are set to None. If anything is wrong, model and optimizer are
    left exactly as they were.

    Args:
        model: any module; orbit teleports find the symmetries of an `nn.Sequential` by themselves
            (see `metatele.symmetries_of`), `LevelSetTeleport` and `NullSpaceTeleport` need none.
        batch: inputs [n, ...] and targets [n, ...].
        loss_fn: (predictions, targets) -> scalar.
        objective: what to climb along the orbit: "gradient_norm" (the default), "sharpness",
            "curvature" or a callable (see `OptimisedTeleport`).
        by: any other teleport, such as `Balance()` or `LevelSetTeleport()`, in place of an objective.
        optimizer: the optimizer that trains the model, whose state is to follow.
        moments: "transform" carries the optimizer's means of gradients and squared gradients along,
            so that the teleport is all that changes, and leaves other state as it is; "reset"
            starts the state anew, if the model was moved; "keep" does not touch it. By default
            "transform", and "reset" for teleports without a group, which have nothing to transform by.
        tolerance: the largest relative change of the loss, and of what a layer sees of the batch.
        seed: for the random draws of a teleport that makes some.
        settings: further arguments of `OptimisedTeleport`: steps, lr, direction, cap, symmetry.
    Returns: what the teleport did.
    Raises: SymmetryError if the model has no known symmetry, a group element is singular, the batch is
        too large for an action that depends on the data, the objective is not finite, or the loss
        moves by more than the tolerance; ConfigError for settings that do not go together.
    """
    _check_arguments(model, batch, loss_fn, optimizer, seed)
    by = _choose(by, objective, settings)
    if moments is None:
        moments = "transform" if isinstance(by, OrbitTeleport) else "reset"
    one_of(MOMENTS, moments=moments)
    above_zero(tolerance=tolerance)
    if moments == "transform" and not isinstance(by, OrbitTeleport):
        raise ConfigError(f"{type(by).__name__} uses no group to transform the optimizer's state by; reset or keep it")
    group = _group_of(model, by)
    # A teleport without a group leaves alone what is frozen; a group needs all parameters of its layers.
    named = {k: p for k, p in model.named_parameters() if p.requires_grad or group.factors}
    landscape = Landscape(model, loss_fn, batch[0].unsqueeze(0), batch[1].unsqueeze(0), group)
    here = Place(landscape, {k: p.detach().unsqueeze(0) for k, p in named.items()})
    measure = find_objective(getattr(by, "objective", gradient_norm))
    carried = CarriedState(optimizer, named) if optimizer is not None and moments == "transform" else None

    before = _finite("before the teleport", by, loss=here.loss, objective=measure(here))
    params, covectors, squares, residual = _move(by, here, carried, tolerance, seed)
    there = Place(landscape, params)
    after = _finite("after the teleport", by, loss=there.loss, objective=measure(there))
    allowed = max(tolerance, by.tolerance) * max(abs(before["loss"]), TINY)
    if not abs(after["loss"] - before["loss"]) <= allowed:
        raise SymmetryError(
            f"{type(by).__name__} moved the loss from {before['loss']:.6g} to {after['loss']:.6g}, more than the "
            f"relative tolerance {tolerance:.3g} (residuals {residual or 'none'}); is the forward deterministic (no "
            "dropout, batch norm in evaluation mode)? Use fewer rows, teleport less far, or allow a larger tolerance"
        )
    _check_frozen(named, params)
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
    # The model last, because a constructor of an optimizer may raise.
    if carried is not None:
        carried.write(covectors, squares)
    elif optimizer is not None and moments == "reset" and report.distance > 0:
        reset_state(optimizer, named.values())
    _write(named, params)
    return report


def _move(
    by: Teleport, here: Place, carried: CarriedState | None, tolerance: float, seed: int
) -> tuple[Params, list[Params], list[Params], dict[str, float]]:
    """Parameters, covectors and squares after the teleport, and the residual of each layer."""
    landscape, group = here.landscape, here.landscape.group
    gradient = map_params(torch.detach, here.gradient)
    point = Point(here.params, gradient, landscape.inputs, by.first, landscape, landscape)
    by = _fitted(by, here.params, group)
    state = by.start(here.params, group, torch.tensor([seed]))
    if not isinstance(by, OrbitTeleport):
        return by.move(point, group, state, State())[0].params, [], [], {}
    seen = by.look(point, state)
    element, _ = by.element(seen, group, state)
    check_finite(group, element, here.params, seen.inputs)
    residual = check_residual(group, element, here.params, seen.inputs, tolerance)
    covectors, squares = ([], []) if carried is None else (carried.covectors, carried.squares)
    with torch.no_grad():
        moved = group.carry(element, here.params, seen.inputs, covectors, squares)
    return *moved, {name: float(r) for name, r in residual.items()}


def _fitted(by: Teleport, params: Params, group: ProductGroup) -> Teleport:
    """The teleport; a learned one as a copy in the dtype and on the device of the parameters."""
    by.bind(params, group)
    return copy.deepcopy(by).to(next(iter(params.values()))) if any(True for _ in by.parameters()) else by


def _group_of(model: nn.Module, by: Teleport) -> ProductGroup:
    try:
        return by.group(model)
    except SymmetryError as error:
        raise SymmetryError(
            f"{error}; or use by=LevelSetTeleport() or by=NullSpaceTeleport(), which need no symmetry"
        ) from error


def _check_arguments(model: object, batch: object, loss_fn: object, optimizer: object, seed: object) -> None:
    """Raises: ConfigError for an argument that is not of its kind."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}")
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
        raise ConfigError(f"batch must be two tensors, (inputs, targets), got {type(batch).__name__}")
    rows = [len(t) if t.dim() else 0 for t in batch]
    if rows[0] != rows[1] or rows[0] == 0:
        raise ConfigError(f"inputs and targets must have equally many rows, at least one, got {rows[0]} and {rows[1]}")
    if not callable(loss_fn):
        raise ConfigError(f"loss_fn must be a function of (predictions, targets), got {loss_fn!r}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"optimizer must be one of torch.optim, got {type(optimizer).__name__}")
    if optimizer is not None and not {id(p) for g in optimizer.param_groups for p in g["params"]} & {
        id(p) for p in model.parameters()
    }:
        raise ConfigError(f"the optimizer ({type(optimizer).__name__}) holds none of the model's parameters")
    at_least(0, seed=seed)


def _finite(when: str, by: Teleport, **values: Tensor) -> dict[str, float]:
    """The numbers. Raises: SymmetryError for one that is not finite."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (1,):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise SymmetryError(f"the {name} must be a tensor with one number for each network, [1], got {got}")
        if not bool(value.isfinite()):
            raise SymmetryError(
                f"{type(by).__name__}: the {name} is {float(value)} {when}; the model is left as it was"
            )
    return {name: float(value.detach()) for name, value in values.items()}


def _check_frozen(named: dict[str, nn.Parameter], params: Params) -> None:
    for name, p in named.items():
        if not p.requires_grad and not torch.equal(p.detach(), params[name][0]):
            raise SymmetryError(f"the teleport would move {name!r}, which is frozen (requires_grad=False)")


@torch.no_grad()
def _write(named: dict[str, nn.Parameter], params: Params) -> None:
    for name, p in named.items():
        p.copy_(params[name][0])
        p.grad = None


def _choose(by: Teleport | None, objective: str | ObjectiveFunction | None, settings: dict[str, Any]) -> Teleport:
    """The teleport that the arguments of `teleport` ask for."""
    if by is None:
        try:
            return OptimisedTeleport(objective="gradient_norm" if objective is None else objective, **settings)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"an optimised teleport has no such setting: {error}") from error
    if not isinstance(by, Teleport):
        raise ConfigError(f"by must be a teleport such as Balance(), got {by!r}")
    given = [*(["objective"] if objective is not None else []), *settings]
    if given:
        raise ConfigError(f"{', '.join(given)}: give these to {type(by).__name__} itself, not beside by=")
    return by
