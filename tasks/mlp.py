"""The multi-layer perceptron that the shipped families train, with an activation of the user's choice."""

import itertools
from collections.abc import Callable, Sequence

from torch import nn

from metatele import TaskError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),  # the slope of arXiv:2305.13404; it has an inverse, too
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
SCALABLE = ("relu", "leaky_relu", "identity")  # sigma(c z) = c sigma(z) for c > 0


def check_activation(name: object) -> str:
    """Raises: TaskError for an unknown activation."""
    if not (isinstance(name, str) and name in ACTIVATIONS):
        raise TaskError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return name


def mlp(widths: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Linear layers of these widths, inputs and outputs included, with the activation between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
