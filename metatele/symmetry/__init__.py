"""Symmetry groups of networks, acting on stacked parameters."""

from metatele.symmetry.action import GroupAction
from metatele.symmetry.base import Symmetry
from metatele.symmetry.discover import discrete_symmetries_of, group_of, symmetries_of
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.groups.bijective import BijectiveGL
from metatele.symmetry.groups.general_linear import GeneralLinear
from metatele.symmetry.groups.logit_translation import LogitTranslation
from metatele.symmetry.groups.permutations import Permutations
from metatele.symmetry.groups.positive_scaling import PositiveScaling, only_scales
from metatele.symmetry.groups.pseudo_inverse import PseudoInverseGL
from metatele.symmetry.groups.quadratic import QuadraticOrthogonal
from metatele.symmetry.groups.rotation import PlaneRotation
from metatele.symmetry.groups.sign_flips import SignFlips
from metatele.symmetry.guard import check_finite, check_residual, movable
from metatele.symmetry.kinds import Kind
from metatele.symmetry.layers import HiddenLayer, LayerInput
from metatele.symmetry.product import ProductGroup, as_group

__all__ = [
    "BijectiveGL",
    "DiscreteSymmetry",
    "GeneralLinear",
    "GroupAction",
    "HiddenLayer",
    "Kind",
    "LayerInput",
    "LogitTranslation",
    "Permutations",
    "PlaneRotation",
    "PositiveScaling",
    "ProductGroup",
    "PseudoInverseGL",
    "QuadraticOrthogonal",
    "SignFlips",
    "Symmetry",
    "as_group",
    "check_finite",
    "check_residual",
    "discrete_symmetries_of",
    "group_of",
    "movable",
    "only_scales",
    "symmetries_of",
]
