"""The forest plot and the heat map as matplotlib figures."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from metatele.report.changes import Forest, Transfer, interval_text, strength
from metatele.report.drawing import FAINT, GRID, INK, new_figure, style
from metatele.report.looks import Look
from metatele.report.palette import DARK, diverging
from metatele.report.text import clean

FARTHEST = 100.0  # times better or worse; beyond stands an arrow
PERCENT = (-99, -98, -95, -90, -80, -50, -20, 0, 25, 100, 400, 900, 1900, 4900, 9900)
TICKS = 6  # at most so many
NOTE = "Blue: a lower loss, orange: a higher one, up to a third and three times. ▲ better and ▼ worse: verdicts."
LONGEST = 46  # letters of a name


def draw_forest(forest: Forest, looks: Mapping[str, Look], index: Mapping[str, int], title: str = "") -> Figure:
    """A dot with its interval for each contestant, its name above."""
    n = len(forest.names)
    figure = new_figure(6.7 if not title else 8, 0.44 * n + (1.0 if not title else 1.4))
    axes = figure.subplots()
    style(axes)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    low, high = _limits(forest)
    axes.axvline(_place(forest, 0.0), color=FAINT, linewidth=1)
    for row, (name, change) in enumerate(zip(forest.names, forest.changes, strict=True)):
        y = n - 1 - row
        colour, gid = looks[name].colour, f"line-{index[name]}" if name in index else None
        ends = np.clip([_place(forest, x) for x in (change.low, change.high)], low, high)
        middle = float(np.clip(_place(forest, change.value), low, high))
        (bar,) = axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        beyond = _place(forest, change.value) != middle
        marker = ("<" if middle == low else ">") if beyond else "o"
        (dot,) = axes.plot([middle], [y], marker, color=colour, markersize=7, clip_on=False)
        bar.set_gid(gid)
        dot.set_gid(gid)
        _write(axes, 0.0, y + 0.24, _short(name), "left")
        _write(axes, 1.0, y + 0.24, interval_text(change, forest.relative), "right")
    axes.set_ylim(-0.6, n - 0.2)
    axes.set_yticks([])
    axes.set_xlim(low, high)
    _label(axes, forest, low, high)
    if title:
        head = figure.suptitle(clean(f"{title}: {forest.title.lower()}"), fontsize=12, x=0.01, ha="left", color=INK)
        head.set_parse_math(False)
    return figure


def draw_transfer(transfer: Transfer) -> Figure:
    """The heat map: blue is a lower loss than the reference's, orange a higher one."""
    rows, columns = len(transfer.contestants), len(transfer.titles)
    figure = new_figure(3.6 + 1.7 * columns, 1.8 + 0.36 * rows)
    axes = figure.subplots()
    for i, (cells, states) in enumerate(zip(transfer.cells, transfer.states, strict=True)):
        for j, ((text, value), state) in enumerate(zip(cells, states, strict=True)):
            colour = diverging(strength(value)) if state == "changed" else "white"
            hatch = "////" if state == "failed" else None
            box = Rectangle((j, i), 1, 1, facecolor=colour, edgecolor=GRID, linewidth=0.8, hatch=hatch)
            axes.add_patch(box)
            shown = axes.text(
                j + 0.5, i + 0.5, text.replace(" (", "\n("), ha="center", va="center", fontsize=8, color=DARK
            )
            if state == "failed":
                shown.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks(np.arange(columns) + 0.5, [_wrap(t) for t in transfer.titles], fontsize=8.5, parse_math=False)
    axes.set_yticks(np.arange(rows) + 0.5, [_short(c) for c in transfer.contestants], fontsize=8.5, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    figure.suptitle(transfer.title, fontsize=12, x=0.01, ha="left", color=INK)
    figure.supxlabel(NOTE, fontsize=8.5, x=0.01, ha="left", color="#555555")
    return figure


def _place(forest: Forest, change: float) -> float:
    """Where a change stands on the axis: the logarithm of the ratio of the losses, or the difference itself."""
    if not forest.relative:
        return change
    return float(np.log(max(1 + change / 100, 1e-300))) if np.isfinite(change) else change


def _limits(forest: Forest) -> tuple[float, float]:
    places = [_place(forest, x) for c in forest.changes for x in (c.value, c.low, c.high)]
    known = np.array([p for p in places if np.isfinite(p)] + [0.0])
    if forest.relative:
        known = np.clip(known, -np.log(FARTHEST), np.log(FARTHEST))
    margin = 0.06 * float(np.ptp(known)) or 0.05
    return float(known.min()) - margin, float(known.max()) + margin


def _label(axes: Axes, forest: Forest, low: float, high: float) -> None:
    what = "change of the loss" if forest.relative else "mean difference of the loss"
    axes.set_xlabel(f"{what} at step {forest.step}  (left is better)", fontsize=11, color=INK)
    inside = [p for p in PERCENT if low <= np.log1p(p / 100) <= high]
    if not forest.relative or len(inside) < 3:  # less than a factor: the axis is as good as linear
        if forest.relative:
            ticks = [t for t in axes.get_xticks() if low <= t <= high]
            axes.set_xticks(ticks, [f"{100 * np.expm1(t):+.3g}%" for t in ticks])
        return
    while len(inside) > TICKS + 1:
        zero = inside.index(0)
        inside = [p for i, p in enumerate(inside) if (i - zero) % 2 == 0]
    axes.set_xticks([float(np.log1p(p / 100)) for p in inside], [f"{p:+d}%" if p else "0" for p in inside])


def _write(axes: Axes, x: float, y: float, text: str, side: str) -> Text:
    written = axes.text(x, y, text, ha=side, va="bottom", fontsize=10, color=INK, transform=axes.get_yaxis_transform())
    written.set_parse_math(False)
    return written


def _short(name: str) -> str:
    text = clean(name)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _wrap(title: str) -> str:
    words, lines = clean(title).split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 15 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
