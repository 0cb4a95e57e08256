"""Find the symmetries of a network from its layers."""

from torch import nn

from metatele.errors import SymmetryError
from metatele.support.checks import one_of
from metatele.symmetry.base import Symmetry
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.kinds import AUTO, Kind, find_discrete, find_symmetries, kinds
from metatele.symmetry.product import ProductGroup
from metatele.symmetry.sequential import describe_network

SEQUENTIAL = "supported are nn.Sequential networks of nn.Linear and activation layers"


def symmetries_of(network: nn.Module, kind: Kind = "auto") -> list[Symmetry]:
    """The symmetries of a network, one for each hidden layer that has one, in the order of layers.

    Args:
        network: an `nn.Sequential` (nested ones too) of `nn.Linear` and activation layers, or a
            module with a method `symmetries()`, whose answer is then taken as it is.
        kind: which group to take for a layer that has several (see `metatele.symmetry.groups`). 'softmax' takes the
            last linear layer instead of hidden ones, and asserts that the loss is softmax cross-entropy.
    Raises: SymmetryError if there is none; ConfigError for an unknown kind.
    """
    one_of(kinds(), symmetry=kind)
    declare = getattr(network, "symmetries", None)
    found = list(declare()) if callable(declare) else find_symmetries(network, kind)
    if not found:
        raise SymmetryError(f"no symmetry of kind {kind!r} is known for {describe_network(network)}; {_supported()}")
    return found


def discrete_symmetries_of(network: nn.Module) -> list[DiscreteSymmetry]:
    """The discrete symmetries of a network, in the order of layers: sign flips, then permutations.

    Args:
        network: as for `symmetries_of`; a module may declare its own with `discrete_symmetries()`.
    Raises: SymmetryError if there is none.
    """
    declare = getattr(network, "discrete_symmetries", None)
    found = list(declare()) if callable(declare) else find_discrete(network)
    if not found:
        raise SymmetryError(f"no discrete symmetry is known for {describe_network(network)}; {_supported_discrete()}")
    return found


def group_of(network: nn.Module, kind: Kind = "auto") -> ProductGroup:
    """The product of `symmetries_of(network, kind)`."""
    return ProductGroup(tuple(symmetries_of(network, kind)))


def _supported() -> str:
    """Which symmetries are supported, at which layers, and what to do otherwise: the end of an error message."""
    groups = Symmetry.kinds
    first = [kind for kind, group in groups.items() if group.automatic is not None]
    return (
        f"{SEQUENTIAL}: {'; '.join(f'{kind!r} {group.where}' for kind, group in groups.items())}; {AUTO!r} takes "
        f"{' or '.join(sorted(first, key=lambda kind: groups[kind].automatic or 0))}. For other modules, train without "
        "a teleport, or declare their symmetries with a method symmetries(self) -> list[Symmetry]"
    )


def _supported_discrete() -> str:
    return (
        f"{SEQUENTIAL}: {', '.join(group.where for group in DiscreteSymmetry.kinds.values())}. For other modules, "
        "declare their symmetries with a method discrete_symmetries(self) -> list[DiscreteSymmetry]"
    )
