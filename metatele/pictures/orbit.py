"""The orbit of a network drawn on the landscape of its loss."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.landscape import Landscape, LossFunction
from metatele.pictures.style import COLOURS, new_figure, tidy
from metatele.pictures.traces import Runs, Slice, Trace, losses, trace_runs
from metatele.support.checks import above_zero, at_least
from metatele.task.params import Params
from metatele.teleports import OptimisedTeleport, Teleport
from metatele.teleports.groupless import check_deterministic
from metatele.torch_model import check_arguments

BEFORE, PLAIN, TELEPORTED, ORBIT = "#5f5f5f", COLOURS[0], COLOURS[1], "#2b2b2b"
# Dark where the loss is low: a valley.
VALLEY = LinearSegmentedColormap.from_list("valley", ["#b9c6d3", "#dde4ea", "#fbfbfa"])
FRAME = 0.2  # around the drawn points, as a part of their extent
SHAPE = 1.3  # width of a picture of level sets, in units of its height
SQUEEZE = 3  # how much larger than needed an axis may get for equal units
LEVELS = 14
Box = tuple[float, float, float, float]  # left, right, bottom, top


def draw_orbit(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
    *,
    by: Teleport | None = None,
    lr: float = 0.01,
    before: int = 5,
    steps: int = 20,
    directions: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    resolution: int = 81,
    seed: int = 0,
) -> Figure:
    """Draw a teleport of a model: gradient descent with and without it over the level sets of the loss.

        metatele.draw_orbit(model, (x, y), loss_fn, lr=0.05, steps=30).savefig("orbit.png")

    Gradient descent runs for `before` steps to theta; from there it goes on with and without the
    teleport along the orbit's path exp(t T) . theta. The plane that is drawn goes through theta, the
    point g . theta teleported to, and the last iterate without the teleport; everything else is
    projected onto it, and the caption says from how far. Beside it, the loss against the step.

    The model is left as it is.

    Args:
        model, batch, loss_fn, seed: see `metatele.teleport`.
        by: the teleport; by default `OptimisedTeleport()`, up the gradient norm.
        lr: step size of gradient descent.
        before, steps: steps before and after the teleport.
        directions: two directions in the space of parameters, each a tensor for every parameter, to
            draw the plane through theta along them instead.
        resolution: points along each axis of the grid on which the loss is evaluated.
    Returns: the figure, which `savefig` writes to a file.
    Raises: ConfigError for bad arguments, a random forward pass, or a run that diverges; SymmetryError if
        the model has no known symmetry, the teleport moves nothing, or it leads to values that are not finite.
    """
    check_arguments(model, batch, loss_fn, (), seed)
    at_least(0, before=before)
    at_least(1, steps=steps)
    at_least(2, resolution=resolution)
    above_zero(lr=lr)
    by = OptimisedTeleport() if by is None else by
    if not isinstance(by, Teleport):
        raise ConfigError(f"by must be a teleport such as Balance(), got {by!r}")
    landscape, params = _on_landscape(model, batch, loss_fn)
    runs = trace_runs(landscape, params, by, lr, before, steps, seed)
    plane, names = _plane(runs, directions)
    figure = new_figure(10.5, 4.9)
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
    draw_levels(left, landscape, params, plane, box_around(plane, runs), resolution, float(runs.orbit.loss[0]))
    draw_runs(left, plane, runs)
    left.set(xlabel=names[0], ylabel=names[1])
    left.set_title(f"{type(by).__name__} on the landscape of the loss", fontsize=11, loc="left")
    draw_losses(right, runs)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.supxlabel(caption(plane, runs), fontsize=8.5, color="#666666")
    return figure


def _on_landscape(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: LossFunction) -> tuple[Landscape, Params]:
    """The landscape of a model's loss on one task, and the model's parameters. Raises: ConfigError if it is random."""
    landscape = Landscape(model, loss_fn, batch[0].unsqueeze(0), batch[1].unsqueeze(0))
    params = {k: p.detach().clone().unsqueeze(0) for k, p in model.named_parameters()}
    with torch.no_grad():
        check_deterministic("draw_orbit", landscape.loss(params), landscape.loss(params))
    return landscape, params


def _plane(runs: Runs, directions: tuple[Sequence[Tensor], Sequence[Tensor]] | None) -> tuple[Slice, tuple[str, str]]:
    """The plane to draw, and the names of its axes."""
    start = runs.orbit.points[0]
    if directions is None:
        first, second = runs.orbit.points[-1] - start, runs.plain.points[-1] - start
        names = "along $g\\cdot\\theta - \\theta$", "across, towards the end without teleport"
    else:
        first, second = (torch.cat([d.detach().flatten() for d in way]) for way in directions)
        names = "along the first direction", "across, towards the second"
        if len(first) != len(start) or len(second) != len(start):
            raise ConfigError(
                f"directions must have a number for each of the {len(start)} parameters, got {len(first)} and "
                f"{len(second)}; give a tensor for every parameter of the model"
            )
    return Slice.through(start, first.to(start), second.to(start)), names


def box_around(plane: Slice, runs: Runs) -> Box:
    """A rectangle of the plane that holds the runs with a margin; with equal units if that does not squeeze them."""
    seen = plane.coordinates(runs.all_points).double().cpu().numpy()
    low, high = seen.min(0), seen.max(0)
    extent = (1 + 2 * FRAME) * np.maximum(high - low, 0.02 * (high - low).max())
    equal = np.maximum(extent, extent[::-1] * np.array([SHAPE, 1 / SHAPE]))
    if (equal < SQUEEZE * extent).all():
        extent = equal
    (left, bottom), (right, top) = (low + high - extent) / 2, (low + high + extent) / 2
    return float(left), float(right), float(bottom), float(top)


def draw_levels(
    axes: Axes,
    landscape: Landscape,
    params: Params,
    plane: Slice,
    box: Box,
    resolution: int = 81,
    emphasised: float | None = None,
) -> None:
    """Level sets of one network's loss in a rectangle of a plane; one level may be drawn darker."""
    a = torch.linspace(*box[:2], resolution, dtype=plane.origin.dtype, device=plane.origin.device)
    b = torch.linspace(*box[2:], resolution, dtype=plane.origin.dtype, device=plane.origin.device)
    grid = torch.cartesian_prod(b, a).flip(1)
    values = losses(landscape, params, plane.at(grid)).reshape(resolution, resolution).double().cpu().numpy()
    x, y = a.cpu().numpy(), b.cpu().numpy()
    levels, shown = _levels(values)
    axes.contourf(x, y, shown, levels=levels, cmap=VALLEY, norm="log" if levels[0] > 0 else None, extend="max")
    axes.contour(x, y, shown, levels=levels[1:], colors="#8d9aa7", linewidths=0.5)
    if emphasised is not None:
        axes.contour(x, y, values, levels=[emphasised], colors=ORBIT, linewidths=0.8, linestyles=[(0, (1, 2))])
    axes.set_xlim(*box[:2])
    axes.set_ylim(*box[2:])
    axes.spines[["top", "right"]].set_visible(False)


