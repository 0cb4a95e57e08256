"""Frames as matplotlib figures: whole with a legend for files, one panel at a time without a legend for the page."""

import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from metatele.pictures.style import FAINT, INK, new_figure, tidy
from metatele.report.figures.frames import BANDS, Frame, Panel
from metatele.report.figures.looks import MAIN, Look
from metatele.report.text import clean

LABELS = 10.5  # points of the numbers at ticks
PANEL = (6.7, 4.6)  # inches
FEW_POINTS = 12  # lines of at most this many points mark each of them
FEW_CHECKPOINTS = 2  # bands are drawn from the start for at most this many checkpoints


@contextmanager
def quiet() -> Iterator[None]:
    """Without matplotlib's warnings about letters that its font lacks: pages have fonts of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def draw_panel(
    panel: Panel, looks: Mapping[str, Look], index: Mapping[str, int], size: tuple[float, float] = PANEL
) -> Figure:
    """One panel for the page; its lines and bands carry the contestants' indices in their gids."""
    figure = new_figure(*size)
    axes = figure.subplots()
    _fill(axes, panel, looks, index)
    if panel.title:
        axes.set_title(panel.title, fontsize=11, loc="left", color=INK)
    return figure


def draw_frame(frame: Frame, looks: Mapping[str, Look], labels: Mapping[str, str], title: str) -> Figure:
    """A whole figure for a file, with its title, legend and caption."""
    n = len(frame.panels)
    columns = 2 if n == 4 else min(n, 3)
    rows = -(-n // columns)
    height = max(rows * (4.6 if columns == 1 else 3.2) + 1.1, 0.24 * len(frame.names) + 1.4)
    figure = new_figure((6.2 if columns == 1 else 4.3 * columns) + 3.2, height)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = banded(list(looks.values()), frame.names, looks)
    for axes, panel in zip(grid, frame.panels, strict=False):
        _fill(axes, panel, looks, {}, shown)
        axes.set_title(panel.title, fontsize=10, loc="left", color=INK)
    for axes in grid[n:]:
        axes.set_visible(False)
    _titled(
        figure,
        f"{title}: {frame.title.lower()}",
        f"{frame.caption} {BANDS}" if shown and frame.has_bands else frame.caption,
    )
    _legend(figure, frame.names, looks, labels)
    return figure


def banded(known: Sequence[Look], names: Sequence[str], looks: Mapping[str, Look]) -> set[str]:
    """The contestants whose bands are shown from the start: the checkpoints without a rule, if they are few."""
    checkpoints = sum(look.order == MAIN for look in known)
    return {n for n in names if looks[n].order == MAIN} if checkpoints <= FEW_CHECKPOINTS else set()


def _fill(
    axes: Axes, panel: Panel, looks: Mapping[str, Look], index: Mapping[str, int], shown: set[str] | None = None
) -> None:
    """Draw the lines of a panel into axes, with the bands of those that are shown (of all if None)."""
    tidy(axes, LABELS)
    axes.set_xlabel(panel.x, fontsize=11)
    axes.set_ylabel(panel.y, fontsize=11, labelpad=9)
    axes.set_xscale(panel.x_scale)
    axes.set_yscale(panel.y_scale)
    if panel.level is not None:
        axes.axhline(panel.level, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    for line in panel.lines:
        look, tag = looks[line.name], index.get(line.name)
        if line.low is not None and line.high is not None and (shown is None or line.name in shown):
            low = np.where(line.low > 0, line.low, np.nan) if panel.y_scale == "log" else line.low
            band = axes.fill_between(line.x, low, line.high, color=look.colour, alpha=0.14, linewidth=0, zorder=1)
            band.set_gid(None if tag is None else f"band-{tag}")
        (drawn,) = axes.plot(
            line.x, line.y, color=look.colour, linestyle=look.dashes, linewidth=look.width, zorder=look.order
        )
        _mark(drawn, look, int(np.isfinite(line.y).sum()) <= FEW_POINTS, len(line.x))
        drawn.set_gid(None if tag is None else f"line-{tag}")
        if panel.end:
            (dot,) = axes.plot(line.x[-1:], line.y[-1:], "o", color=look.colour, markersize=5, zorder=look.order + 1)
            dot.set_gid(None if tag is None else f"dot-{tag}")
    if not panel.lines:
        axes.text(0.5, 0.5, "no numbers", transform=axes.transAxes, ha="center", color=FAINT)
    _ticks(axes, panel)


def _mark(drawn: Line2D, look: Look, few: bool, points: int) -> None:
    if few or look.marker:
        drawn.set_marker(look.marker or "o")
        drawn.set_markersize(4.5)
        drawn.set_markevery(1 if few else max(1, points // 8))


def _ticks(axes: Axes, panel: Panel) -> None:
    """Few enough to be read on a phone; plain numbers for steps."""
    if panel.x == "step":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis, scale in ((axes.xaxis, panel.x_scale), (axes.yaxis, panel.y_scale)):
        if scale != "log":
            continue
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / max(low, 1e-300))
        axis.set_minor_formatter(NullFormatter())
        if decades < 2.5:  # too few decades for their ticks alone
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if decades < 0.7 else LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda x, _: re.sub(r"e([+-])0*", r"e\1", f"{x:.4g}")))
            axis.set_minor_locator(NullLocator())


def _titled(figure: Figure, title: str, caption: str) -> None:
    width = int(13 * figure.get_figwidth())
    head = figure.suptitle(textwrap.fill(clean(title), int(0.7 * width)), fontsize=12, x=0.01, ha="left", color=INK)
    foot = figure.supxlabel(textwrap.fill(caption, width), fontsize=8.5, x=0.01, ha="left", color="#555555")
    for text in (head, foot):
        text.set_parse_math(False)


def _legend(figure: Figure, names: Sequence[str], looks: Mapping[str, Look], labels: Mapping[str, str]) -> None:
    """The legend on the right of a figure."""
    if not names:
        return
    handles = [_handle(looks[n]) for n in names]
    # matplotlib omits labels that begin with _, so the names are set afterwards.
    legend = figure.legend(
        handles,
        ["x"] * len(names),
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        handlelength=2.8,
        labelspacing=0.6,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(textwrap.fill(clean(labels[name]), 34))


def _handle(look: Look) -> Line2D:
    line = Line2D([], [], color=look.colour, linewidth=look.width, marker=look.marker or None, markersize=4.5)
    line.set_linestyle(look.dashes)  # type: ignore[arg-type]  # matplotlib's stubs know names only as literals
    return line
