"""The network that every coordinate's features go through."""

import torch
from torch import Tensor, nn

from metatele.support.seeding import seeded
from metatele.update.coordinate_features import FACTORS, WHOLE, Features, normaliser


class FeatureNetwork(nn.Module):
    """Two hidden layers of ReLU units, from a coordinate's features to the direction and the magnitude of its step.

    Each feature is divided by its root mean square across the tensor. What is the same for a row, a column or the whole
    tensor goes through the first layer once, not once a coordinate.

    Args:
        hidden: units of a layer.
        shared: how many numbers all coordinates of all tensors see besides.
    """

    def __init__(self, hidden: int, shared: int = 0) -> None:
        super().__init__()
        self.hidden, self.shared = hidden, shared
        self.first = nn.Linear(WHOLE + 2 * FACTORS + shared, hidden)
        self.middle, self.head = nn.Linear(hidden, hidden), nn.Linear(hidden, 2)
        with seeded(0):  # equal sizes give equal fresh weights; meta-training draws its own from its seed
            self.initialise()

    def initialise(self) -> None:
        """Draw all weights anew from torch's global generator, so that layers keep the size of their inputs."""
        for layer in (self.first, self.middle, self.head):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Features, shared: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features and the numbers that all share, [shared], to directions and magnitudes, each [B, a, b]."""
        shape = x.whole.shape[2:]
        *weights, common = self.first.weight.split([WHOLE, FACTORS, FACTORS, self.shared], 1)
        bias = self.first.bias if shared is None else self.first.bias + common @ shared
        whole, rows, columns = (_apart(w, part) for w, part in zip(weights, x, strict=True))
        units = (whole + (rows + bias.reshape(-1, 1, 1)) + columns).relu().flatten(2)
        units = _affine(self.middle, units).relu()
        direction, magnitude = _affine(self.head, units).unflatten(2, shape).unbind(1)
        return direction, magnitude


def _apart(weight: Tensor, x: Tensor) -> Tensor:
    """The sums [B, hidden, ...] of normalised features [B, R, ...], by weights [hidden, R]."""
    scaled = weight * normaliser(x).unsqueeze(1)
    return torch.bmm(scaled, x.flatten(2)).reshape(*scaled.shape[:2], *x.shape[2:])


def _affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer on [B, inputs, n]."""
    return torch.baddbmm(layer.bias.unsqueeze(1), layer.weight.expand(len(x), -1, -1), x)
