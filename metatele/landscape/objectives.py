"""What a teleport may climb or descend: any map from a place to one number for each task."""

from collections.abc import Callable, Mapping

from torch import Tensor

from metatele.checks import one_of
from metatele.landscape.base import Objective, Place
from metatele.landscape.curvature import Curvature
from metatele.landscape.sharpness import Sharpness


def gradient_norm(place: Place) -> Tensor:
    """Euclidean norm of the loss's gradient over all parameters, [B]."""
    return place.gradient_norm


OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "gradient_norm": lambda: gradient_norm,
    "sharpness": Sharpness,
    "curvature": Curvature,
}


def find_objective(objective: str | Objective) -> Objective:
    """The objective of a name, with its default settings; a callable is one already.

    Raises: ConfigError for an unknown name.
    """
    if callable(objective):
        return objective
    one_of(tuple(OBJECTIVES), objective=objective)
    return OBJECTIVES[objective]()
