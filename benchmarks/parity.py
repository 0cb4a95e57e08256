"""Noisy parities as tasks: two classes that no small set of lines separates."""

import torch
from metatele.tasks.classification import Classification
from torch import Tensor

from metatele import TaskError


class Parity(Classification):
    """Whether an odd number of some features is above zero, from features near -1 and 1; each task draws which ones.

    Args:
        bits: how many features count.
        features: how many there are.
        noise: standard deviation of a feature around -1 or 1.
        flipped: fraction of the rows that have the other label.
        rows: data rows of one task.
        hidden, parts, batch_size, activation: see `metatele.tasks.classification.Classification`.
    """

    def __init__(
        self,
        bits: int = 2,
        features: int = 6,
        noise: float = 0.3,
        flipped: float = 0.05,
        rows: int = 400,
        hidden: list[int] = [32],  # noqa: B006 - read only
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(features, hidden, 2, parts, batch_size, activation)
        if not 1 <= bits <= features or not noise >= 0 or not 0 <= flipped <= 1 or rows < 1:
            raise TaskError(
                f"need 1 <= bits <= features, noise >= 0, flipped in [0, 1] and rows >= 1, "
                f"got {(bits, features, noise, flipped, rows)}"
            )
        self.bits, self.features, self.noise, self.flipped, self.rows = bits, features, noise, flipped, rows

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        signs = torch.randint(2, (self.rows, self.features), generator=generator)
        chosen = torch.randperm(self.features, generator=generator)[: self.bits]
        wrong = torch.rand(self.rows, generator=generator) < self.flipped
        labels = (signs[:, chosen].sum(1) + wrong) % 2
        x = 2.0 * signs - 1 + self.noise * torch.randn(self.rows, self.features, generator=generator)
        return x, labels
