"""Small networks of many kinds: what an optimizer for general use is meta-trained on."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily, TaskMixture

from .classification import Digits, GaussianMixture
from .mlp import SCALABLE, check_activation
from .regression import PaperRegression, TeacherStudent
from .ridges import Borders, Ridges

KINDS = ("teacher", "blobs", "digits", "paper", "ridges", "borders")
SCORED = (0.5, 0.5, 0.0)  # half of the rows are unseen ones


class Rescaled(TaskFamily):
    """A family whose networks begin with each parameter tensor multiplied by exp(spread x normal).

    Args:
        family: the family.
        spread: standard deviation of the logarithm.
    """

    def __init__(self, family: TaskFamily, spread: float = 0.7) -> None:
        if not spread >= 0:
            raise TaskError(f"spread must be at least 0, got {spread}")
        self.family, self.spread = family, spread
        self.parts, self.batch_size, self.shuffle = family.parts, family.batch_size, family.shuffle

    def network(self) -> nn.Module:
        return self.family.network()

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.family.sample(generator)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.family.loss(prediction, target)

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.family.losses(predictions, targets)

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.family.accuracy(prediction, target)

    @property
    def stacks_its_loss(self) -> bool:
        return self.family.stacks_its_loss

    @property
    def measures_accuracy(self) -> bool:
        return self.family.measures_accuracy

    def for_split(self, split: Any) -> TaskFamily:
        restricted = copy.copy(self)
        restricted.family = self.family.for_split(split)
        return restricted

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        self.family.initialise(network, generator)
        for p in network.parameters():
            p.data.mul_(math.exp(self.spread * float(torch.randn((), generator=generator))))


class Mixture(TaskMixture):
    """Regression and classification by MLPs of random sizes: what an optimizer for general use is meta-trained on.

    The kinds are `TeacherStudent`, `GaussianMixture`, `Digits`, `PaperRegression`, `Ridges` and `Borders`, with all
    their arguments drawn at random. Classification, and regression with noisy targets, is scored on unseen rows: scored
    on the rows that it trains on, an optimizer learns to blow logits up, and to fit the noise. So is a part of the
    regression without noise, or an optimizer that knows what it is scored on takes unseen rows for noisy ones.

    Args:
        weights: how often each of the kinds "teacher", "blobs", "digits", "paper", "ridges" and "borders" is drawn,
            relative to the others.
        inputs: the fewest and the most features, but of digits and of the paper's task; log-uniform between.
        widths: the narrowest and the widest hidden layer; widths between are drawn log-uniformly.
        depths: the smallest and the largest number of hidden layers.
        rows: the fewest and the most rows of a task.
        activations: of the hidden layers, by their names in `metatele.tasks.mlp`.
        batch_sizes: rows in a minibatch; None for the full batch.
        noisy: the fraction of the families that have noisy targets, or digits with noise and wrong labels.
        noises: the least and the most standard deviation of that noise, but of digits; log-uniform between.
        unseen: the fraction of the regression families without noise that are scored on unseen rows.
        rescaled: the fraction of the families whose tensors begin at other scales (see `Rescaled`).
    """

    def __init__(
        self,
        weights: Sequence[float] = (20, 15, 20, 5, 20, 20),
        inputs: tuple[int, int] = (2, 48),
        widths: tuple[int, int] = (6, 64),
        depths: tuple[int, int] = (1, 4),
        rows: tuple[int, int] = (32, 512),
        activations: Sequence[str] = ("relu", "relu", "relu", "leaky_relu", "tanh", "tanh", "silu", "gelu", "identity"),
        batch_sizes: Sequence[int | None] = (None, None, None, 8, 16, 32),
        noisy: float = 0.5,
        rescaled: float = 0.5,
        noises: tuple[float, float] = (0.05, 2.0),
        unseen: float = 0.5,
    ) -> None:
        if len(weights) != len(KINDS) or min(weights) < 0 or not sum(weights) > 0:
            raise TaskError(
                f"weights must be {len(KINDS)} numbers of at least 0, for {', '.join(KINDS)}; got {weights}"
            )
        for name, ends in (("inputs", inputs), ("widths", widths), ("depths", depths), ("rows", rows)):
            if len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
                raise TaskError(f"{name} must be the smallest and the largest, at least 1, got {tuple(ends)}")
        if rows[0] < 16:
            raise TaskError(f"rows must be at least 16, half of them to be scored on, got {tuple(rows)}")
        if not activations or not batch_sizes:
            raise TaskError(f"activations and batch_sizes must not be empty, got {activations} and {batch_sizes}")
        if not all(0 <= fraction <= 1 for fraction in (noisy, rescaled, unseen)):
            raise TaskError(f"noisy, rescaled and unseen must be fractions, got {noisy}, {rescaled} and {unseen}")
        if len(noises) != 2 or not 0 < noises[0] <= noises[1] < math.inf:
            raise TaskError(f"noises must be the least and the most, above 0, got {tuple(noises)}")
        self.weights, self.inputs, self.rows = list(weights), tuple(inputs), tuple(rows)
        self.widths, self.depths = tuple(widths), tuple(depths)
        self.activations, self.batch_sizes = [check_activation(a) for a in activations], list(batch_sizes)
        self.noisy, self.rescaled, self.noises, self.unseen = noisy, rescaled, tuple(noises), unseen

    def member(self, generator: torch.Generator) -> TaskFamily:
        draw = _Draw(generator)
        kind = KINDS[int(torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), 1, generator=generator))]
        family = getattr(self, f"_{kind}")(draw)
        return Rescaled(family) if draw.uniform() < self.rescaled else family

    def _teacher(self, draw: "_Draw") -> TaskFamily:
        activation, noisy = draw.one_of(self.activations), draw.uniform() < self.noisy
        return TeacherStudent(
            inputs=draw.log(*self.inputs),
            hidden=draw.log(*self.widths),
            outputs=draw.log(1, 8),
            depth=draw.whole(*self.depths),
            rows=draw.log(*self.rows),
            spread=draw.one_of((1, 1, 3, 10)) if activation in SCALABLE else 1,
            parts=self._parts(draw, noisy),
            batch_size=draw.one_of(self.batch_sizes),
            activation=activation,
            noise=draw.positive(*self.noises) if noisy else 0.0,
        )

    def _blobs(self, draw: "_Draw") -> TaskFamily:
        return GaussianMixture(
            dimensions=draw.log(*self.inputs),
            classes=draw.log(2, 6),
            blobs=draw.log(1, 4),
            noise=draw.positive(0.2, 2.0),
            rows=draw.log(*self.rows),
            parts=SCORED,
            **self._network(draw),
        )

    def _digits(self, draw: "_Draw") -> TaskFamily:
        noisy = draw.uniform() < self.noisy
        return Digits(
            classes=draw.log(3, 8),
            rows=draw.log(*self.rows),
            parts=SCORED,
            noise=draw.between(0, 0.5) if noisy else 0.0,
            flipped=draw.between(0, 0.2) if noisy else 0.0,
            **self._network(draw),
        )

    def _ridges(self, draw: "_Draw") -> TaskFamily:
        noisy = draw.uniform() < self.noisy
        return Ridges(
            **self._function(draw),
            noise=draw.positive(*self.noises) if noisy else 0.0,
            parts=self._parts(draw, noisy),
        )

    def _borders(self, draw: "_Draw") -> TaskFamily:
        noise = draw.positive(*self.noises) if draw.uniform() < self.noisy else 0.0
        return Borders(**self._function(draw), classes=draw.log(2, 5), noise=noise, parts=SCORED)

    def _parts(self, draw: "_Draw", noisy: bool) -> tuple[float, float, float]:
        """The parts of a regression family; nothing is drawn where there is no choice."""
        return SCORED if noisy or (self.unseen > 0 and draw.uniform() < self.unseen) else (1.0, 0.0, 0.0)

    def _function(self, draw: "_Draw") -> dict[str, Any]:
        """What `Ridges` and `Borders` have in common."""
        features = draw.log(*self.inputs)
        return {
            "features": features,
            "relevant": draw.log(1, features),
            "ridges": draw.log(1, 8),
            "steepness": draw.positive(0.5, 5.0),
            "condition": draw.positive(1.0, 30.0),
            "rows": draw.log(*self.rows),
            **self._network(draw),
        }

    def _network(self, draw: "_Draw") -> dict[str, Any]:
        """The network, and the rows in its minibatches."""
        return {
            "hidden": [draw.log(*self.widths) for _ in range(draw.whole(*self.depths))],
            "batch_size": draw.one_of(self.batch_sizes),
            "activation": draw.one_of(self.activations),
        }

    def _paper(self, draw: "_Draw") -> TaskFamily:
        return PaperRegression(size=draw.log(6, 14))


class _Draw:
    """Random choices from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.uniform()

    def positive(self, low: float, high: float) -> float:
        """A number, log-uniform."""
        return math.exp(self.between(math.log(low), math.log(high)))

    def log(self, low: int, high: int) -> int:
        """A whole number, log-uniform."""
        return round(self.positive(low, high))

    def whole(self, low: int, high: int) -> int:
        """A whole number, each as likely."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.whole(0, len(items) - 1)]
