"""Regression on functions with noise: sums of sines, scikit-learn's Friedman functions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily

from .mlp import check_activation, mlp


class Regression(TaskFamily):
    """What the families of functions share: an MLP with one output, squared loss, noise on the targets, and the parts.

    Args:
        inputs: number of features.
        hidden: widths of the hidden layers.
        noise: standard deviation of the targets' noise; that of the targets without it is about 1.
        rows: data rows of one task.
        parts: fractions of the rows that are inner, meta and test rows.
        batch_size: rows in a minibatch, or None for the full batch.
        activation: between the layers, by its name in `metatele.tasks.mlp`: "relu", "tanh", ...
    """

    shuffle = False  # the rows are drawn in random order

    def __init__(
        self,
        inputs: int,
        hidden: list[int],
        noise: float,
        rows: int,
        parts: tuple[float, float, float],
        batch_size: int | None,
        activation: str = "relu",
    ) -> None:
        if min([inputs, rows, *hidden]) < 1 or not noise >= 0:
            raise TaskError(
                f"need inputs, rows and widths of at least 1 and noise >= 0, got {(inputs, rows, hidden, noise)}"
            )
        self.widths, self.noise, self.rows = [inputs, *hidden, 1], noise, rows
        self.parts, self.batch_size, self.activation = parts, batch_size, check_activation(activation)

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def noisy(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Targets [n, 1] of values [n], with noise."""
        return (y + self.noise * torch.randn(y.shape, generator=generator)).unsqueeze(1)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean((1, 2))


class Sines(Regression):
    """Sums of sines along random directions; a task draws amplitudes, directions, frequencies and phases.

    y = sqrt(2) sum_k a_k sin(f_k <u_k, x> + p_k) with x uniform on [-1, 1] in every feature, a of length 1 and unit
    vectors u in a random direction, f log-uniform in [1, 5], p uniform. With one feature and one sine this is the task
    of Finn et al. 2017, arXiv:1703.03400, but for its amplitude and range.

    Args:
        features: number of features.
        sines: how many are added up.
        hidden, noise, rows, parts, batch_size, activation: see `Regression`.
    """

    def __init__(
        self,
        features: int = 1,
        sines: int = 1,
        hidden: list[int] = [40, 40],  # noqa: B006 - read only
        noise: float = 0.1,
        rows: int = 100,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(features, hidden, noise, rows, parts, batch_size, activation)
        if sines < 1:
            raise TaskError(f"sines must be at least 1, got {sines}")
        self.features, self.sines = features, sines

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = 2 * torch.rand(self.rows, self.features, generator=generator) - 1
        directions = nn.functional.normalize(torch.randn(self.sines, self.features, generator=generator))
        amplitudes = nn.functional.normalize(torch.randn(self.sines, generator=generator), dim=0)
        frequencies, phases = torch.rand(2, self.sines, generator=generator)
        waves = torch.sin(x @ directions.T * 5**frequencies + 2 * math.pi * phases)
        return x, self.noisy(math.sqrt(2) * waves @ amplitudes, generator)


class Function(NamedTuple):
    """One of Friedman's functions.

    Attributes:
        value: of inputs [n, >= features].
        low, high: the ranges of its inputs, which are uniform.
        mean, deviation: of its values.
    """

    value: Callable[[Tensor], Tensor]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: float
    deviation: float


def friedman_1(x: Tensor) -> Tensor:
    """Five features that matter: a product inside a sine, a square, two lines."""
    return 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


def reactance(x: Tensor) -> Tensor:
    """Of a coil and a capacitor in series: what functions 2 and 3 have in common."""
    return x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])


def friedman_2(x: Tensor) -> Tensor:
    """The impedance of an alternating current's circuit."""
    return (x[:, 0] ** 2 + reactance(x) ** 2).sqrt()


def friedman_3(x: Tensor) -> Tensor:
    """Its phase."""
    return torch.atan(reactance(x) / x[:, 0])


CIRCUIT = (0.0, 40 * math.pi, 0.0, 1.0), (100.0, 560 * math.pi, 1.0, 11.0)
FUNCTIONS = {
    1: Function(friedman_1, (0.0,) * 5, (1.0,) * 5, 14.4158, 4.8814),
    2: Function(friedman_2, *CIRCUIT, 479.57, 378.95),
    3: Function(friedman_3, *CIRCUIT, 1.32383, 0.31659),
}


class Friedman(Regression):
    """Friedman's three functions of scikit-learn's `make_friedman`, of uniform inputs; targets are standardised.

    A task draws rows; it puts the features in random order, with random signs, and multiplies each, after it was
    standardised, by a factor log-uniform in [1 / spread, spread]. Means and deviations are those of the distribution.

    Args:
        function: 1, 2 or 3.
        features: number of features, of which 5 matter to function 1, and 4 to the others.
        spread: largest factor of the features' scales; 1 for none.
        hidden, noise, rows, parts, batch_size, activation: see `Regression`.
    Source: Friedman 1991, Multivariate adaptive regression splines.
    """

    def __init__(
        self,
        function: int = 1,
        features: int = 10,
        spread: float = 1.0,
        hidden: list[int] = [32],  # noqa: B006 - read only
        noise: float = 0.1,
        rows: int = 200,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(features, hidden, noise, rows, parts, batch_size, activation)
        if function not in FUNCTIONS:
            raise TaskError(f"function must be one of {', '.join(map(str, FUNCTIONS))}, got {function!r}")
        if features < (least := len(FUNCTIONS[function].low)) or not spread >= 1:
            raise TaskError(f"need features >= {least} and spread >= 1, got {(features, spread)}")
        self.function, self.features, self.spread = function, features, spread

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        value, low, high, mean, deviation = FUNCTIONS[self.function]
        uniform = torch.rand(self.rows, self.features, generator=generator)
        begin, end = torch.tensor(low), torch.tensor(high)
        y = (value(begin + (end - begin) * uniform[:, : len(low)]) - mean) / deviation
        order = torch.randperm(self.features, generator=generator)
        signs, powers = 2 * torch.rand(2, self.features, generator=generator) - 1
        x = math.sqrt(12) * (uniform - 0.5) * signs.sign() * self.spread**powers
        return x[:, order], self.noisy(y, generator)
