"""Two classes in the plane that no line separates: moons and circles."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from metatele import TaskError

from .classification import Classification

Shape = Literal["moons", "circles"]


class Shapes(Classification):
    """Two interleaved half circles, or one circle in another, with noise; turned, stretched and moved at random.

    The moons have radius 1, the circles radii 1 and 1/2; both are centred. A task rotates them by any angle, stretches
    both axes by factors log-uniform in [1 / spread, spread] and moves them by a standard normal shift times `shift`.

    Args:
        shape: "moons" or "circles"; None for one of the two, drawn for each task.
        noise: standard deviation of the noise in each coordinate, before the axes are stretched.
        spread: largest factor of a stretch; 1 for none.
        shift: standard deviation of the shift.
        rows: data rows of one task.
        hidden, parts, batch_size, activation: see `Classification`.
    Source: scikit-learn's `make_moons` and `make_circles`.
    """

    def __init__(
        self,
        shape: Shape | None = None,
        noise: float = 0.2,
        spread: float = 2.0,
        shift: float = 0.5,
        rows: int = 200,
        hidden: list[int] = [16, 16],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(2, hidden, 2, parts, batch_size, activation)
        if shape is not None and shape not in get_args(Shape):
            raise TaskError(f"shape must be None or one of {', '.join(get_args(Shape))}, got {shape!r}")
        if rows < 1 or not noise >= 0 or not spread >= 1 or not shift >= 0:
            raise TaskError(
                f"need rows >= 1, noise >= 0, spread >= 1 and shift >= 0, got {(rows, noise, spread, shift)}"
            )
        self.shape, self.noise, self.spread, self.shift, self.rows = shape, noise, spread, shift, rows

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        coin, turn = torch.rand(2, generator=generator).tolist()
        place, labels = torch.rand(self.rows, generator=generator), torch.randint(2, (self.rows,), generator=generator)
        shape = self.shape or get_args(Shape)[int(2 * coin)]
        x = (moons if shape == "moons" else circles)(place, labels)
        x = x + self.noise * torch.randn(self.rows, 2, generator=generator)
        stretch = self.spread ** (2 * torch.rand(2, generator=generator) - 1)
        shift = self.shift * torch.randn(2, generator=generator)
        return x @ rotation(2 * math.pi * turn) * stretch + shift, labels


def moons(place: Tensor, labels: Tensor) -> Tensor:
    """Points [n, 2] on the half circle of their label, at places [n] from 0 to 1 along it."""
    upper = torch.stack([torch.cos(math.pi * place), torch.sin(math.pi * place)], 1)
    middle = torch.tensor([0.5, 0.25])  # of both
    return torch.where(labels.unsqueeze(1) == 0, upper - middle, middle - upper)


def circles(place: Tensor, labels: Tensor) -> Tensor:
    """Points [n, 2] on the circle of their label, at places [n] from 0 to 1 around it."""
    outer = torch.stack([torch.cos(2 * math.pi * place), torch.sin(2 * math.pi * place)], 1)
    return outer * torch.where(labels == 0, 1.0, 0.5).unsqueeze(1)


def rotation(angle: float) -> Tensor:
    """The matrix [2, 2] of a rotation."""
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
