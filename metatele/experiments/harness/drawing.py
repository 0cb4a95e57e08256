"""Tables and figures of the experiments, in one style."""

import re
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from metatele.evaluation.statistics import Interval
from metatele.pictures.style import COLOURS
from metatele.support.messages import DASH, number

REFERENCE = "#3a3a3a"  # colour of the variant that the others are compared with


def variant_looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and line style of each variant; dark grey for the first, which the others are compared with."""
    looks = [{"color": c, "linestyle": style} for style in ("-", "--", ":") for c in COLOURS]
    return {name: looks[(i - 1) % len(looks)] if i else {"color": REFERENCE} for i, name in enumerate(names)}


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> Table:
    """A table whose first column is text and whose others are numbers; an interval stands below its value.

    Nothing in it wraps, so that a table that is wider than the terminal can still be printed whole. An
    empty row is a gap.
    """
    cells = [[re.sub(r" ?\[(\S+), ?(\S+)\]", r"\n[\1,\2]", cell) for cell in row] for row in rows]
    table = Table(
        title=Text(title + "\n", "bold"),
        caption=Text("\n" + note, "dim"),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.title_justify = table.caption_justify = "left"
    for i, name in enumerate(columns):
        widest = max((len(line) for row in cells if row for line in row[i].split("\n")), default=0)
        heading = name if len(name) <= widest else name.replace(" ", "\n")
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def spread(interval: Interval, places: int) -> str:
    """A difference with its interval, to `places` decimal places: "+0.12 [-0.20,+0.31]"."""
    value, low, high = (
        f"{x:+.{places}f}" if np.isfinite(x) else DASH for x in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low},{high}]"


def signed(x: float, digits: int) -> str:
    """A number with `digits` significant digits and its sign, even if it is positive."""
    return ("+" if np.isfinite(x) and x > 0 else "") + number(float(x), digits)
