"""metatele itself, as a contestant: one iteration of meta-training, or one trajectory without a meta-gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.workloads import Workload
from metatele import ValidationSettings
from metatele.meta_training.trainer import DTYPE, MetaTrainer
from metatele.unroll import Unroll


class OwnTraining:
    """One call is one iteration of `MetaTrainer`, on the workload's own meta-batch.

    Attributes:
        trainer: what trains.
    """

    def __init__(
        self,
        workload: Workload,
        tasks: int,
        engine: str | None = None,
        dtype: torch.dtype = DTYPE,
        device: str = "cpu",
    ) -> None:
        inner, batch = workload.problem(tasks)
        unroll = replace(workload.unroll, **_engine(engine))
        self.trainer = MetaTrainer(
            inner, [workload.family], unroll, workload.meta(tasks), ValidationSettings(1, 1), device=device
        )
        inner.to(dtype)  # the trainer has made it float32
        self.trainer.make_adam()
        self.batch = batch.to(dtype, device)

    def __call__(self) -> None:
        self.trainer._iterate(self.batch)


def prepare(workload: Workload, tasks: int, engine: str | None = None) -> OwnTraining:
    """Meta-training of this workload by metatele."""
    return OwnTraining(workload, tasks, engine)


def prepare_evaluation(workload: Workload, tasks: int, engine: str | None = None) -> Callable[[], None]:
    """The same trajectory as an evaluation plays it."""
    inner, batch = workload.problem(tasks)
    steps = workload.unroll.steps

    def run() -> None:
        play = Unroll(inner, batch, steps, **_engine(engine))
        play.window(play.start(), steps, differentiable=False)

    return run


def _engine(engine: str | None) -> dict[str, Any]:
    """The setting that says which engine unrolls; none for versions that know only one."""
    return {} if engine is None else {"engine": engine}
