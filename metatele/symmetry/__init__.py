"""Symmetry groups of networks, acting on stacked parameters."""

from metatele.symmetry.base import Symmetry
from metatele.symmetry.bijective import BijectiveGL
from metatele.symmetry.discover import Kind, group_of, symmetries_of
from metatele.symmetry.general_linear import GeneralLinear
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.positive_scaling import PositiveScaling
from metatele.symmetry.product import ProductGroup

__all__ = [
    "BijectiveGL",
    "GeneralLinear",
    "HiddenLayer",
    "Kind",
    "PositiveScaling",
    "ProductGroup",
    "Symmetry",
    "group_of",
    "symmetries_of",
]
