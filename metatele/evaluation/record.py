"""What an evaluation found, as plain data that comes back from results.json."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from metatele.evaluation.entry import Entry
from metatele.evaluation.judge.claims import Claim, claims_of
from metatele.evaluation.judge.measures import Measures, measures_of
from metatele.evaluation.judge.verdict import Verdict, best_baseline, conclusion_of, paired_losses, pool_of, verdicts_of
from metatele.evaluation.results import load_results, save_results
from metatele.evaluation.settings import Settings
from metatele.evaluation.statistics import Comparison, compare
from metatele.evaluation.table import make_table
from metatele.support.files import make_folder
from metatele.support.seeding import derive_seed
from metatele.task.family import Part

RESULTS = "results.json"


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        family: name of the task family.
        settings: what the numbers depend on.
        entries: the contestants with what they did, in the order of the table.
        reference: name of the contestant that differences are taken from.
        task_seeds: one seed a task, in the order of the curves' columns.
        applicable_rules: the closed-form rules that can act on the family's network.
        elapsed: seconds that the evaluation took, tuning included.
        environment: versions, git commit and hardware.
        family_spec: class path and arguments of the family, if the caller said them.
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
            raise ValueError(f"contestants need names of their own, got {names} with the reference {self.reference!r}")
        shape = len(self.settings.recorded), self.settings.tasks
        runs = [run for e in self.entries for run in e.runs]
        if any((len(run.at), run.tasks) != shape for run in runs):
            raise ValueError(f"every run needs curves of shape {shape}")
        if len({(*run.losses, None, *run.accuracies) for run in runs}) > 1:
            raise ValueError("the runs differ in the parts that have losses or accuracies")

    def __getitem__(self, name: str) -> Entry:
        """The entry of one contestant."""
        return {e.name: e for e in self.entries}[name]

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
        return "test" if "test" in self.parts else "inner"

    @property
    def last(self) -> int:
        """The last step."""
        return self.settings.steps

    def paired(self, name: str, part: Part | None = None, step: int | None = None) -> Comparison:
        """A contestant against the reference, with plain 95% intervals; one seed gives one set of resamples."""
        rng = np.random.default_rng(derive_seed("bootstrap", self.settings.seed))
        part, step = part or self.part, self.last if step is None else step
        two = self[name], self[self.reference]
        losses = paired_losses(*two, part, step)
        return compare(*losses, rng, pool=pool_of(self.entries, *two, part, step))

    @cached_property
    def measures(self) -> Mapping[str, Measures]:
        """{contestant: area, steps and seconds to the target, and so on}, of those that did not fail."""
        return measures_of(self.ran, best_baseline(self.entries), self.part)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """What each learned teleport is held against."""
        return tuple(claims_of(self.entries, self.applicable_rules))

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """See `verdicts_of`."""
        seed = self.settings.seed
        return tuple(verdicts_of(self.entries, self.claims, self.reference, self.part, self.last, seed))

    @cached_property
    def conclusions(self) -> Mapping[str, str]:
        """{checkpoint with a learned teleport: whether its teleports help, in a sentence}."""
        return {claim.name: conclusion_of(claim, self.verdicts) for claim in self.claims}

    def table(self, part: Part | None = None) -> Table:
        """A table for the terminal (`rich.print` shows it)."""
        return make_table(self, part or self.part)

    def save(self, folder: Path | str) -> Path:
        """Write results.json into a folder; its path. `metatele.write_report` makes the report.

        Raises: OutputError if the folder cannot be written to.
        """
        path = make_folder(Path(folder)) / RESULTS
        save_results(self, path)
        return path

    @staticmethod
    def load(path: Path | str) -> "Evaluation":
        """Read an evaluation from results.json, or from the folder that holds it.

        Raises: ConfigError if there is none, or it is damaged or of another version.
        """
        return load_results(Path(path, RESULTS) if os.path.isdir(path) else path, Evaluation)
