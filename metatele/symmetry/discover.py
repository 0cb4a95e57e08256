"""Find the symmetries of a network from its layers."""

from collections.abc import Iterator
from typing import get_args

from torch import nn

from metatele.errors import ConfigError, SymmetryError
from metatele.symmetry.activations import is_elementwise, is_odd
from metatele.symmetry.base import Symmetry
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.kinds import FINDERS, Kind
from metatele.symmetry.permutations import Permutations
from metatele.symmetry.product import ProductGroup
from metatele.symmetry.sequential import describe, hidden_layers
from metatele.symmetry.sign_flips import SignFlips

SUPPORTED = (
    "supported are nn.Sequential networks of nn.Linear and activation layers: 'scaling' (positive scaling of neurons) "
    "at ReLU, LeakyReLU or no activation; 'general_linear' (GL(h)) at no activation; 'data_dependent' (GL(h) on as "
    "many data rows as the layer has inputs) at LeakyReLU with slope > 0 or no activation; 'pseudo_inverse' (GL(h) on "
    "at most h data rows) at any elementwise activation or none; 'softmax' (translation of the logits), if you know "
    "that the loss is softmax cross-entropy; 'auto' takes GL(h) or scaling. For other modules, train without a "
    "teleport, or declare their symmetries with a method symmetries(self) -> list[Symmetry]"
)
SUPPORTED_DISCRETE = (
    "supported are nn.Sequential networks of nn.Linear and activation layers: permutations at elementwise activations, "
    "sign flips at odd ones, such as Tanh. For other modules, declare their symmetries with a method "
    "discrete_symmetries(self) -> list[DiscreteSymmetry]"
)


def symmetries_of(network: nn.Module, kind: Kind = "auto") -> list[Symmetry]:
    """The symmetries of a network, one for each hidden layer that has one, in the order of layers.

    Args:
        network: an `nn.Sequential` (nested ones too) of `nn.Linear` and activation layers, or a
            module with a method `symmetries()`, whose answer is then taken as it is.
        kind: which group to take for a layer that has several (see `SUPPORTED`). 'softmax' takes the
            last linear layer in place of hidden ones, and asserts that the loss is softmax cross-entropy.
    Raises: SymmetryError if there is none; ConfigError for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"symmetry {kind!r} is unknown; use one of {', '.join(get_args(Kind))}")
    declare = getattr(network, "symmetries", None)
    found = list(declare() if callable(declare) else FINDERS[kind](network))
    if not found:
        raise SymmetryError(f"no symmetry of kind {kind!r} is known for {describe(network)}; {SUPPORTED}")
    return found


def discrete_symmetries_of(network: nn.Module) -> list[DiscreteSymmetry]:
    """The discrete symmetries of a network, in the order of layers: sign flips, then permutations.

    Args:
        network: as for `symmetries_of`; a module may declare its own with `discrete_symmetries()`.
    Raises: SymmetryError if there is none.
    """
    declare = getattr(network, "discrete_symmetries", None)
    found = list(declare() if callable(declare) else _discrete(network))
    if not found:
        raise SymmetryError(f"no discrete symmetry is known for {describe(network)}; {SUPPORTED_DISCRETE}")
    return found


def group_of(network: nn.Module, kind: Kind = "auto") -> ProductGroup:
    """The product of `symmetries_of(network, kind)`."""
    return ProductGroup(tuple(symmetries_of(network, kind)))


def _discrete(network: nn.Module) -> Iterator[DiscreteSymmetry]:
    for layer, between in hidden_layers(network):
        if is_odd(between):
            yield SignFlips(layer)
        if is_elementwise(between):
            yield Permutations(layer)
