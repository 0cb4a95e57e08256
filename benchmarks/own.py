"""metatele itself, as contestants: one iteration of meta-training, or one trajectory without a meta-gradient."""

from collections.abc import Callable

import torch

from benchmarks.workloads import Workload
from metatele import ValidationSettings
from metatele.meta_training.trainer import DTYPE, MetaTrainer


class OwnTraining:
    """One call is one iteration of `MetaTrainer`, on the workload's own meta-batch, by the workload's engine.

    Attributes:
        trainer: what trains.
    """

    def __init__(
        self,
        workload: Workload,
        tasks: int,
        dtype: torch.dtype = DTYPE,
        device: str = "cpu",
    ) -> None:
        inner, batch = workload.problem(tasks)
        settings = (workload.unroll, workload.meta(tasks), ValidationSettings(1, 1))
        self.trainer = MetaTrainer(inner, [workload.family], *settings, device=device)
        inner.to(dtype)  # the trainer has made it float32
        self.trainer.enter()
        self.batch = batch.to(dtype, device)

    def __call__(self) -> None:
        flight = self.trainer.begin(0, self.batch)
        while not flight.done:
            self.trainer.advance(flight)


def prepare(workload: Workload, tasks: int) -> OwnTraining:
    """Meta-training of this workload by metatele."""
    return OwnTraining(workload, tasks)


def prepare_evaluation(workload: Workload, tasks: int) -> Callable[[], None]:
    """The same trajectory as an evaluation plays it."""
    from metatele.unroll import engine_maker  # not at the top: another checkout may not have it

    inner, batch = workload.problem(tasks)
    steps, make = workload.unroll.longest, engine_maker(workload.unroll.engine)

    def run() -> None:
        play = make(inner, batch, steps, False)
        play.window(play.start(), steps, differentiable=False)

    return run
