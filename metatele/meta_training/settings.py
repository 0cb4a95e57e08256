"""The settings of meta-training, checked when they are made."""

from dataclasses import dataclass
from typing import Literal, get_args

from metatele.errors import ConfigError

MetaLossName = Literal["log", "sum", "final"]
Schedule = Literal["constant", "cosine"]


def _at_least(lowest: float, **values: float) -> None:
    for name, value in values.items():
        if not lowest <= value < float("inf"):
            raise ConfigError(f"{name} must be at least {lowest} and finite, got {value}")


def _above_zero(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be above 0 and finite, got {value}")


@dataclass(frozen=True)
class UnrollSettings:
    """How trajectories are unrolled.

    Args:
        steps: length of a trajectory.
        window: steps that a meta-gradient reaches back over; the learned weights are updated after
            each window, and the inner loop goes on from where it is (truncation).
        second_order: whether the meta-gradient passes through the inner gradients.
    """

    steps: int = 100
    window: int = 20
    second_order: bool = True

    def __post_init__(self) -> None:
        _at_least(1, **{"unroll.steps": self.steps, "unroll.window": self.window})
        if self.window > self.steps:
            raise ConfigError(
                f"unroll.window must not be longer than the trajectory, got window={self.window}, steps={self.steps}"
            )


@dataclass(frozen=True)
class MetaSettings:
    """How the learned weights are meta-trained.

    Args:
        iterations: number of meta-batches; each is played for one trajectory.
        tasks: tasks in a meta-batch.
        loss: what a window is scored by: "log", the mean of log losses over its steps; "sum", the
            sum of its losses; "final", its last loss.
        normalise: divide each task's losses by its initial loss, so that tasks of different scale
            weigh alike ("log" is not changed by it).
        lr: Adam's step size for the update's weights.
        teleport_lr: likewise for the teleport's; the same as lr when None.
        clip: largest norm of the meta-gradient, or None for no clipping.
        schedule: "constant", or "cosine" from lr to 0 over the iterations.
    """

    iterations: int = 200
    tasks: int = 16
    loss: MetaLossName = "log"
    normalise: bool = True
    lr: float = 1e-3
    teleport_lr: float | None = None
    clip: float | None = 1.0
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        _at_least(1, **{"meta.iterations": self.iterations, "meta.tasks": self.tasks})
        _above_zero(**{"meta.lr": self.lr, "meta.teleport_lr": self.teleport_lr, "meta.clip": self.clip})
        for name, value, allowed in (("loss", self.loss, MetaLossName), ("schedule", self.schedule, Schedule)):
            if value not in get_args(allowed):
                raise ConfigError(f"meta.{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")


@dataclass(frozen=True)
class ValidationSettings:
    """How meta-training is validated, on tasks that are never trained on.

    Args:
        tasks: held-out tasks of the validation split (of each family).
        every: iterations between validations and checkpoints.
    """

    tasks: int = 32
    every: int = 20

    def __post_init__(self) -> None:
        _at_least(1, **{"validation.tasks": self.tasks, "validation.every": self.every})
