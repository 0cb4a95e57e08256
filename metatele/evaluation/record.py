"""What an evaluation found, and how to look at it and save it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from metatele.checks import at_least
from metatele.device import check_device
from metatele.errors import ConfigError
from metatele.evaluation.entry import Entry, Statistics, statistics_of
from metatele.evaluation.figures import draw_figures, save_figures
from metatele.evaluation.results import FORMAT, describe, save_results, versions
from metatele.evaluation.run import Scored
from metatele.evaluation.table import make_table
from metatele.files import make_folder


@dataclass(frozen=True)
class Settings:
    """The numbers that an evaluation depends on.

    Attributes:
        tasks: how many tasks of the test split.
        steps: length of a trajectory.
        seed: of the tasks and of the bootstrap.
        tuning_tasks: tasks of the train split that baselines are tuned on.
        timing_repeats: runs of which the median wall-clock is taken; one if it takes long.
        report_steps: steps at which the table and the statistics give losses, the last step last.
        device: where to compute, in float32.
    Raises: ConfigError if one is impossible.
    """

    tasks: int
    steps: int
    seed: int
    tuning_tasks: int
    timing_repeats: int
    report_steps: tuple[int, ...]
    device: str

    def __post_init__(self) -> None:
        at_least(1, **{name: getattr(self, name) for name in ("tasks", "steps", "tuning_tasks", "timing_repeats")})
        for step in self.report_steps:
            if not 0 <= step <= self.steps:
                raise ConfigError(f"a report step must be in [0, {self.steps}], got {step}")
        check_device(self.device)


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        family: name of the task family.
        settings: what the numbers depend on.
        entries: the contestants with their runs, in the order of the table.
        reference: name of the contestant that differences are taken from.
        task_seeds: one seed a task, in the order of the curves' columns.
        has_test: whether the family has test rows of its own.
        elapsed: seconds that the evaluation took, tuning included.
        family_spec: what the caller knows about the family; stored in the results.
    """

    family: str
    settings: Settings
    entries: tuple[Entry, ...]
    reference: str
    task_seeds: tuple[int, ...]
    has_test: bool
    elapsed: float
    family_spec: dict[str, Any] | None = None

    @property
    def part(self) -> Scored:
        """Whose loss is shown: that of the test rows if the family has some, else of the inner rows."""
        return "test" if self.has_test else "inner"

    def __getitem__(self, name: str) -> Entry:
        """The entry of one contestant."""
        return {e.name: e for e in self.entries}[name]

    def statistics(self, part: Scored | None = None) -> Statistics:
        """{contestant: {step: (summary, difference from the reference)}} at the reported steps."""
        return statistics_of(
            self.entries, self.reference, part or self.part, self.settings.report_steps, self.settings.seed
        )

    def table(self, part: Scored | None = None) -> Table:
        """A table for the terminal (`rich.print` shows it)."""
        part = part or self.part
        rows = "training rows" if part == "inner" else "unseen rows"
        title = f"{self.family}: loss on {rows}, {_count(self.settings.tasks)}"
        return make_table(self.entries, self.statistics(part), self.reference, title)

    def results(self) -> dict[str, Any]:
        """Everything that results.json holds."""
        parts: Sequence[Scored] = ("inner", "test") if self.has_test else ("inner",)
        return {
            "format": FORMAT,
            "versions": versions(),
            "family": self.family,
            "family_spec": self.family_spec,
            **asdict(self.settings),
            "task_seeds": self.task_seeds,
            "elapsed_seconds": self.elapsed,
            "reference": self.reference,
            "contestants": [describe(e) for e in self.entries],
            "statistics": {part: _named(self.statistics(part)) for part in parts},
        }

    def save(self, folder: Path | str) -> list[Path]:
        """Write results.json and the three figures as PNG and PDF into a folder; the paths.

        Raises: OutputError if the folder cannot be written to.
        """
        folder = make_folder(Path(folder))
        path = folder / "results.json"
        save_results(self.results(), path)
        title = f"{self.family}, {_count(self.settings.tasks)}"
        return [path, *save_figures(draw_figures(self.entries, self.part, title), folder)]


def _count(tasks: int) -> str:
    return f"{tasks} held-out task{'s' if tasks > 1 else ''}"


def _named(statistics: Statistics) -> dict[str, Any]:
    return {
        name: {step: {**asdict(summary), "against_reference": asdict(paired)} for step, (summary, paired) in at.items()}
        for name, at in statistics.items()
    }
