"""What an evaluation found, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metatele.evaluation.entry import Entry
from metatele.evaluation.settings import Settings
from metatele.task.family import Part, judged_part


@dataclass(frozen=True)
class Record:
    """What was measured, from which `Evaluation` concludes.

    Attributes:
        family: name of the task family.
        settings: what the numbers depend on.
        entries: the contestants with what they did, in the order of the table.
        reference: name of the contestant that differences are taken from.
        task_seeds: one seed per task, in the order of the curves' columns.
        applicable_rules: the closed-form rules that can act on the family's network.
        elapsed: seconds that the evaluation took, tuning included.
        environment: versions, git commit and hardware.
        family_spec: class path and arguments of the family, if the caller gave them.
        title: what reports call it; the family's name if empty.
    """

    family: str
    settings: Settings
    entries: tuple[Entry, ...]
    reference: str
    task_seeds: tuple[int, ...]
    applicable_rules: tuple[str, ...]
    elapsed: float
    environment: Mapping[str, Any] = field(default_factory=dict)
    family_spec: Mapping[str, Any] | None = None
    title: str = ""

    def __post_init__(self) -> None:
        names = [e.name for e in self.entries]
        if len({*names}) < len(names) or self.reference not in names:
            raise ValueError(f"contestants need distinct names, got {names} with the reference {self.reference!r}")
        shape = len(self.settings.recorded), self.settings.tasks
        runs = [run for e in self.entries for run in e.runs]
        if any((len(run.at), run.tasks) != shape for run in runs):
            raise ValueError(f"every run needs curves of shape {shape}")
        parts = {(tuple(run.losses), tuple(run.accuracies)) for run in runs}
        if len(parts) > 1:
            raise ValueError(f"the runs differ in the parts that have losses or accuracies: {sorted(parts)}")

    def __getitem__(self, name: str) -> Entry:
        """The entry of one contestant."""
        return {e.name: e for e in self.entries}[name]

    @property
    def called(self) -> str:
        """The title, or without one the name of the family."""
        return self.title or self.family

    @property
    def ran(self) -> tuple[Entry, ...]:
        """The entries that did not fail."""
        return tuple(e for e in self.entries if e.runs)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a task's rows that have losses of their own."""
        return tuple(self.ran[0].runs[0].losses) if self.ran else ("inner",)

    @property
    def part(self) -> Part:
        """Whose loss is shown: that of the test rows if the family has some, else of the inner rows."""
        return judged_part(self.parts)

    @property
    def last(self) -> int:
        """The last step."""
        return self.settings.steps

    def has_accuracy(self, part: Part) -> bool:
        """Whether there are accuracies on a part."""
        return any(part in run.accuracies for e in self.ran for run in e.runs)
