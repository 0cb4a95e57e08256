"""The numbers that an evaluation depends on, checked when they are made."""

from dataclasses import dataclass
from typing import Literal, get_args

from metatele.errors import ConfigError
from metatele.support.checks import at_least, one_of

Baselines = Literal["plain", "teleports", "none"]
MOST_RECORDED = 129  # positions of a long trajectory at which everything is measured


@dataclass(frozen=True)
class Settings:
    """The numbers that an evaluation depends on.

    Attributes:
        tasks: how many tasks of the test split.
        steps: length of a trajectory.
        seed: of the tasks and of the bootstrap.
        tuning_tasks: tasks of the train split that hand-designed contestants are tuned on, and that the
            controls of learned teleports are recorded on.
        timing_tasks: how many of the test tasks are played for the wall-clock, at most.
        timing_repeats: runs of which the median wall-clock is taken.
        report_steps: steps at which the table and the statistics give losses, the last step last.
        baselines: the hand-designed contestants: "plain"; also each with random and with optimised
            "teleports"; or "none".
        chunk: tasks that are played together.
        device: where to compute, in float32.
    Raises: ConfigError if one is impossible.
    """

    tasks: int
    steps: int
    seed: int
    tuning_tasks: int
    timing_tasks: int
    timing_repeats: int
    report_steps: tuple[int, ...]
    baselines: Baselines
    chunk: int
    device: str

    def __post_init__(self) -> None:
        whole = ("tasks", "steps", "tuning_tasks", "timing_tasks", "timing_repeats", "chunk")
        at_least(1, **{name: getattr(self, name) for name in whole})
        one_of(get_args(Baselines), baselines=self.baselines)
        if not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")
        for step in self.report_steps:
            if not (isinstance(step, int) and 0 <= step <= self.steps):
                raise ConfigError(f"a report step must be in [0, {self.steps}], got {step!r}")

    @property
    def recorded(self) -> tuple[int, ...]:
        """The steps at which everything is measured: all, or of a long trajectory about 128 in even
        distances, the first ten, and those that are reported."""
        if self.steps < MOST_RECORDED:
            return tuple(range(self.steps + 1))
        distance = -(-self.steps // (MOST_RECORDED - 1))
        return tuple(sorted({*range(11), *range(0, self.steps, distance), *self.report_steps, self.steps}))
