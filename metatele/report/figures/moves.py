"""The figure of what teleports do: how far they move, and what that does to loss and gradient."""

import numpy as np

from metatele.evaluation import Evaluation, Moves
from metatele.report.figures.curves import median, quartiles
from metatele.report.figures.frames import Frame, Line, Panel

SMALLEST = 1e-9  # smaller changes of a loss are drawn as this
UNCHANGED = "largest change of the loss"


def group_elements(evaluation: Evaluation) -> Frame | None:
    """One panel per layer, and two for loss and gradient norm; None if no contestant teleports."""
    moves = {e.name: m for e in evaluation.ran if (m := e.all_moves) is not None and len(m.steps)}
    if not moves:
        return None
    layers = max(m.sizes.shape[1] for m in moves.values())
    panels = [
        _panel(f"layer {k + 1}", "size of the element", [_size(n, m, k) for n, m in moves.items()])
        for k in range(layers)
    ]
    panels.append(_panel("loss", UNCHANGED, [_loss(n, m) for n, m in moves.items()], log=True))
    ratios = [line for n, m in moves.items() if np.isfinite((line := _ratio(n, m)).y).any()]
    if ratios:
        panels.append(_panel("gradient norm", "after a teleport / before", ratios, log=True, level=1.0))
    caption = (
        "Size: distance of the element of a layer's group from the identity (median over tasks). "
        "Loss: largest relative change by a teleport over all tasks, which must be about the rounding of "
        f"float32, 1e-6 to 1e-5 (drawn as {SMALLEST:g} where smaller). Gradient norm: the median of its ratio."
    )
    return Frame("group_elements", "What the teleports do", caption, tuple(panels))


def _panel(title: str, y: str, lines: list[Line], log: bool = False, level: float | None = None) -> Panel:
    kept = tuple(line for line in lines if np.isfinite(line.y).any())
    return Panel(title, "step", y, "linear", "log" if log else "linear", kept, level)


def _size(name: str, moves: Moves, layer: int) -> Line:
    if layer >= moves.sizes.shape[1]:
        return Line(name, moves.steps.astype(np.float64), np.full(len(moves.steps), np.nan))
    values = moves.sizes[:, layer].astype(np.float64)
    return Line(name, moves.steps.astype(np.float64), median(values), *quartiles(values))


def _loss(name: str, moves: Moves) -> Line:
    change = np.abs(moves.loss_change.astype(np.float64))
    worst = np.where(np.isfinite(change), change, -1.0).max(1)
    drawn = np.where(worst < 0, np.nan, np.maximum(worst, SMALLEST))
    return Line(name, moves.steps.astype(np.float64), drawn)


def _ratio(name: str, moves: Moves) -> Line:
    change = moves.gradient_change.astype(np.float64)
    values = np.where(np.isfinite(change) & (change > 0), change, np.nan)
    return Line(name, moves.steps.astype(np.float64), median(values), *quartiles(values))
