"""What is known of activations: which symmetries each of torch's modules leaves to its layer.

Every property passes on to compositions, and the empty composition, the identity, has them all.
"""

from collections.abc import Sequence

from torch import nn

from metatele.task.stack import ELEMENTWISE, is_plain

RECTIFIERS = (nn.ReLU, nn.LeakyReLU)

# sigma(c z) = c sigma(z) for c > 0; dropout whatever it drops.
HOMOGENEOUS = (*RECTIFIERS, nn.Dropout)

# sigma(-z) = -sigma(z), whatever the module's settings (see `is_odd` for nn.Hardtanh).
ODD = (nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink)


def is_homogeneous(activations: Sequence[nn.Module]) -> bool:
    """Whether the activations, one after the other, are positively homogeneous."""
    return all(is_plain(a, *HOMOGENEOUS) for a in activations)


def is_elementwise(activations: Sequence[nn.Module]) -> bool:
    """Whether the activations, one after the other, do the same to every neuron."""
    return all(is_plain(a, *ELEMENTWISE) for a in activations)


def is_odd(activations: Sequence[nn.Module]) -> bool:
    """Whether the activations, one after the other, are odd."""
    return all(is_plain(a, *ODD) or _is_symmetric_hardtanh(a) for a in activations)


def _is_symmetric_hardtanh(a: nn.Module) -> bool:
    return isinstance(a, nn.Hardtanh) and is_plain(a, nn.Hardtanh) and a.min_val == -a.max_val


def bijective_slope(activations: Sequence[nn.Module]) -> float | None:
    """The slope of a single LeakyReLU that has an inverse, else None."""
    first = activations[0] if len(activations) == 1 else None
    if isinstance(first, nn.LeakyReLU) and is_plain(first, nn.LeakyReLU) and first.negative_slope > 0:
        return first.negative_slope
    return None
