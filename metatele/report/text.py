"""User-supplied text in pages, figures and file names."""

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

CsvValue = str | int | float | None


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet computes


def clean(text: str) -> str:
    """Text that every format can hold: no control characters, no lone surrogates, on one line."""
    whole = text.encode("utf-8", "replace").decode()
    spaced = re.sub(r"\s", " ", whole)
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c for c in spaced)


def slug(text: str) -> str:
    """Text as a part of a file name: ASCII letters, digits and dashes."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:40]


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[CsvValue]], digits: int | None = None) -> str:
    """Rows as CSV; numbers that are not finite are empty (NaN) or inf.

    Args:
        columns, rows: the heading and what stands under it.
        digits: significant digits of fractions; all of them when None.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(c, digits) for c in columns])
    writer.writerows([_cell(c, digits) for c in row] for row in rows)
    return buffer.getvalue()


def _cell(value: CsvValue, digits: int | None) -> str:
    """A value as it stands in a CSV file."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = clean(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        return repr(float(value)) if digits is None else f"{float(value):.{digits}g}"
    return str(value)


def as_link(csv_text: str) -> str:
    """A data: URI that downloads a CSV file."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(csv_text.encode()).decode()}"
