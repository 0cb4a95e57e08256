"""The kinds of groups that are found in networks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from torch import nn

import metatele.symmetry.groups  # noqa: F401 - defines them
from metatele.symmetry.action import AUTO, GroupAction
from metatele.symmetry.at_layer import AtHiddenLayer
from metatele.symmetry.base import Symmetry
from metatele.symmetry.discrete import DiscreteSymmetry
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.sequential import hidden_layers

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[(AUTO, *Symmetry.kinds)]
"""Which group of a network's layers to take: "auto", or the kind of one of the groups in `metatele.symmetry.groups`."""


def kinds() -> tuple[str, ...]:
    """All kinds that can be asked for."""
    return AUTO, *Symmetry.kinds


def find_symmetries(network: nn.Module, kind: Kind) -> list[Symmetry]:
    """The continuous groups of a kind that a network has; for "auto" the first that is found at each hidden layer."""
    found = _first_at_layers(network) if kind == AUTO else Symmetry.kinds[kind].find(network)
    return cast(list[Symmetry], list(found))


def find_discrete(network: nn.Module) -> list[DiscreteSymmetry]:
    """The discrete groups that a network has, layer by layer."""
    found = (group for at in hidden_layers(network) for group in _at(_automatic(DiscreteSymmetry.kinds), *at))
    return cast(list[DiscreteSymmetry], list(found))


def _first_at_layers(network: nn.Module) -> Iterator[GroupAction]:
    tried = _automatic(Symmetry.kinds)
    for at in hidden_layers(network):
        yield from list(_at(tried, *at))[:1]


def _automatic(kinds: Mapping[str, type[GroupAction]]) -> list[type[AtHiddenLayer]]:
    """The groups that are tried at a layer, in their order."""
    ranked = [(kind.automatic, kind) for kind in kinds.values() if kind.automatic is not None]
    return [cast(type[AtHiddenLayer], kind) for _, kind in sorted(ranked, key=lambda both: both[0])]


def _at(kinds: Sequence[type[AtHiddenLayer]], layer: HiddenLayer, between: list[nn.Module]) -> Iterator[GroupAction]:
    """The groups, of these kinds, that a layer has."""
    return filter(None, (kind.at(layer, between) for kind in kinds))
