"""Columns: one definition of each, which terminal, page and CSV file share."""

import csv
import io
import math
from collections import Counter

import pytest
from rich.console import Console

from metatele.evaluation import columns
from metatele.evaluation.columns import COLUMNS, IN_TERMINAL, ON_PAGE, ON_PAGE_IF_ASKED, At, Column, columns_named
from metatele.report.csv_file import results_csv
from metatele.report.page.sheet import sheet


def test_what_is_shown_is_a_column_with_a_heading():
    assert all(COLUMNS[key].brief for key in IN_TERMINAL)
    assert all(COLUMNS[key].heading for key in (*ON_PAGE, *ON_PAGE_IF_ASKED))
    assert not {*ON_PAGE} & {*ON_PAGE_IF_ASKED}
    assert Counter(c.key for c in columns._ALL).most_common(1)[0][1] == 1
    assert all(c.meaning for c in COLUMNS.values())


def test_terminal_page_and_file_say_the_same(full):
    evaluation, _ = full
    rows = list(csv.DictReader(io.StringIO(results_csv([evaluation]))))
    for part in evaluation.parts:
        page = sheet(evaluation, part)
        for entry, line in zip(evaluation.entries, page.lines, strict=True):
            cells = dict(zip((h.text for h in page.headings), line.cells, strict=True))
            for column, step in columns_named((*ON_PAGE, *ON_PAGE_IF_ASKED), evaluation, part):
                (row,) = (r for r in rows if (r["contestant"], r["part"], r["step"]) == (entry.name, part, str(step)))
                cell = cells[column.heading.format(step=step)]
                if column.key == "change_percent" and entry.name == evaluation.reference:
                    assert (cell.text, cell.sort, row[column.key]) == ("reference", "0", "")
                else:
                    assert cell.sort == row[column.key], (entry.name, column.key)
                at = At(evaluation.numbers, entry, part, step)
                if column.key in IN_TERMINAL and column.key not in ("change_percent", "win_rate"):
                    assert column.brief_text(at) == cell.text


def test_a_column_more_is_one_definition(full, monkeypatch):
    evaluation, _ = full
    best = Column("best", "lowest loss", lambda at: math.nan, heading="best @{step}", brief="best\n@{step}")
    monkeypatch.setitem(columns.COLUMNS, "best", best)
    for where in ("ON_PAGE", "IN_TERMINAL"):
        for module in ("metatele.evaluation.columns", "metatele.report.page.sheet", "metatele.evaluation.table"):
            monkeypatch.setattr(f"{module}.{where}", ("mean", "best"), raising=False)
    assert "best @5" in [h.text for h in sheet(evaluation, "inner").headings]
    console = Console(width=120, file=io.StringIO())
    console.print(evaluation.table())
    assert "best" in console.file.getvalue()
    assert results_csv([evaluation]).splitlines()[0].endswith(",failure,best")


@pytest.mark.parametrize("key", COLUMNS)
def test_there_may_be_nothing_to_say(full, key):
    """Of a contestant that failed every column is a dash, or says what is known all the same."""
    evaluation, _ = full
    at = At(evaluation.numbers, evaluation["bad"], evaluation.part, evaluation.last)
    value = COLUMNS[key].value(at)
    if value is None or value != value:
        assert COLUMNS[key].text(at) == "-"
