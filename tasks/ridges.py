"""Curved functions of few or many features, as targets or as borders between classes."""

import math

import torch
from torch import Tensor

from metatele import TaskError

from .classification import Classification
from .functions import Regression


def check_ridges(features: int, relevant: int | None, ridges: int, steepness: float, condition: float) -> int:
    """How many features matter. Raises: TaskError for an argument out of range."""
    relevant = features if relevant is None else relevant
    if not 1 <= relevant <= features or ridges < 1 or not steepness > 0 or not condition >= 1:
        raise TaskError(
            "need 1 <= relevant <= features, ridges >= 1, steepness > 0 and condition >= 1, got "
            f"{(relevant, features, ridges, steepness, condition)}"
        )
    return relevant


def correlated(rows: int, features: int, condition: float, generator: torch.Generator) -> Tensor:
    """Normal inputs [rows, features] of variance 1, whose covariance, before they are scaled to that, has a random
    basis and eigenvalues from 1 to condition ** 2, evenly spaced by their logarithms."""
    x = torch.randn(rows, features, generator=generator)
    if condition == 1:
        return x
    basis = torch.linalg.qr(torch.randn(features, features, generator=generator)).Q
    axes = basis * torch.logspace(0, math.log10(condition), features)
    return x @ (axes / axes.norm(dim=1, keepdim=True)).T


def ridge_sums(
    x: Tensor, outputs: int, relevant: int, ridges: int, steepness: float, generator: torch.Generator
) -> Tensor:
    """Values [n, outputs] of random functions sum_k a_k tanh(s (<u_k, x> - b_k)) of inputs [n, features], each of mean
    0 and variance 1 on these rows: unit vectors u in a random direction of the same random features, a and b standard
    normal, b in units of the inputs' deviation along u."""
    chosen = x[:, torch.randperm(x.shape[1], generator=generator)[:relevant]]
    directions = torch.nn.functional.normalize(torch.randn(relevant, outputs * ridges, generator=generator), dim=0)
    along = chosen @ directions
    places, heights = torch.randn(2, outputs * ridges, generator=generator)
    deviation = along.std(0, correction=0).clamp_min(1e-6)
    bends = torch.tanh(steepness * (along / deviation - places)) * heights
    y = bends.unflatten(1, (outputs, ridges)).sum(2)
    return (y - y.mean(0)) / y.std(0, correction=0).clamp_min(1e-6)


class Ridges(Regression):
    """Regression on a sum of ridge functions of correlated features, some of which do not matter.

    A task draws the features that matter, directions, places and heights of its ridges (see `ridge_sums`), and the
    correlation of its features (see `correlated`).

    Args:
        features: number of features.
        relevant: how many of them matter; all if None.
        ridges: how many are added up.
        steepness: of a ridge; about 1 for a line that bends, 10 for a step.
        condition: the ratio of the largest and the smallest deviation of the inputs along their principal axes, before
            each feature is scaled to variance 1; 1 for independent features.
        hidden, noise, rows, parts, batch_size, activation: see `Regression`.
    Source: Friedman and Stuetzle 1981, Projection pursuit regression.
    """

    def __init__(
        self,
        features: int = 4,
        relevant: int | None = None,
        ridges: int = 4,
        steepness: float = 2.0,
        condition: float = 1.0,
        hidden: list[int] = [16, 16],  # noqa: B006 - read only
        noise: float = 0.1,
        rows: int = 200,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(features, hidden, noise, rows, parts, batch_size, activation)
        self.relevant = check_ridges(features, relevant, ridges, steepness, condition)
        self.ridges, self.steepness, self.condition = ridges, steepness, condition

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = correlated(self.rows, self.widths[0], self.condition, generator)
        y = ridge_sums(x, 1, self.relevant, self.ridges, self.steepness, generator)
        return x, self.noisy(y[:, 0], generator)


class Borders(Classification):
    """Classification where the border between classes is curved: each has a sum of ridge functions, and a row is of the
    class whose sum, with normal noise, is largest.

    Args:
        noise: standard deviation of the noise; that of the sums is 1.
        classes: number of classes.
        features, relevant, ridges, steepness, condition: see `Ridges`.
        rows: data rows of one task.
        hidden, parts, batch_size, activation: see `Classification`.
    """

    def __init__(
        self,
        features: int = 4,
        classes: int = 2,
        relevant: int | None = None,
        ridges: int = 4,
        steepness: float = 2.0,
        condition: float = 1.0,
        noise: float = 0.1,
        rows: int = 200,
        hidden: list[int] = [16, 16],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(features, hidden, classes, parts, batch_size, activation)
        self.relevant = check_ridges(features, relevant, ridges, steepness, condition)
        if rows < 1 or not noise >= 0:
            raise TaskError(f"need rows >= 1 and noise >= 0, got {(rows, noise)}")
        self.ridges, self.steepness, self.condition, self.noise, self.rows = ridges, steepness, condition, noise, rows

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = correlated(self.rows, self.widths[0], self.condition, generator)
        sums = ridge_sums(x, self.classes, self.relevant, self.ridges, self.steepness, generator)
        noise = torch.randn(sums.shape, generator=generator)
        return x, (sums + self.noise * noise).argmax(1)
