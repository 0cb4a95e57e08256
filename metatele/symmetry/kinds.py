"""The kinds of continuous groups: which one a layer has for the activations that stand at it."""

from collections.abc import Callable, Iterator
from typing import Literal

from torch import nn

from metatele.symmetry.activations import bijective_slope, is_elementwise, is_homogeneous, is_plain
from metatele.symmetry.base import Symmetry
from metatele.symmetry.bijective import BijectiveGL
from metatele.symmetry.general_linear import GeneralLinear
from metatele.symmetry.layers import HiddenLayer
from metatele.symmetry.logit_translation import LogitTranslation
from metatele.symmetry.positive_scaling import PositiveScaling
from metatele.symmetry.pseudo_inverse import PseudoInverseGL
from metatele.symmetry.sequential import hidden_layers, last_layer

Kind = Literal["auto", "scaling", "general_linear", "data_dependent", "pseudo_inverse", "softmax"]
Activations = list[nn.Module]


def _scaling(layer: HiddenLayer, between: Activations) -> Symmetry | None:
    return PositiveScaling(layer) if is_homogeneous(between) else None


def _general_linear(layer: HiddenLayer, between: Activations) -> Symmetry | None:
    return None if between else GeneralLinear(layer)


def _auto(layer: HiddenLayer, between: Activations) -> Symmetry | None:
    return _general_linear(layer, between) or _scaling(layer, between)


def _data_dependent(layer: HiddenLayer, between: Activations) -> Symmetry | None:
    slope = bijective_slope(between)
    return _general_linear(layer, between) if slope is None else BijectiveGL(layer, slope)


def _pseudo_inverse(layer: HiddenLayer, between: Activations) -> Symmetry | None:
    if not between:
        return GeneralLinear(layer)  # the same on the data, and exact on any
    return PseudoInverseGL(layer, nn.Sequential(*between)) if is_elementwise(between) else None


def _at_hidden_layers(
    of_layer: Callable[[HiddenLayer, Activations], Symmetry | None],
) -> Callable[[nn.Module], Iterator[Symmetry]]:
    return lambda network: filter(None, (of_layer(*found) for found in hidden_layers(network)))


def _softmax(network: nn.Module) -> Iterator[Symmetry]:
    last = last_layer(network)
    if last is not None and all(is_plain(m, nn.Softmax, nn.LogSoftmax) and m.dim != 0 for m in last.behind):
        yield LogitTranslation(last.weight, last.bias, last.width)


FINDERS: dict[Kind, Callable[[nn.Module], Iterator[Symmetry]]] = {
    "auto": _at_hidden_layers(_auto),
    "scaling": _at_hidden_layers(_scaling),
    "general_linear": _at_hidden_layers(_general_linear),
    "data_dependent": _at_hidden_layers(_data_dependent),
    "pseudo_inverse": _at_hidden_layers(_pseudo_inverse),
    "softmax": _softmax,
}
