"""The figure of `ImageOptimizers`: losses against epochs and against seconds, a row for each optimizer."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from metatele.experiments.harness.drawing import variant_looks
from metatele.experiments.harness.training import Curves
from metatele.pictures.style import new_figure, tidy

LOSSES = {"train": "training loss", "validation": "validation loss"}


def draw_optimizers(found: Mapping[tuple[str, str], Curves], teleport_epochs: int, title: str) -> Figure:
    """Lines are geometric means over seeds, bands go from the smallest to the largest seed.

    Args:
        found: the curves of each optimizer and variant, recorded once an epoch.
        teleport_epochs: how many of the first epochs begin with a teleport.
        title: what stands above the figure.
    """
    optimizers, variants = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    looks = variant_looks(variants)
    figure = new_figure(13, 2.5 * len(optimizers) + 0.8)
    grid = figure.subplots(len(optimizers), 4, squeeze=False, sharey="col")
    for optimizer, row in zip(optimizers, grid, strict=True):
        for i, (loss, axis) in enumerate((loss, axis) for axis in ("epoch", "seconds") for loss in LOSSES):
            for variant in variants:
                curves = found[optimizer, variant]
                x = np.arange(len(curves.step)) if axis == "epoch" else curves.seconds.numpy()
                values = getattr(curves, loss).numpy()
                values = values[:, np.isfinite(values).all(0)]
                if values.shape[1]:
                    colour = looks[variant]["color"]
                    row[i].fill_between(x, values.min(1), values.max(1), alpha=0.12, linewidth=0, color=colour)
                    row[i].plot(x, np.exp(np.log(values).mean(1)), linewidth=1.5, label=variant, **looks[variant])
            if axis == "epoch":
                row[i].axvspan(0, teleport_epochs - 1, color="#f4f1e6", zorder=0)
            row[i].set_yscale("log")
            row[i].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            row[i].yaxis.set_major_formatter("{x:g}")
            row[i].minorticks_off()
            row[i].set_title(f"{optimizer}: {LOSSES[loss]}", fontsize=9.5, loc="left")
            row[i].set_xlabel("epoch" if axis == "epoch" else "seconds of one core, all seeds together", fontsize=8.5)
            row[i].set_xlim(left=0)
            tidy(row[i])
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.suptitle(f"{title}\nlines: geometric means; bands: all seeds; shaded: epochs that teleport", fontsize=10)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(variants), frameon=False, fontsize=10)
    return figure
