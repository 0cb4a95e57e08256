"""What a teleport may climb or descend: any map from a place to one number for each task."""

from collections.abc import Callable, Mapping

from torch import Tensor

from metatele.errors import ConfigError
from metatele.landscape.base import ObjectiveFunction, Place
from metatele.landscape.curvature import Curvature
from metatele.landscape.sharpness import Sharpness
from metatele.support.checks import one_of


def gradient_norm(place: Place) -> Tensor:
    """Euclidean norm of the loss's gradient over all parameters, [B]."""
    return place.gradient_norm


def value_of(objective: ObjectiveFunction, place: Place) -> Tensor:
    """An objective's value at a place, [B]; for a single task a tensor without dimensions is accepted.

    Raises: ConfigError if it is not a tensor of this shape.
    """
    value, tasks = objective(place), len(place.landscape.inputs)
    if isinstance(value, Tensor) and value.dim() == 0 and tasks == 1:
        value = value.unsqueeze(0)
    if not isinstance(value, Tensor) or value.shape != (tasks,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
        raise ConfigError(f"an objective must be a tensor with one number for each task, [{tasks}], got {got}")
    return value


OBJECTIVES: Mapping[str, Callable[[], ObjectiveFunction]] = {
    "gradient_norm": lambda: gradient_norm,
    "sharpness": Sharpness,
    "curvature": Curvature,
}


def find_objective(objective: str | ObjectiveFunction) -> ObjectiveFunction:
    """The objective with this name, with its default settings; a callable is returned as it is.

    Raises: ConfigError for an unknown name, or a class instead of an instance of it.
    """
    if not isinstance(objective, (str, type)) and callable(objective):
        return objective
    if not isinstance(objective, str):
        raise ConfigError(
            f"objective must be a name, a function of a Place, or an object such as Sharpness(), got {objective!r}"
        )
    one_of(tuple(OBJECTIVES), objective=objective)
    return OBJECTIVES[objective]()
