"""The forest plot and the heat map as matplotlib figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Transform, blended_transform_factory

from metatele.evaluation.formats import interval_text
from metatele.pictures.style import FAINT, GRID, INK, new_figure, tidy
from metatele.report.figures.changes import Forest, Transfer, strength
from metatele.report.figures.drawing import LABELS
from metatele.report.figures.looks import Look
from metatele.report.figures.palette import DARK, diverging
from metatele.report.text import clean

FARTHEST = 100.0  # times better or worse; beyond this an arrow is drawn
PERCENT = (-99, -98, -95, -90, -80, -50, -20, 0, 25, 100, 400, 900, 1900, 4900, 9900)
GAP = 0.17  # least distance of ticks, as a share of the axis: they must be legible on phones
NOTE = "Blue: a lower loss, orange: a higher one; the scale ends at 1/3 and 3 times. ▲ better and ▼ worse: verdicts."
LONGEST = 46  # letters of a name
CHARACTER = 0.108  # inches of width; pages write larger on phones


def draw_forest(forest: Forest, looks: Mapping[str, Look], index: Mapping[str, int], title: str = "") -> Figure:
    """A dot with its interval for each contestant, its name above."""
    n = len(forest.names)
    width, height = (6.7, 0.44 * n + 1.0) if not title else (8.6, 0.44 * n + 1.4)
    figure = new_figure(width, height)
    texts = [interval_text(change, forest.relative) for change in forest.changes]
    column = min(0.5, CHARACTER * max(map(len, texts)) / width)  # on the right, for the numbers
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1 - column, 1))
    axes = figure.subplots()
    tidy(axes, LABELS)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    low, high = _limits(forest)
    zero = _place(forest, 0.0)
    for row, (name, change) in enumerate(zip(forest.names, forest.changes, strict=True)):
        y = n - 1 - row
        axes.plot([zero, zero], [y - 0.34, y + 0.2], color=FAINT, linewidth=1, zorder=1)  # not through the names
        colour, gid = looks[name].colour, f"line-{index[name]}" if name in index else None
        ends = np.clip([_place(forest, x) for x in (change.low, change.high)], low, high)
        middle = float(np.clip(_place(forest, change.value), low, high))
        (bar,) = axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        beyond = _place(forest, change.value) != middle
        marker = ("<" if middle == low else ">") if beyond else "o"
        (dot,) = axes.plot([middle], [y], marker, color=colour, markersize=7, clip_on=False)
        bar.set_gid(gid)
        dot.set_gid(gid)
        _write(axes, 0.0, y + 0.24, _short(name), axes.get_yaxis_transform(), ha="left", va="bottom")
        beside = blended_transform_factory(figure.transFigure, axes.transData)
        written = _write(axes, 0.995, y, texts[row], beside, ha="right", va="center")
        written.set_in_layout(False)
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
    """The axis of the changes: ticks at round percentages."""
    what = "change of the loss" if forest.relative else "mean difference of the loss"
    axes.set_xlabel(f"{what} at step {forest.step}  (left is better)", fontsize=11, color=INK)
    inside = [p for p in PERCENT if low <= np.log1p(p / 100) <= high]
    if not forest.relative or len(inside) < 3:  # over so small a range the axis is nearly linear
        if forest.relative:
            ticks = [t for t in axes.get_xticks() if low <= t <= high]
            axes.set_xticks(ticks, [f"{100 * np.expm1(t):+.3g}%" for t in ticks])
        return
    inside = _spaced(inside, GAP * (high - low))
    axes.set_xticks([float(np.log1p(p / 100)) for p in inside], [f"{p:+d}%" if p else "0" for p in inside])


def _spaced(changes: Sequence[int], gap: float) -> list[int]:
    """Zero, and on both sides of it those that are far enough from the one before."""
    kept = [0]
    for side in ([c for c in changes if c > 0], [c for c in reversed(changes) if c < 0]):
        last = 0.0
        for c in side:
            if abs(np.log1p(c / 100) - last) >= gap:
                kept.append(c)
                last = float(np.log1p(c / 100))
    return sorted(kept)


def _write(axes: Axes, x: float, y: float, text: str, place: Transform, *, ha: str, va: str) -> Text:
    written = axes.text(x, y, text, ha=ha, va=va, fontsize=10, color=INK, transform=place)
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
