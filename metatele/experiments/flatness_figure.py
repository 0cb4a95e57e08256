"""The figure of `TeleportOnce`: validation loss against epoch, and what the teleports changed at the end."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from metatele.experiments.harness.drawing import variant_looks
from metatele.experiments.harness.paired import Paired
from metatele.experiments.harness.training import Curves
from metatele.pictures.style import new_figure, tidy

PANELS = {"validation": "validation loss", "train": "training loss"}
BEFORE = 5  # epochs before the branch that are drawn


def draw_flatness(
    trunk: Curves,
    branches: Mapping[str, Curves],
    changes: Mapping[str, Mapping[str, Paired]],
    branch: int,
    title: str,
) -> Figure:
    """Left: means over seeds of the validation loss. Right: paired changes at the end.

    Args:
        trunk: the curves up to the branch.
        branches: those of each variant from the branch on; the first is without teleports.
        changes: each variant's outcomes at the end, against the first one's.
        branch: the epoch of the branch.
        title: what stands above the figure.
    """
    figure = new_figure(12.5, 4.6)
    curve, *forests = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
    looks = variant_looks(list(branches))
    assert trunk.validation is not None  # the problem has validation rows
    first = max(0, branch - BEFORE)
    curve.plot(range(first, branch + 1), trunk.validation.mean(1)[first:], lw=1.5, **looks[next(iter(branches))])
    for name, curves in branches.items():
        assert curves.validation is not None
        mean = curves.validation.mean(1).numpy()
        curve.plot(branch + np.arange(len(mean)), mean, lw=1.5, label=name, **looks[name])
    curve.axvline(branch, color="#999999", lw=0.8, ls=":")
    curve.set_xlabel("epoch")
    curve.set_title("validation loss, mean over seeds", fontsize=10, loc="left")
    curve.legend(frameon=False, fontsize=8.5)
    tidy(curve)
    for axes, outcome in zip(forests, PANELS, strict=True):
        names = list(branches)[1:]
        for i, name in enumerate(names):
            d = changes[name][outcome].change
            axes.plot([d.low, d.high], [i, i], color=looks[name]["color"], lw=2.2, solid_capstyle="butt")
            axes.plot(d.value, i, "o", color=looks[name]["color"], ms=6)
        axes.axvline(0, color="#3a3a3a", lw=0.9)
        axes.set_yticks(range(len(names)), names if outcome == "validation" else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        heading = f"{PANELS[outcome]} at the end: change\nfrom no teleport in %, 95% interval"
        axes.set_title(heading, fontsize=10, loc="left")
        tidy(axes)
        axes.locator_params(axis="x", nbins=5)
    figure.suptitle(title, fontsize=10)
    return figure
