"""results.csv: every number of some evaluations."""

from collections.abc import Sequence

from metatele.evaluation import Evaluation
from metatele.evaluation.columns import COLUMNS, At
from metatele.report.text import to_csv


def results_csv(evaluations: Sequence[Evaluation]) -> str:
    """One row for each contestant, part and reported step, in full precision; empty where there is no number."""
    rows = (
        [column.value(At(e.numbers, entry, part, step)) for column in COLUMNS.values()]
        for e in evaluations
        for entry in e.entries
        for part in e.parts
        for step in e.settings.reported
    )
    return to_csv(list(COLUMNS), rows)
