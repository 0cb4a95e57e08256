"""The three figures of an evaluation, as in the paper."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from metatele.evaluation.entry import Entry
from metatele.evaluation.run import Scored
from metatele.files import write_atomic

# Okabe and Ito's colours, which colour-blind readers tell apart; without yellow and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#5f5f5f", "#8a8a8a", "#b0b0b0")
OFF, RULE = (0, (5, 2)), (0, (4, 1.5, 1, 1.5))  # dashes of the two kinds of controls
LINES, BANDS = "lines: means over tasks, geometric on logarithmic axes", "bands: middle half of the tasks"
ROWS = {"inner": "training loss", "test": "loss on unseen rows"}

Curve = NDArray[np.float64]
Scale = Literal["linear", "log"]
Dashes = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How one contestant is drawn in all figures."""

    colour: str
    dashes: Dashes
    width: float
    order: int


def draw_figures(entries: Sequence[Entry], part: Scored, title: str) -> dict[str, Figure]:
    """The figures {file name without ending: figure}.

    Lines are geometric means over the tasks that ran all steps, bands go from the lower to the
    upper quartile of the tasks. Where a number is negative the axis is linear and the lines are
    arithmetic means; zeros are drawn as the smallest positive number.

    Args:
        entries: the contestants; a colour belongs to a checkpoint and its controls.
        part: whose loss to draw against step and time; the gradient norm belongs to the inner loss.
        title: what stands above each figure.
    """
    step, seconds, gradient = (Figure(figsize=(9.5, 5.2), layout="constrained") for _ in range(3))
    looks = _looks(entries)
    tasks = entries[0].run.inner.shape[1]

    axes = _axes(step, title, f"{LINES}; {BANDS}", "step", ROWS[part])
    _draw_losses(axes, entries, looks, part, [np.arange(e.run.steps + 1) for e in entries])
    axes.set_xlim(0, entries[0].run.steps)

    axes = _axes(seconds, title, f"{LINES}; {BANDS}", f"wall-clock time for all {tasks} tasks together [s]", ROWS[part])
    # Step 0 has no place on a logarithmic axis.
    _draw_losses(axes, entries, looks, part, [np.where(e.seconds > 0, e.seconds, np.nan) for e in entries])
    axes.set_xscale("log")

    axes = _axes(gradient, title, f"{LINES}; dots: last step", ROWS["inner"], "gradient norm")
    _draw_gradients(axes, entries, looks)
    figures = {"loss_against_step": step, "loss_against_time": seconds, "gradient_against_loss": gradient}
    for figure in figures.values():
        FigureCanvasAgg(figure)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=2.8, labelspacing=0.7)
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF; the paths.

    Raises: OutputError.
    """
    paths = []
    for name, figure in figures.items():
        for ending, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=160, metadata=metadata)
            paths.append(folder / f"{name}.{ending}")
            write_atomic(paths[-1], buffer.getvalue())
    return paths


def _axes(figure: Figure, title: str, note: str, x: str, y: str) -> Axes:
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left", pad=20)
    axes.annotate(
        note, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color="#666666"
    )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _looks(entries: Sequence[Entry]) -> dict[str, Look]:
    out: dict[str, Look] = {}
    checkpoints = baselines = 0
    for e in entries:
        c = e.contestant
        if c.kind == "baseline":
            out[c.name] = Look(GREYS[baselines % len(GREYS)], ("-", ":", "--")[baselines % 3], 1.6, 2)
            baselines += 1
        elif c.kind == "control" and c.source in out:
            out[c.name] = Look(out[c.source].colour, RULE if c.inner.teleport.moves else OFF, 1.6, 4)
        else:
            out[c.name] = Look(COLOURS[checkpoints % len(COLOURS)], "-", 2.2, 5)
            checkpoints += 1
    return out


def _draw_losses(
    axes: Axes, entries: Sequence[Entry], looks: Mapping[str, Look], part: Scored, xs: Sequence[ArrayLike]
) -> None:
    losses, scale = _scaled([_finished(e, e.run.loss(part)) for e in entries])
    for entry, loss, x in zip(entries, losses, xs, strict=True):
        look = looks[entry.name]
        if loss.shape[1] > 1:
            low, high = np.quantile(loss, [0.25, 0.75], axis=1)
            axes.fill_between(x, low, high, color=look.colour, alpha=0.10, linewidth=0, zorder=1)
        _line(axes, entry, look, x, _centres(loss, scale))
    axes.set_yscale(scale)


def _draw_gradients(axes: Axes, entries: Sequence[Entry], looks: Mapping[str, Look]) -> None:
    losses, x_scale = _scaled([_finished(e, e.run.inner) for e in entries])
    norms, y_scale = _scaled([_finished(e, e.run.gradient_norm) for e in entries])
    for entry, loss, norm in zip(entries, losses, norms, strict=True):
        look = looks[entry.name]
        x, y = _centres(loss, x_scale), _centres(norm, y_scale)
        _line(axes, entry, look, x, y)
        axes.plot(x[-1:], y[-1:], "o", color=look.colour, markersize=4.5, zorder=look.order + 1)
    axes.set_xscale(x_scale)
    axes.set_yscale(y_scale)


def _line(axes: Axes, entry: Entry, look: Look, x: ArrayLike, y: Curve) -> None:
    diverged, tasks = entry.run.diverged, len(entry.run.stopped_at)
    # matplotlib reads $ as mathematics, and leaves labels that begin with _ out of the legend.
    label = textwrap.fill(entry.contestant.label, 34).replace("$", r"\$")
    label = f" {label}" if label.startswith("_") else label
    label += f"\n({diverged} of {tasks} tasks diverged)" if diverged else ""
    x = x if len(y) else []
    axes.plot(x, y, color=look.colour, linestyle=look.dashes, linewidth=look.width, zorder=look.order, label=label)


def _finished(entry: Entry, values: ArrayLike) -> Curve:
    """The columns of the tasks that ran all steps."""
    return np.asarray(values, np.float64)[:, entry.run.finished]


def _scaled(values: Sequence[Curve]) -> tuple[list[Curve], Scale]:
    """The values as an axis can show them, and the axis's scale."""
    everything = np.concatenate([v.ravel() for v in values])
    positive = everything[everything > 0]
    if len(positive) == 0 or (everything < 0).any():
        return list(values), "linear"
    return [np.maximum(v, positive.min()) for v in values], "log"


def _centres(values: Curve, scale: Scale) -> Curve:
    """Mean over tasks at each step, [S + 1]; empty without tasks."""
    if values.shape[1] == 0:
        return np.empty(0)
    return np.exp(np.log(values).mean(1)) if scale == "log" else values.mean(1)
