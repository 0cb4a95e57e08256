"""Truncated backpropagation through time."""

from collections.abc import Callable

from torch import Tensor

from metatele.meta_training.estimators.base import Estimator
from metatele.meta_training.flight import Flight
from metatele.meta_training.meta_loss import meta_loss
from metatele.meta_training.settings import MetaSettings, UnrollSettings
from metatele.optimizer import InnerOptimizer
from metatele.unroll import Engine, Window


class Backpropagation(Estimator):
    """The gradient of a window's meta-loss with respect to the learned weights, for where the window begins: cheap and
    exact for the window, and blind to all that the weights did before it (truncation)."""

    def __init__(
        self, inner: InnerOptimizer, unroll: UnrollSettings, meta: MetaSettings, make: Callable[[Flight], Engine]
    ) -> None:
        self.inner = inner
        self.unroll, self.meta, self.make, self.units = unroll, meta, make, meta.tasks

    def engine(self, flight: Flight) -> Engine:
        return self.make(flight)

    def gradient(self, flight: Flight) -> float | None:
        length, weight = flight.length, flight.weight(self.meta.loss)
        if not flight.counts_at(flight.position.step + length, self.meta.loss):
            flight.position = flight.play.window(flight.position, length, differentiable=False).end
            return None

        def score(window: Window) -> Tensor:
            return weight * meta_loss(window, self.meta, flight.horizon)

        scored = flight.play.gradient(flight.position, length, score, self.unroll.checkpoint)
        flight.position = scored.window.end
        return scored.loss / weight
