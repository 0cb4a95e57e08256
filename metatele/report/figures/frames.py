"""What a figure shows, as plain tables: the same numbers are drawn and offered for download."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from metatele.evaluation.statistics import Values
from metatele.report.text import CsvValue, to_csv

Scale = Literal["linear", "log"]
BANDS = "Bands: the middle half of the tasks."
DIGITS = 5  # of downloaded numbers


@dataclass(frozen=True)
class Line:
    """One contestant in one panel.

    Attributes:
        name: of the contestant.
        x, y: what is drawn, [n]; NaN where there is nothing.
        low, high: the band about it, [n]; None for none.
    """

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: of the panel, empty if the figure has only this one.
        x, y: what is on the axes.
        x_scale, y_scale: of the axes.
        lines: what is drawn.
        level: a horizontal line for orientation.
        end: whether the last point of every line has a dot.
    """

    title: str
    x: str
    y: str
    x_scale: Scale
    y_scale: Scale
    lines: tuple[Line, ...]
    level: float | None = None
    end: bool = False


@dataclass(frozen=True)
class Frame:
    """One figure.

    Attributes:
        name: of its files, without ending.
        title, caption: what it is, and how to read it.
        panels: what it shows.
        bounds: what the bands are, as two headings of columns.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    bounds: tuple[str, str] = ("lower quartile", "upper quartile")

    @property
    def names(self) -> list[str]:
        """The contestants in it."""
        return list(dict.fromkeys(line.name for panel in self.panels for line in panel.lines))

    @property
    def has_bands(self) -> bool:
        """Whether any line has a band."""
        return any(line.low is not None for panel in self.panels for line in panel.lines)

    @property
    def csv(self) -> str:
        """Its numbers, one row a point."""
        bands = self.has_bands
        several = len(self.panels) > 1
        first = self.panels[0]
        heading = ["contestant", "x", "y"] if several else ["contestant", first.x, first.y]
        rows: list[list[CsvValue]] = []
        for panel in self.panels:
            for line in panel.lines:
                for i in np.flatnonzero(np.isfinite(line.x) & np.isfinite(line.y)):
                    band = [float("nan") if b is None else b[i] for b in (line.low, line.high)] if bands else []
                    rows.append([*([panel.title] if several else []), line.name, line.x[i], line.y[i], *band])
        columns = [*(["panel"] if several else []), *heading, *(self.bounds if bands else [])]
        return to_csv(columns, rows, DIGITS)
