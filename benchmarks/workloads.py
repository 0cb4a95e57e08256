"""What is timed: meta-training on a fixed meta-batch, one trajectory of 100 steps with a meta-update after each window.

The same numbers go into every contestant: initial network weights, data, minibatches and learned weights are
those of `problem`, so that contestants can be compared by what they compute as well as by their time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from metatele.tasks import Digits, PaperRegression

from metatele import (
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    NeuronTeleport,
    TaskFamily,
    TensorUpdate,
    UnrollSettings,
    sample_meta_batch,
)
from metatele.meta_training.trainer import DTYPE

SEED = 0


@dataclass(frozen=True)
class Workload:
    """One kind of meta-training.

    Attributes:
        name: what tables call it.
        inner: makes the inner optimizer, not yet bound or initialised.
        family: where the tasks come from.
        unroll: length of trajectory and window, first or second order, engine.
    """

    name: str
    inner: Callable[[], InnerOptimizer]
    family: TaskFamily
    unroll: UnrollSettings

    def ordered(self, second: bool) -> "Workload":
        """The same workload, first or second order."""
        return replace(self, unroll=replace(self.unroll, second_order=second))

    def by(self, engine: str) -> "Workload":
        """The same workload with an inner loop that this engine plays."""
        setting: dict[str, Any] = {"engine": engine}
        return replace(self, unroll=replace(self.unroll, **setting))

    def meta(self, tasks: int) -> MetaSettings:
        """Log-loss, Adam with a constant step size, clipping at 1: one iteration is one trajectory."""
        return MetaSettings(iterations=10**6, tasks=tasks, schedule="constant")

    def problem(self, tasks: int) -> tuple[InnerOptimizer, MetaBatch]:
        """The inner optimizer with its fresh weights, bound to the meta-batch, in float32 on the CPU."""
        batch = sample_meta_batch(self.family, "train", range(tasks), SEED).to(DTYPE)
        inner = self.inner()
        inner.bind(batch.network, batch.params)
        inner.initialise(SEED)
        return inner, batch


def _dense() -> InnerOptimizer:
    return InnerOptimizer(DenseUpdate(), DenseTeleport(symmetry="data_dependent"), "after")


def _size_free() -> InnerOptimizer:
    return InnerOptimizer(CoordinateUpdate(), NeuronTeleport())


def _tensor() -> InnerOptimizer:
    return InnerOptimizer(TensorUpdate())


DIGITS = Digits(classes=10, rows=256, parts=(0.5, 0.5, 0.0), batch_size=64)  # an MLP 64-32-10, batches of 64
WORKLOADS = {
    # The paper's LSTM(update,tele): 20 x 20, hidden size 300, windows of 10.
    "dense": Workload("dense", _dense, PaperRegression(), UnrollSettings(100, 10, False)),
    "size-free": Workload("size-free", _size_free, DIGITS, UnrollSettings(100, 10, False)),
    # As in configs/general.yaml: no teleport.
    "tensor": Workload("tensor", _tensor, DIGITS, UnrollSettings(100, 10, False)),
}