def _levels(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Levels of a grid of losses, and the grid within what can be drawn."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or np.ptp(finite) == 0:
        everywhere = f"{finite[0]:g}" if len(finite) else "not finite"
        raise ConfigError(f"the loss is {everywhere} on all of the slice; draw other directions")
    top = np.quantile(finite, 0.97)
    if finite.min() >= 0 < top:
        levels = np.geomspace(max(np.quantile(finite, 0.01), 1e-3 * top), top, LEVELS)
    else:
        levels = np.linspace(finite.min(), top, LEVELS)
    return levels, np.maximum(np.where(np.isfinite(values), values, finite.max()), levels[0])


def draw_runs(axes: Axes, plane: Slice, runs: Runs) -> None:
    """Gradient descent with and without a teleport, and the path of the teleport, in a plane."""
    dots: Any = {"marker": "o", "markersize": 3.2, "linewidth": 1.3, "markeredgewidth": 0}
    if len(runs.before.points) > 1:
        axes.plot(*_in(plane, runs.before), color=BEFORE, label="before", zorder=4, **dots)
    axes.plot(*_in(plane, runs.plain), color=PLAIN, label="without teleport", zorder=4, **dots)
    x, y = _in(plane, runs.orbit)
    label = "teleport" if len(x) == 2 else r"orbit, $\exp(tT)\cdot\theta$"
    axes.plot(x, y, color=ORBIT, linestyle=(0, (4, 2)), linewidth=1.5, label=label, zorder=5)
    axes.plot(*_in(plane, runs.jumped), color=TELEPORTED, label="with teleport", zorder=4, **dots)
    for i, text in ((0, r"$\theta$"), (-1, r"$g\cdot\theta$")):
        axes.plot(x[i], y[i], "o", markersize=6.5, markerfacecolor="white", markeredgecolor=ORBIT, zorder=6)
        name = axes.annotate(text, (x[i], y[i]), xytext=(6, 6), textcoords="offset points", fontsize=11, zorder=7)
        name.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def draw_losses(axes: Axes, runs: Runs) -> None:
    """The loss against the step, with and without the teleport."""
    before = len(runs.before.loss) - 1
    for trace, first, colour in (
        (runs.before, 0, BEFORE),
        (runs.plain, before, PLAIN),
        (runs.jumped, before, TELEPORTED),
    ):
        axes.plot(np.arange(first, first + len(trace.loss)), trace.loss.cpu(), color=colour, linewidth=1.8)
    axes.plot(before, float(runs.orbit.loss[0]), "o", markersize=6.5, markerfacecolor="white", markeredgecolor=ORBIT)
    if all(bool((t.loss > 0).all()) for t in (runs.before, runs.plain, runs.jumped)):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    tidy(axes, 10)


def caption(plane: Slice, runs: Runs) -> str:
    """How far what is drawn is from the plane it is drawn in, and how well the orbit keeps the loss."""
    orbit = runs.orbit
    length = float((orbit.points[-1] - orbit.points[0]).norm())
    away = [float(plane.distance(t.points).max()) / length for t in (orbit, runs.plain, runs.jumped)]
    change = float((orbit.loss - orbit.loss[0]).abs().max() / orbit.loss[0].abs().clamp_min(1e-30))
    return textwrap.fill(
        f"A plane of the {plane.origin.numel()}-dimensional parameter space; dotted: the level of the loss at the "
        f"teleport. Farthest from the plane, in units of |gθ - θ| = {length:.3g}: orbit {away[0]:.2g}, "
        f"without teleport {away[1]:.2g}, with {away[2]:.2g}. "
        f"Along the orbit the loss changes by {change:.1g} (relative).",
        130,
    )


def _in(plane: Slice, trace: Trace) -> NDArray[np.float64]:
    """x and y of a trace, [2, K]."""
    coordinates: NDArray[np.float64] = plane.coordinates(trace.points).mT.double().cpu().numpy()
    return coordinates
