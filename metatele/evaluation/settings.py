"""The settings that an evaluation's numbers depend on, checked when they are made, and the options that do not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from metatele.errors import ConfigError
from metatele.support.checks import at_least, make_plain, one_of
from metatele.tuning.step_size import Tuning

Baselines = Literal["plain", "teleports", "none"]
Progress = Callable[[str, int, int], None]
"""Called with what comes next, how much is done, and how much there is in all."""

MOST_RECORDED = 129  # positions of a long trajectory at which everything is measured
REPORTED = (10, 30)  # steps that are reported by default, beside the last one


@dataclass(frozen=True)
class Settings:
    """What the numbers of an evaluation depend on, besides its contestants and its tasks.

    Args:
        tasks: held-out tasks, of the test split.
        steps: inner steps.
        seed: of the tasks and of the bootstrap.
        tuning_tasks: tasks of the train split to tune baselines and record controls on.
        timing_tasks: at most this many held-out tasks are run together to measure the wall-clock time.
        timing_repeats: runs of which the median wall-clock time is taken.
        report_steps: steps that the table shows, besides the last one; by default 10 and 30.
        baselines: hand-designed optimizers: plain, teleports (each also with random and with optimised
            teleports), or none; true and false mean plain and none.
        chunk: tasks that are run together; by default as many as fit into about a gigabyte.
        device: where to compute, in float32: cpu, cuda, ...
    Raises: ConfigError if a value is invalid.
    """

    tasks: int = 64
    steps: int = 100
    seed: int = 0
    tuning_tasks: int = 32
    timing_tasks: int = 32
    timing_repeats: int = 3
    report_steps: tuple[int, ...] | None = None
    baselines: Baselines | bool = "plain"
    chunk: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        make_plain(self)
        whole = ("tasks", "steps", "tuning_tasks", "timing_tasks", "timing_repeats")
        at_least(1, **{name: getattr(self, name) for name in whole})
        at_least(1, **({} if self.chunk is None else {"chunk": self.chunk}))
        if isinstance(self.baselines, bool):
            object.__setattr__(self, "baselines", "plain" if self.baselines else "none")
        one_of(get_args(Baselines), baselines=self.baselines)
        if not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")
        object.__setattr__(self, "report_steps", _reported(self.report_steps, self.steps))

    @property
    def reported(self) -> tuple[int, ...]:
        """The steps that the table shows, in order, the last step last."""
        assert self.report_steps is not None
        return self.report_steps

    @property
    def recorded(self) -> tuple[int, ...]:
        """The steps at which everything is measured: all of them or, for a long trajectory, about 128 evenly spaced
        ones, the first ten, and those that are reported."""
        if self.steps < MOST_RECORDED:
            return tuple(range(self.steps + 1))
        distance = -(-self.steps // (MOST_RECORDED - 1))
        return tuple(sorted({*range(11), *range(0, self.steps, distance), *self.reported}))


def _reported(given: object, steps: int) -> tuple[int, ...]:
    """The steps to report, in order, with the last one. Raises: ConfigError for an impossible one."""
    chosen = [step for step in REPORTED if step <= steps] if given is None else given
    if not isinstance(chosen, Sequence) or isinstance(chosen, str):
        raise ConfigError(f"report_steps must be a list of steps, got {given!r}")
    for step in chosen:
        if not (isinstance(step, int) and 0 <= step <= steps):
            raise ConfigError(f"a report step must be in [0, {steps}], got {step!r}")
    return tuple(sorted({*chosen, steps}))


@dataclass(frozen=True)
class Options:
    """How an evaluation is run; its numbers do not depend on this.

    Args:
        reference: the contestant that differences are taken from; by default see `reference_of`.
        strict: whether a checkpoint that cannot run on the family is an error, or a failed contestant.
        family_spec, title: see `Evaluation`.
        journal: folder for finished pieces, which is kept; by default one in the output folder, deleted at the end.
        progress: called with (what comes next, tasks done, tasks in all, over all contestants).
        tunings: what `tune` has found before, on the same tasks, by the baseline's name; the others are tuned.
    """

    reference: str | None = None
    strict: bool = True
    family_spec: Mapping[str, Any] | None = None
    title: str = ""
    journal: Path | str | None = None
    progress: Progress | None = None
    tunings: Mapping[str, Tuning] = field(default_factory=dict)
