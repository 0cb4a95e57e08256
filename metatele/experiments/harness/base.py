"""What all experiments share: one object that runs, and what it found."""

import abc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from metatele.evaluation.environment import versions
from metatele.evaluation.results import save_results
from metatele.evaluation.settings import Progress
from metatele.pictures.style import save_figures
from metatele.support.files import make_folder

NO_TELEPORT = "no teleport"  # the variant that all others are compared with


def silent(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        tables: for the terminal.
        figures: {file name without ending: figure}.
        numbers: everything that the tables and figures show, as plain values and arrays.
        seconds: how long the experiment took.
    """

    tables: list[Table]
    figures: dict[str, Figure]
    numbers: dict[str, Any]
    seconds: float = field(default=0.0)

    def save(self, folder: Path | str, spec: dict[str, Any] | None = None) -> list[Path]:
        """Write results.json, and every figure as PNG and PDF, into a folder; the paths.

        Args:
            folder: it is made where it does not exist.
            spec: how the experiment was made, stored in results.json.
        Raises: OutputError if the folder cannot be written to.
        """
        folder = make_folder(Path(folder))
        path = folder / "results.json"
        record = {"versions": versions(), "experiment": spec, "seconds": self.seconds}
        save_results({**record, **self.numbers}, path)
        return [path, *save_figures(self.figures, folder)]


class Experiment(abc.ABC):
    """One of the paper's experiments; its constructor's arguments are the keys of its configuration."""

    def run(self, progress: Progress = silent) -> Findings:
        """Run it.

        Args:
            progress: called with (what comes next, stages done, stages in all).
        """
        begin = time.perf_counter()
        findings = self.measure(progress)
        return Findings(findings.tables, findings.figures, findings.numbers, time.perf_counter() - begin)

    @abc.abstractmethod
    def measure(self, progress: Progress) -> Findings:
        """What `run` times and returns."""
