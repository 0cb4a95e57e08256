"""The statistics of an evaluation, each computed once."""

from collections.abc import Mapping

import numpy as np

from metatele.evaluation.entry import Entry
from metatele.evaluation.judge.measures import Measures, measures_of
from metatele.evaluation.judge.pairing import Pairing, best_baseline
from metatele.evaluation.record import Record
from metatele.evaluation.statistics import Comparison
from metatele.support.seeding import derive_seed
from metatele.task.family import Part

NAN = float("nan")


class Numbers:
    """What tables and figures show of a record.

    Args:
        record: what was measured.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._paired: dict[tuple[str, Part, int], Comparison] = {}
        self._measures: dict[Part, Mapping[str, Measures]] = {}

    def paired(self, name: str, part: Part, step: int) -> Comparison:
        """A contestant that ran against the reference, with plain 95% intervals; equal seeds give
        equal resamples."""
        key = name, part, step
        if key not in self._paired:
            record = self.record
            rng = np.random.default_rng(derive_seed("bootstrap", record.settings.seed))
            pairing = Pairing.of(record.entries, record[name], record[record.reference], part, step)
            self._paired[key] = pairing.compare(rng)
        return self._paired[key]

    def against_reference(self, entry: Entry, part: Part, step: int) -> Comparison | None:
        """Like `paired`, but None for the reference itself and where one of the two failed."""
        reference = self.record[self.record.reference]
        if entry.name == reference.name or not entry.runs or not reference.runs:
            return None
        return self.paired(entry.name, part, step)

    def measures(self, part: Part) -> Mapping[str, Measures]:
        """{contestant: its measures}, of those that did not fail."""
        if part not in self._measures:
            self._measures[part] = measures_of(self.record.ran, best_baseline(self.record.entries), part)
        return self._measures[part]

    def accuracy(self, entry: Entry, part: Part, step: int) -> float:
        """The mean accuracy over tasks and seeds; NaN if there is none."""
        if not entry.runs or not self.record.has_accuracy(part):
            return NAN
        return float(entry.accuracies(part, step).mean())
