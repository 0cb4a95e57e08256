"""The settings of meta-training, checked when they are made."""

from dataclasses import dataclass
from typing import Literal, get_args

from metatele.errors import ConfigError
from metatele.support.checks import above_zero, at_least, make_plain, one_of
from metatele.unroll import EngineName

MetaLossName = Literal["log", "sum", "final"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class UnrollSettings:
    """How trajectories are unrolled.

    Args:
        steps: length of a trajectory.
        window: steps that a meta-gradient reaches back over; the learned weights are updated after
            each window, and the inner loop continues from there (truncation).
        second_order: whether the meta-gradient passes through the inner gradients.
        checkpoint: keep the state of the inner loop only at every `checkpoint`-th step of a window, and recompute the
            steps in between in the backward pass. This needs memory for window / checkpoint states and `checkpoint`
            steps instead of `window` steps, and takes up to half as much time again. None keeps every step.
        engine: how the inner loop is run. "higher" unrolls it step by step, whatever the parts and the task family do;
            "compiled" traces one step and its backward pass and compiles them (up to a minute; it needs a C++ compiler,
            and the traced code must not branch on the values of tensors). It is faster, and its results are equal up
            to rounding.
        tf32: whether GPUs multiply matrices in TF32: about twice as fast, with three correct digits instead of seven.
    """

    steps: int = 100
    window: int = 20
    second_order: bool = True
    checkpoint: int | None = None
    engine: EngineName = "higher"
    tf32: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        at_least(1, **{"unroll.steps": self.steps, "unroll.window": self.window})
        if self.checkpoint is not None:
            at_least(1, **{"unroll.checkpoint": self.checkpoint})
        one_of(get_args(EngineName), **{"unroll.engine": self.engine})
        if self.window > self.steps:
            raise ConfigError(
                f"unroll.window must not be longer than the trajectory, got window={self.window}, steps={self.steps}; "
                f"set unroll.window to {self.steps} or less"
            )


@dataclass(frozen=True)
class MetaSettings:
    """How the learned weights are meta-trained.

    Args:
        iterations: number of meta-batches; each is unrolled for one trajectory.
        tasks: tasks in a meta-batch.
        loss: what a window is scored by: "log", the mean of log losses over its steps; "sum", the
            sum of its losses; "final", its last loss.
        normalise: divide each task's losses by its initial loss, so that tasks of different scale
            have equal weight (it has no effect on "log").
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
        make_plain(self)
        at_least(1, **{"meta.iterations": self.iterations, "meta.tasks": self.tasks})
        above_zero(**{"meta.lr": self.lr})
        optional = {"meta.teleport_lr": self.teleport_lr, "meta.clip": self.clip}
        above_zero(**{name: value for name, value in optional.items() if value is not None})
        one_of(get_args(MetaLossName), **{"meta.loss": self.loss})
        one_of(get_args(Schedule), **{"meta.schedule": self.schedule})


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
        make_plain(self)
        at_least(1, **{"validation.tasks": self.tasks, "validation.every": self.every})
