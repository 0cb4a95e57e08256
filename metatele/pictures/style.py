"""What all figures share: colours, and how they are written."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metatele.support.files import write_atomic

# Okabe and Ito's colours, which colour-blind readers tell apart; without yellow and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#5f5f5f", "#8a8a8a", "#b0b0b0")
INK, GRID, FAINT = "#010203", "#e3e3e2", "#6e6e6d"  # of text, grid and frame; a page replaces them by its own


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (in inches) that can be saved without a window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, size: float = 8.5) -> None:
    """A light grid, no frame at the top and on the right, and ticks with numbers of a size in points."""
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=size)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF; the paths.

    Raises: OutputError.
    """
    paths = []
    for name, figure in figures.items():
        for ending, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=160, metadata=metadata)
            figure.set_layout_engine("none")  # one layout is enough, and both files look alike
            paths.append(folder / f"{name}.{ending}")
            write_atomic(paths[-1], buffer.getvalue())
    return paths
