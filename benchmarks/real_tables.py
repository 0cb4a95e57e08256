"""scikit-learn's bundled tables as tasks: each draws a random half of the rows to train on."""

from functools import cache
from typing import Literal, get_args

import torch
from metatele.tasks.mlp import check_activation, mlp
from torch import Tensor, nn

from metatele import TaskError, TaskFamily

Name = Literal["wine", "breast_cancer", "diabetes", "iris"]


class RealTable(TaskFamily):
    """One table; features, and targets that are numbers, have mean 0 and variance 1 over all of its rows.

    Args:
        name: of the table.
        hidden, parts, batch_size, activation: see `metatele.tasks.Digits`.
    """

    def __init__(
        self,
        name: Name,
        hidden: list[int],
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        if name not in get_args(Name):
            raise TaskError(f"name must be one of {', '.join(get_args(Name))}, got {name!r}")
        self.x, self.y = table(name)
        self.classes = 0 if self.y.is_floating_point() else int(self.y.max()) + 1
        self.widths = [self.x.shape[1], *hidden, self.classes or 1]
        self.parts, self.batch_size, self.activation = parts, batch_size, check_activation(activation)

    shuffle = False  # the rows are drawn in random order

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(self.x), generator=generator)
        return self.x[order], self.y[order]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        if self.classes:
            return nn.functional.cross_entropy(prediction, target)
        return (prediction - target).square().mean()


@cache
def table(name: Name) -> tuple[Tensor, Tensor]:
    """Features [n, features], and targets, [n] whole numbers or [n, 1] others."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    x = _standardised(torch.tensor(data.data, dtype=torch.float64))
    if name == "diabetes":
        return x, _standardised(torch.tensor(data.target, dtype=torch.float64).unsqueeze(1))
    return x, torch.tensor(data.target, dtype=torch.int64)


def _standardised(x: Tensor) -> Tensor:
    return ((x - x.mean(0)) / x.std(0)).float()
