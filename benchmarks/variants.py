"""Workloads of other sizes: what the scaling benchmark varies, and small ones for tests."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

from metatele.tasks import Digits
from torch import Tensor

from benchmarks.workloads import Workload
from metatele import (
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    InnerOptimizer,
    NeuronTeleport,
    TensorUpdate,
)

CHANGES = ("steps", "window", "hidden", "width", "depth")


def varied(workload: Workload, changes: Mapping[str, int]) -> Workload:
    """The workload with other sizes.

    Args:
        workload: the one to change.
        changes: any of "steps" (of a trajectory), "window", "hidden" (of the LSTMs), and, on digits only,
            "width" and "depth" (hidden layers) of the network that is trained.
    Raises: ValueError for any other name.
    """
    for name in changes:
        if name not in CHANGES or (name in ("width", "depth") and not isinstance(workload.family, Digits)):
            raise ValueError(f"the workload {workload.name} has no {name!r} to change")
    steps, window = (changes.get(name, getattr(workload.unroll, name)) for name in ("steps", "window"))
    workload = replace(workload, unroll=replace(workload.unroll, steps=steps, window=window))
    if "hidden" in changes:
        workload = replace(workload, inner=_inner(workload.name, changes["hidden"]))
    if isinstance(workload.family, Digits):
        family = copy.copy(workload.family)
        pixels, *hidden, classes = family.widths
        width, depth = changes.get("width", hidden[0]), changes.get("depth", len(hidden))
        family.widths = [pixels, *[width] * depth, classes]
        workload = replace(workload, family=family)
    return workload


def lstm_weights(inner: InnerOptimizer) -> list[dict[str, Tensor]]:
    """The weights of the update's LSTM and, if it has one, of the teleport's, by their names inside it."""
    return [
        {name.split("core.", 1)[1]: weight for name, weight in part.state_dict().items()}
        for part in (inner.update, inner.teleport)
        if part.learned
    ]


def _inner(name: str, hidden: int) -> Callable[[], InnerOptimizer]:
    """What makes the workload's inner optimizer with LSTMs of this size."""
    if name == "dense":
        return lambda: InnerOptimizer(
            DenseUpdate(hidden=hidden), DenseTeleport(hidden=hidden, symmetry="data_dependent"), "after"
        )
    if name == "tensor":
        return lambda: InnerOptimizer(TensorUpdate(hidden=hidden))
    return lambda: InnerOptimizer(CoordinateUpdate(hidden=hidden), NeuronTeleport(hidden=hidden))
