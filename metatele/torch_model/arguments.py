"""What the arguments of `metatele.teleport` mean, and which are refused."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metatele.errors import ConfigError, SymmetryError
from metatele.landscape import ObjectiveFunction
from metatele.parts.torch_state import CarriedState
from metatele.support.checks import above_zero, at_least, one_of
from metatele.symmetry import ProductGroup
from metatele.teleports import OptimisedTeleport, OrbitTeleport, Teleport

SCHEDULE = {"first", "last", "every", "rows"}  # settings of teleports in an inner loop
MOMENTS = ("transform", "keep", "reset")
TOLERANCE = 1e-3  # of teleports that state none


def check_arguments(model: object, batch: object, loss_fn: object, optimizers: Sequence[object], seed: object) -> None:
    """Check the arguments of `teleport`. Raises: ConfigError for one of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}")
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
        raise ConfigError(f"batch must be two tensors, (inputs, targets), got {type(batch).__name__}")
    rows = [len(t) if t.dim() else 0 for t in batch]
    if rows[0] != rows[1] or rows[0] == 0:
        raise ConfigError(f"inputs and targets need the same number of rows, at least one, got {rows[0]} and {rows[1]}")
    if not callable(loss_fn):
        raise ConfigError(f"loss_fn must be a function of (predictions, targets), got {loss_fn!r}")
    own = {id(p) for p in model.parameters()}
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer must be one of torch.optim, or a list, got {type(optimizer).__name__}")
        if not {id(p) for g in optimizer.param_groups for p in g["params"]} & own:
            raise ConfigError(f"the optimizer ({type(optimizer).__name__}) holds none of the model's parameters")
    at_least(0, seed=seed)


def list_of_optimizers(given: Any) -> list[torch.optim.Optimizer]:
    """One optimizer, several, or none, as a list; checked later."""
    if given is None:
        return []
    return [*given] if isinstance(given, (list, tuple)) else [given]


def choose_teleport(
    by: Teleport | None, objective: str | ObjectiveFunction | None, settings: dict[str, Any]
) -> Teleport:
    """The teleport that the arguments of `teleport` ask for."""
    if isinstance(objective, Teleport):
        raise ConfigError(f"{type(objective).__name__} is a teleport and not an objective: pass it as by=")
    if refused := SCHEDULE & settings.keys():
        raise ConfigError(f"{', '.join(sorted(refused))}: a single call has no schedule and takes its whole batch")
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
    if getattr(by, "rows", None) is not None:
        raise ConfigError(
            f"{type(by).__name__} with rows={by.rows}: here it looks at the whole batch; pass a smaller one"
        )
    return by


def choose_tolerance(by: Teleport, tolerance: float | None) -> float:
    """The largest relative change of the loss: what is given, or the teleport's own."""
    chosen = (by.tolerance or TOLERANCE) if tolerance is None else tolerance
    above_zero(tolerance=chosen)
    return chosen


def choose_moments(by: Teleport, moments: str | None, carried: CarriedState | None) -> str:
    """What becomes of the optimizer's state."""
    orbit = isinstance(by, OrbitTeleport)
    if moments is None:
        return "transform" if orbit and (carried is None or carried.whole) else "reset"
    one_of(MOMENTS, moments=moments)
    if moments == "transform" and not orbit:
        raise ConfigError(f"{type(by).__name__} uses no group to transform the optimizer's state by; reset or keep it")
    if moments == "transform" and carried is not None and not carried.whole:
        raise ConfigError(
            "this optimizer's state holds more than tensors and numbers (as LBFGS's), so it cannot be "
            "transformed; reset it"
        )
    return moments


def find_group(model: nn.Module, by: Teleport) -> ProductGroup:
    """The group that a teleport uses on a model. Raises: SymmetryError, which says what else to use."""
    try:
        return by.group(model)
    except SymmetryError as error:
        raise SymmetryError(
            f"{error}; or use by=LevelSetTeleport() or by=NullSpaceTeleport(), which need no symmetry"
        ) from error
