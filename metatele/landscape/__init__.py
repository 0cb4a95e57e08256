"""The loss as a function of the parameters, and what teleports may climb on it."""

from metatele.landscape.base import Landscape, LossFunction, Objective, ObjectiveFunction, Place, smooth_task_norm
from metatele.landscape.curvature import Curvature, curve_curvature
from metatele.landscape.objectives import find_objective, gradient_norm, value_of
from metatele.landscape.sharpness import Sharpness

__all__ = [
    "Curvature",
    "Landscape",
    "LossFunction",
    "Objective",
    "ObjectiveFunction",
    "Place",
    "Sharpness",
    "curve_curvature",
    "find_objective",
    "gradient_norm",
    "smooth_task_norm",
    "value_of",
]
