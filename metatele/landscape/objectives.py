"""What a teleport may climb or descend: any map from a place to one number for each task."""

from collections.abc import Callable, Mapping

from torch import Tensor

from metatele.checks import one_of
from metatele.landscape.base import ObjectiveFunction, Place
from metatele.landscape.curvature import Curvature
from metatele.landscape.sharpness import Sharpness


def gradient_norm(place: Place) -> Tensor:
    """Euclidean norm of the loss's gradient over all parameters, [B]."""
    return place.gradient_norm


OBJECTIVES: Mapping[str, Callable[[], ObjectiveFunction]] = {
    "gradient_norm": lambda: gradient_norm,
    "sharpness": Sharpness,
    "curvature": Curvature,
}


def find_objective(objective: str | ObjectiveFunction) -> ObjectiveFunction:
    """The objective of a name, with its default settings; a callable is one already.

    Raises: ConfigError for an unknown name, or a class in place of an object of it.
    """
    if not isinstance(objective, (str, type)) and callable(objective):
        return objective
    one_of(tuple(OBJECTIVES), objective=objective)
    return OBJECTIVES[str(objective)]()
