"""Gradient descent on test functions with and without one teleport, and the theory behind it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from metatele.evaluation.statistics import Interval
from metatele.experiments.functions import Booth, Quadratic, Rosenbrock
from metatele.experiments.harness.base import NO_TELEPORT, Experiment, Findings, Progress
from metatele.experiments.harness.drawing import plain_table
from metatele.experiments.harness.grid import FLOOR, PER_DECADE, Tuned, best_rate, curve_of, geometric_mean, rate_grid
from metatele.experiments.harness.paired import compare_paired
from metatele.experiments.harness.training import train_stack
from metatele.experiments.quadratics import (
    angles,
    classical_rates,
    plain_landscape,
    plain_problem,
    random_quadratics,
    steps_needed,
    teleported,
)
from metatele.optimizer import InnerOptimizer
from metatele.pictures.orbit import PLAIN, TELEPORTED, box_around, draw_levels, draw_runs
from metatele.pictures.style import new_figure, tidy
from metatele.pictures.traces import Runs, Slice, Trace, descend, follow
from metatele.support.checks import LARGEST, at_least, within
from metatele.support.messages import number
from metatele.support.seeding import generator
from metatele.teleports import OptimisedTeleport, RandomTeleport, Stay, Teleport
from metatele.update import GradientDescent

RANDOM, SHORT, OPTIMAL = "random teleport", "short teleport", "optimal teleport"
VARIANT_COLOURS = {NO_TELEPORT: PLAIN, RANDOM: "#8a8a8a", SHORT: "#009E73", OPTIMAL: TELEPORTED}
SPREAD = 3.0  # standard deviation of a random teleport, in radians: anywhere on the orbit
DRAWN = 40  # steps of the trajectories drawn
BLOWN = 10  # a drawn trajectory ends where its loss exceeds this multiple of the initial loss


@dataclass(frozen=True)
class PlaneFunction:
    """A function of the plane, and the rectangle that starts are uniform in: (low, high) of x and of y."""

    network: nn.Module
    x: tuple[float, float]
    y: tuple[float, float]

    def starts(self, count: int, *names: object) -> Tensor:
        """`count` random starts, [count, 2]."""
        low, high = torch.tensor([self.x, self.y], dtype=torch.float64).T
        unit = torch.rand(count, 2, generator=generator("level sets", *names), dtype=torch.float64)
        return low + unit * (high - low)


FUNCTIONS: Mapping[str, PlaneFunction] = {
    "Quadratic": PlaneFunction(Quadratic(torch.tensor([[5.5, 4.5], [4.5, 5.5]]), [1, 1]), (-2, 2), (-2, 2)),
    "Booth": PlaneFunction(Booth([0, 0]), (-10, 10), (-10, 10)),
    "Rosenbrock": PlaneFunction(Rosenbrock([0, 0]), (-2, 2), (-1, 3)),
}


@dataclass(frozen=True)
class Descent:
    """Gradient descent on a test function from many starts, with one variant's teleport before it.

    Attributes:
        tuned: its learning rate, from other starts.
        loss: [steps + 1, starts]; not finite from the step at which a run diverged.
        finished: which runs did not diverge, [starts].
    """

    tuned: Tuned
    loss: NDArray[np.float64]
    finished: NDArray[np.bool_]


def descent(rate: float) -> InnerOptimizer:
    """Gradient descent with a learning rate."""
    return InnerOptimizer(GradientDescent(rate))


class LevelSetTrajectories(Experiment):
    """One teleport before gradient descent: the theory on random quadratics, and three functions of the plane.

    On random quadratics w^T A w, starts standard normal: the angle between gradient and Newton
    direction after a teleport to the largest gradient norm, and the steps that gradient descent then
    takes at the two classical step sizes, 1 / L and 2 / (L + mu). On a quadratic, Booth's and
    Rosenbrock's function: the loss against the step, with learning rates tuned for each variant on
    other starts, on the same grid, for the geometric mean of the loss over all steps. The control goes
    to a random point of the orbit; a short teleport stops after 10 ascent steps of length 0.1. In float64.

    Args:
        dimensions, conditions: of the random quadratics: every n with every condition number L / mu.
        quadratics, starts: quadratics of each kind, and starts on each.
        ascent_steps: of the teleport, with steps of length 1, halved whenever one makes no progress.
        target: the steps are counted until the loss is this fraction of its initial value.
        steps: of gradient descent on the three functions.
        runs, tuning_runs: starts on each of them, held out and to tune the learning rates on.
        rates: the lowest and the highest learning rate of the grid, 8 a decade.
        seed: what all random draws depend on.
    Source: Zhao et al. 2022, arXiv:2205.10637; Zhao et al. 2024, arXiv:2305.13404, section 3.
    """

    def __init__(
        self,
        dimensions: tuple[int, ...] = (2, 5, 10, 20),
        conditions: tuple[float, ...] = (10.0, 100.0),
        quadratics: int = 12,
        starts: int = 8,
        ascent_steps: int = 2000,
        target: float = 1e-6,
        steps: int = 100,
        runs: int = 64,
        tuning_runs: int = 32,
        rates: tuple[float, float] = (1e-6, 1.0),
        seed: int = 0,
    ) -> None:
        at_least(2, **{f"dimensions[{i}]": n for i, n in enumerate(dimensions)})
        within(1, LARGEST, **{f"conditions[{i}]": k for i, k in enumerate(conditions)})
        at_least(1, quadratics=quadratics, starts=starts, ascent_steps=ascent_steps, steps=steps)
        at_least(2, runs=runs, tuning_runs=tuning_runs)
        at_least(0, seed=seed)
        within(1e-12, 1, target=target)
        self.dimensions, self.conditions, self.quadratics, self.starts = dimensions, conditions, quadratics, starts
        self.target, self.steps, self.runs, self.tuning_runs = target, steps, runs, tuning_runs
        self.rates, self.seed = rate_grid(*rates, PER_DECADE), seed
        self.variants: dict[str, Teleport] = {
            NO_TELEPORT: Stay(),
            RANDOM: RandomTeleport(SPREAD, last=0),
            SHORT: OptimisedTeleport(steps=10, lr=0.1),
            OPTIMAL: OptimisedTeleport(steps=ascent_steps, lr=1.0),
        }

    def measure(self, progress: Progress) -> Findings:
        kinds = [(n, k) for n in self.dimensions for k in self.conditions]
        total, theory, descents = len(kinds) + len(FUNCTIONS), {}, {}
        for i, (n, k) in enumerate(kinds):
            progress(f"quadratics of dimension {n}, condition number {k:g}", i, total)
            theory[n, k] = self._theory(n, k)
        for i, name in enumerate(FUNCTIONS):
            progress(name, len(kinds) + i, total)
            descents[name] = self._descents(name)
        numbers = {
            "quadratics": [{"dimension": n, "condition": k, **found} for (n, k), found in theory.items()],
            "functions": {
                f: {v: self._numbers(d, ds[NO_TELEPORT]) for v, d in ds.items()} for f, ds in descents.items()
            },
        }
        tables = [self._angle_table(theory), self._steps_table(theory), self._table(descents)]
        return Findings(tables, {"level_sets": self._draw(descents)}, numbers)

    def _theory(self, dimension: int, condition: float) -> dict[str, Any]:
        """Angles of the optimal teleport, and the steps needed by every variant at every step size."""
        names = dimension, condition, self.seed
        matrices = random_quadratics(dimension, condition, self.quadratics, self.seed)
        shape = self.quadratics, self.starts, dimension
        starts = torch.randn(shape, generator=generator("quadratic starts", *names), dtype=torch.float64)
        places = {NO_TELEPORT: starts}
        for variant in (RANDOM, SHORT, OPTIMAL):
            by = self.variants[variant]
            pairs = zip(matrices, starts, strict=True)
            places[variant] = torch.stack([teleported(by, Quadratic(a, w[0]), w) for a, w in pairs])
        steps = {
            name: {v: steps_needed(matrices, w, rates, self.target) for v, w in places.items()}
            for name, rates in classical_rates(matrices).items()
        }
        return {"angles": angles(matrices, starts, places[OPTIMAL]), "steps": steps}

    def _descents(self, name: str) -> dict[str, Descent]:
        """Every variant on one function: learning rate from other starts, then the held-out ones."""
        function, out = FUNCTIONS[name], {}
        parts = ((self.tuning_runs, "tuning"), (self.runs, "held out"))
        starts = [function.starts(count, name, part, self.seed) for count, part in parts]
        for variant, by in self.variants.items():
            # The teleport comes first, so it is the same for all learning rates.
            firsts = (-self.tuning_runs, 0)  # first seeds: random teleports differ between the two parts, too
            places = [teleported(by, function.network, w, first) for w, first in zip(starts, firsts, strict=True)]
            problems = [plain_problem(function.network, len(w)) for w in places]
            seeds = [list(range(len(w))) for w in places]
            tuned = best_rate(descent, self.rates, problems[0], {"w": places[0]}, seeds[0], self.steps, 1)
            curves = train_stack(descent(tuned.rate), problems[1], {"w": places[1]}, seeds[1], self.steps, 1)
            out[variant] = Descent(tuned, *curve_of(curves))
        return out

    def _change(self, found: Descent, reference: Descent, step: int) -> Interval:
        """Change of the loss at a step from the reference in percent, on the runs that both finished."""
        a, b = (np.maximum(d.loss[step], FLOOR) for d in (found, reference))
        return compare_paired(a, b, found.finished & reference.finished, np.random.default_rng(self.seed)).change

    def _needed(self, found: Descent) -> NDArray[np.float64]:
        """Steps until the loss is `target` of its start, [runs]; infinite where it never is."""
        with np.errstate(invalid="ignore"):
            reached = found.loss <= self.target * found.loss[0]
        return np.where(reached.any(0), reached.argmax(0), np.inf)

    def _numbers(self, found: Descent, reference: Descent) -> dict[str, Any]:
        return {
            "tuning": asdict(found.tuned),
            "loss": found.loss,
            "diverged": int((~found.finished).sum()),
            "steps_needed": self._needed(found),
            "change": {step: self._change(found, reference, step) for step in self._reported},
        }

    @property
    def _reported(self) -> list[int]:
        return sorted({min(10, self.steps), self.steps})

    def _angle_table(self, theory: Mapping[tuple[int, float], Mapping[str, Any]]) -> Table:
        """The angles between gradient and Newton direction, for every kind of quadratics."""
        rows = []
        for (n, k), found in theory.items():
            a = found["angles"]
            cells = [number(x, 2) for x in (a.before, a.mean, a.largest, a.along)]
            rows.append([f"{n} dimensions, L/mu {k:g}", *cells[:3], f"{a.close:.0%}", cells[3]])
        note = (
            f"Radians, over {self.quadratics} quadratics with {self.starts} starts each; along GD: the largest until "
            "the loss has fallen to 1e-3 of its start, in steps of 0.1 / L."
        )
        columns = ["quadratics", "mean before", "mean after", "max after", "below 1e-3", "max along GD"]
        return plain_table("Angle between gradient and Newton direction, one optimal teleport", columns, rows, note)

    def _steps_table(self, theory: Mapping[tuple[int, float], Mapping[str, Any]]) -> Table:
        rows = []
        for (n, k), found in theory.items():
            for rate, steps in found["steps"].items():
                cells = [f"{i.value:.4g} [{i.low:.4g}, {i.high:.4g}]" for i in steps.values()]
                rows.append([f"{n} dimensions, L/mu {k:g}", rate, *cells])
        title = f"Steps of gradient descent until the loss is {self.target:g} of its start"
        note = "Means with 95% bootstrap intervals over quadratics; the teleport comes before the first step."
        return plain_table(title, ["quadratics", "step size", *self.variants], rows, note)

    def _table(self, descents: Mapping[str, Mapping[str, Descent]]) -> Table:
        """All variants on the functions of the plane."""
        columns = ["function", "lr", *(f"loss @{s}" for s in self._reported), *(f"ratio @{s}" for s in self._reported)]
        columns += ["median steps", "never", "diverged"]
        rows: list[list[str]] = []
        for name, variants in descents.items():
            rows += [[]] if rows else []
            for variant, d in variants.items():
                edge, needed = "*" if d.tuned.at_edge else "", self._needed(d)
                losses = [number(float(geometric_mean(d.loss[s, d.finished]))) for s in self._reported]
                ratios = [
                    "" if variant == NO_TELEPORT else _ratio(self._change(d, variants[NO_TELEPORT], s))
                    for s in self._reported
                ]
                counts = [number(float(np.median(needed))), str(np.isinf(needed).sum()), str((~d.finished).sum())]
                rows.append([f"{name}, {variant}", f"{d.tuned.rate:g}{edge}", *losses, *ratios, *counts])
        note = (
            f"{self.runs} held-out starts; learning rates tuned on {self.tuning_runs} others, on the same grid (* at "
            "its edge). Geometric means; ratio: of the loss to that without teleport, paired, with 95% bootstrap "
            f"intervals, losses below {FLOOR:g} counting as that; steps until the loss is {self.target:g} of its start."
        )
        return plain_table("Functions of the plane", columns, rows, note)

    def _draw(self, descents: Mapping[str, Mapping[str, Descent]]) -> Figure:
        """Trajectories above, losses below, for each function."""
        figure = new_figure(12.5, 7.4)
        axes = figure.subplots(2, len(FUNCTIONS), height_ratios=(1.25, 1))
        for i, (name, variants) in enumerate(descents.items()):
            best = min((SHORT, OPTIMAL), key=lambda v: geometric_mean(variants[v].loss[:, variants[v].finished]))
            axes[0, i].set_title(f"{name}, {best}", fontsize=11, loc="left")
            self._draw_trajectories(axes[0, i], name, variants, best)
            self._draw_losses(axes[1, i], variants)
        legend = axes[0, 0].get_legend_handles_labels()
        figure.legend(*legend, loc="outside upper center", ncols=3, frameon=False, fontsize=9.5)
        axes[1, 0].set_ylabel("loss, geometric mean over starts")
        axes[1, 0].legend(frameon=False, fontsize=8.5)
        return figure

    def _draw_trajectories(self, axes: Axes, name: str, variants: Mapping[str, Descent], teleport: str) -> None:
        """Gradient descent from the first start from which it finished with and without the teleport."""
        function, steps = FUNCTIONS[name], min(DRAWN, self.steps)
        landscape = plain_landscape(function.network, 1)
        first = int((variants[NO_TELEPORT].finished & variants[teleport].finished).argmax())
        theta = {"w": function.starts(self.runs, name, "held out", self.seed)[first : first + 1]}
        orbit, moved = follow(self.variants[teleport], landscape, theta, self.seed)
        plain, _ = descend(landscape, theta, variants[NO_TELEPORT].tuned.rate, steps)
        jumped, _ = descend(landscape, moved, variants[teleport].tuned.rate, steps)
        start, limit = Trace(orbit.points[:1], orbit.loss[:1]), BLOWN * float(orbit.loss[0])
        runs = Runs(start, orbit, plain.up_to(limit), jumped.up_to(limit))
        plane = Slice(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
        draw_levels(axes, landscape, theta, plane, box_around(plane, runs), 161, float(orbit.loss[0]))
        draw_runs(axes, plane, runs)

    def _draw_losses(self, axes: Axes, variants: Mapping[str, Descent]) -> None:
        """A line for each variant, with the middle half of the starts."""
        for variant, d in variants.items():
            if not d.finished.any():
                continue
            losses, colour = np.maximum(d.loss[:, d.finished], FLOOR), VARIANT_COLOURS[variant]
            quartiles = np.quantile(losses, [0.25, 0.75], axis=1)
            axes.fill_between(range(len(losses)), *quartiles, color=colour, alpha=0.12, linewidth=0)
            axes.plot(geometric_mean(losses, 1), color=colour, linewidth=1.9, label=variant)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        tidy(axes)


def _ratio(change: Interval) -> str:
    """A change in percent as a ratio, with its interval."""
    value, low, high = (number(1 + x / 100, 2) for x in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"
