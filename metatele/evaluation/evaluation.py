"""An evaluation: what was measured, and what follows from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.table import Table

from metatele.evaluation.judge.claims import Claim, claims_of
from metatele.evaluation.judge.measures import Measures
from metatele.evaluation.judge.verdict import Verdict, conclusion_of, verdicts_of
from metatele.evaluation.numbers import Numbers
from metatele.evaluation.record import Record
from metatele.evaluation.results import load_results, save_results
from metatele.evaluation.statistics import Comparison
from metatele.evaluation.table import make_table
from metatele.support.files import make_folder
from metatele.task.family import Part

RESULTS = "results.json"


@dataclass(frozen=True)
class Evaluation(Record):
    """The result of `evaluate`: a `Record` with its statistics, claims and verdicts, each computed once."""

    @cached_property
    def numbers(self) -> Numbers:
        """The statistics that tables and figures show."""
        return Numbers(self)

    def paired(self, name: str, part: Part | None = None, step: int | None = None) -> Comparison:
        """A contestant against the reference, with plain 95% intervals; equal seeds give equal resamples."""
        return self.numbers.paired(name, part or self.part, self.last if step is None else step)

    @property
    def measures(self) -> Mapping[str, Measures]:
        """{contestant: area, steps and seconds to the target, and so on}, of those that did not fail."""
        return self.numbers.measures(self.part)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """What each learned teleport must be compared with."""
        return tuple(claims_of(self.entries, self.applicable_rules))

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts at the last step (see `verdicts_of`)."""
        seed = self.settings.seed
        return tuple(verdicts_of(self.entries, self.claims, self.reference, self.part, self.last, seed))

    @cached_property
    def conclusions(self) -> Mapping[str, str]:
        """{checkpoint with a learned teleport: whether its teleports help, in a sentence}."""
        return {claim.name: conclusion_of(claim, self.verdicts) for claim in self.claims}

    def table(self, part: Part | None = None) -> Table:
        """A table for the terminal (`rich.print` shows it)."""
        return make_table(self.numbers, part or self.part)

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
