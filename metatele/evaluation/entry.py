"""A contestant together with what it did: what tables, figures and results are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metatele.evaluation.contestant import Contestant
from metatele.evaluation.run import Run, Scored
from metatele.evaluation.statistics import Paired, Summary, compare, summarise
from metatele.seeding import derive_seed


@dataclass(frozen=True)
class Entry:
    """One contestant's part in an evaluation.

    Attributes:
        contestant: who ran.
        run: its curves and outcomes.
        seconds: wall-clock from the start to each position, all tasks together, [S + 1]; the median
            of several runs.
    """

    contestant: Contestant
    run: Run
    seconds: NDArray[np.float64]

    @property
    def name(self) -> str:
        """The contestant's name."""
        return self.contestant.name

    def summary(self, part: Scored, step: int) -> Summary:
        """The losses at one step."""
        return summarise(self.run.loss(part)[step], self.run.finished)

    def against(self, reference: "Entry", part: Scored, step: int, seed: int) -> Paired:
        """The paired difference from the reference at one step; one seed gives one set of resamples."""
        both = self.run.finished & reference.run.finished
        rng = np.random.default_rng(derive_seed("bootstrap", seed))
        return compare(self.run.loss(part)[step], reference.run.loss(part)[step], both, rng)


Statistics = Mapping[str, Mapping[int, tuple[Summary, Paired]]]


def statistics_of(
    entries: Sequence[Entry], reference: str, part: Scored, report_steps: Sequence[int], seed: int
) -> Statistics:
    """{contestant: {step: (summary, difference from the reference)}}."""
    base = next(e for e in entries if e.name == reference)
    return {e.name: {s: (e.summary(part, s), e.against(base, part, s, seed)) for s in report_steps} for e in entries}
