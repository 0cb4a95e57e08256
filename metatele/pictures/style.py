"""What all figures share: colours, and how they are written."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from metatele.support.files import write_atomic

# Okabe and Ito's colours, which colour-blind readers tell apart; without yellow and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#5f5f5f", "#8a8a8a", "#b0b0b0")


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF; the paths.

    Raises: OutputError.
    """
    paths = []
    for name, figure in figures.items():
        for ending, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=160, metadata=metadata)
            figure.set_layout_engine("none")  # arranged once is enough, and both are alike
            paths.append(folder / f"{name}.{ending}")
            write_atomic(paths[-1], buffer.getvalue())
    return paths
