"""Teleports without learning on the paper's regression task, inside gradient descent and AdaGrad."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.evaluation.settings import REPORTED
from metatele.evaluation.statistics import Interval
from metatele.experiments.harness.base import NO_TELEPORT, Experiment, Findings, Progress
from metatele.experiments.harness.drawing import plain_table, variant_looks
from metatele.experiments.harness.grid import PER_DECADE, Tuned, best_rate, curve_of, geometric_mean, rate_grid
from metatele.experiments.harness.paired import compare_paired
from metatele.experiments.harness.training import Problem, train_stack
from metatele.optimizer import InnerOptimizer
from metatele.pictures.style import new_figure, tidy
from metatele.support.checks import above_zero, at_least
from metatele.support.messages import number
from metatele.support.parallel import limited_threads
from metatele.support.seeding import generator
from metatele.symmetry import Kind, symmetries_of
from metatele.task.params import Params
from metatele.teleports import Balance, OptimisedTeleport, RandomTeleport, Stay, Teleport
from metatele.update import TorchUpdate

# Name of the class in torch.optim, lowest and highest learning rate of the grid.
OPTIMIZERS: Mapping[str, tuple[str, float, float]] = {"GD": ("SGD", 1e-5, 1e-2), "AdaGrad": ("Adagrad", 0.1, 31.6)}


@dataclass(frozen=True)
class VariantRuns:
    """One variant of one optimizer on the held-out tasks.

    Attributes:
        tuned: its learning rate, from other tasks.
        size: size of its teleports, from other tasks; None where there is none to choose.
        loss: [steps + 1, tasks]; not finite from the step at which a task diverged.
        finished: which tasks did not diverge, [tasks].
        seconds: of one processor core, training until each step, all tasks together, teleports included,
            [steps + 1]; from a single run.
    """

    tuned: Tuned
    size: float | None
    loss: NDArray[np.float64]
    finished: NDArray[np.bool_]
    seconds: NDArray[np.float64]


class RegressionTeleports(Experiment):
    """Gradient descent and AdaGrad on 1/2 ||Y - W2 sigma(W1 X)||^2, with and without teleports.

    W1, W2, X, Y [size, size] are uniform on [0, 1) in every entry, drawn anew for each task; sigma is
    LeakyReLU(0.1). Variants: ascent of the gradient norm on groups of the hidden layer, and three
    controls: none, the closed-form balance rule, and random elements of the same groups. For every
    optimizer with every variant the learning rate is tuned on other tasks for the last step, on the
    same grid, and with it the size of the teleports: ascents and random teleports get equally
    many trials, more than variants without a size.

    Args:
        size: rows and columns of all matrices.
        tasks, tuning_tasks: held-out tasks, and those to tune on.
        steps: of training.
        groups: of the hidden layer, for ascents and random teleports (see `metatele.symmetries_of`).
        first, last, every: when to teleport (see `metatele.Teleport`).
        ascent_steps: gradient steps on the Lie algebra of each ascent.
        sizes: to choose from, for an ascent the length of one step, for random teleports the
            standard deviation of every coordinate.
        seed: what all random draws depend on.
    Source: Zhao et al. 2022, arXiv:2205.10637; Zhao et al. 2024, arXiv:2305.13404, section 6.
    """

    def __init__(
        self,
        size: int = 20,
        tasks: int = 128,
        tuning_tasks: int = 32,
        steps: int = 100,
        groups: tuple[Kind, ...] = ("data_dependent", "scaling"),
        first: int = 0,
        last: int = 15,
        every: int = 5,
        ascent_steps: int = 10,
        sizes: tuple[float, ...] = (0.01, 0.03, 0.1),
        seed: int = 0,
    ) -> None:
        at_least(1, size=size, steps=steps)
        at_least(2, tasks=tasks, tuning_tasks=tuning_tasks)
        at_least(0, seed=seed)
        above_zero(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        if not sizes:
            raise ConfigError(f"sizes must name at least one size of a teleport, got {sizes}")
        self.size, self.tasks, self.tuning_tasks, self.steps, self.seed = size, tasks, tuning_tasks, steps, seed
        self.sizes = tuple(sizes)
        when: Any = {"first": first, "last": last, "every": every}

        def ascent(symmetry: Kind, size: float) -> Teleport:
            return OptimisedTeleport(steps=ascent_steps, lr=size, symmetry=symmetry, **when)

        def random(symmetry: Kind, size: float) -> Teleport:
            return RandomTeleport(size, symmetry, **when)

        self.fixed: dict[str, Teleport] = {NO_TELEPORT: Stay(), "balance": Balance(**when)}
        self.sized: dict[str, Callable[[float], Teleport]] = {
            f"{name}, {group.replace('_', ' ')}": partial(make, group)
            for name, make in (("ascent", ascent), ("random", random))
            for group in groups
        }
        self.variants = [*self.fixed, *self.sized]
        for group in groups:  # so that bad settings are refused here
            if group == "softmax":
                raise ConfigError(f"groups must be of the hidden layer, got {group!r}, which is of the loss")
            symmetries_of(make_network(1), group)
            ascent(group, self.sizes[0])

    def measure(self, progress: Progress) -> Findings:
        others, held_out = (self._draw(n, p) for n, p in ((self.tuning_tasks, "tuning"), (self.tasks, "held out")))
        found: dict[str, dict[str, VariantRuns]] = {name: {} for name in OPTIMIZERS}
        total = len(OPTIMIZERS) * len(self.variants)
        for i, (name, outcomes) in enumerate(found.items()):
            for k, variant in enumerate(self.variants):
                progress(f"{name}, {variant}", i * len(self.variants) + k, total)
                with limited_threads(1):
                    outcomes[variant] = self._run(name, variant, others, held_out)
        numbers = {o: {v: self._numbers(x, xs[NO_TELEPORT]) for v, x in xs.items()} for o, xs in found.items()}
        return Findings([self._table(found)], {"regression_teleports": self._figure(found)}, {"optimizers": numbers})

    def _draw(self, tasks: int, part: str) -> tuple[Problem, Params]:
        """Tasks and where they start."""
        n, stream = self.size, generator("regression teleports", part, self.seed)
        network = make_network(n)
        x, y, *weights = torch.rand(4, tasks, n, n, generator=stream)
        names = [name for name, _ in network.named_parameters()]
        return Problem(network, half_square, (x, y)), dict(zip(names, weights, strict=True))

    def _run(
        self, optimizer: str, variant: str, others: tuple[Problem, Params], held_out: tuple[Problem, Params]
    ) -> VariantRuns:
        """Find the learning rate on other tasks, then train the held-out ones."""
        name, lowest, highest = OPTIMIZERS[optimizer]
        seeds = [list(range(-self.tuning_tasks, 0)), list(range(self.tasks))]  # other draws of random teleports, too
        sizes = self.sizes if variant in self.sized else (None,)
        rates = rate_grid(lowest, highest, PER_DECADE)

        def make(size: float | None, rate: float) -> InnerOptimizer:
            teleport = self.fixed[variant] if size is None else self.sized[variant](size)
            return InnerOptimizer(TorchUpdate(name, {"lr": rate}), teleport)

        trials = {
            size: best_rate(partial(make, size), rates, *others, seeds[0], self.steps, self.steps) for size in sizes
        }
        size, tuned = min(trials.items(), key=lambda found: found[1].key)
        curves = train_stack(make(size, tuned.rate), *held_out, seeds[1], self.steps, 1, time.process_time)
        return VariantRuns(tuned, size, *curve_of(curves), curves.seconds.numpy().astype(np.float64))

    def _change(self, found: VariantRuns, reference: VariantRuns, step: int, at: int | None = None) -> Interval:
        """Change of the loss in percent from the reference, each at a step of its own, on tasks that both finished."""
        both = found.finished & reference.finished
        rng = np.random.default_rng(self.seed)
        return compare_paired(found.loss[step], reference.loss[step if at is None else at], both, rng).change

    def _same_time(self, found: VariantRuns, reference: VariantRuns) -> tuple[int, int]:
        """The last step that each of the two completes within the time that the faster one takes for all steps."""
        end = min(found.seconds[-1], reference.seconds[-1])
        a, b = (int(np.searchsorted(o.seconds, end, side="right")) - 1 for o in (found, reference))
        return a, b

    def _numbers(self, found: VariantRuns, reference: VariantRuns) -> dict[str, Any]:
        """What results.json says of a variant."""
        here, there = self._same_time(found, reference)
        return {
            "tuning": asdict(found.tuned),
            "size": found.size,
            "loss": found.loss,
            "seconds": found.seconds,
            "diverged": int((~found.finished).sum()),
            "change": {step: self._change(found, reference, step) for step in self._reported},
            "equal_time": {"steps": [here, there], "change": self._change(found, reference, here, there)},
        }

    @property
    def _reported(self) -> list[int]:
        return sorted({min(step, self.steps) for step in (*REPORTED, self.steps)})

    def _table(self, found: Mapping[str, Mapping[str, VariantRuns]]) -> Table:
        """All variants of both optimizers, a row each."""
        steps = self._reported
        columns = ["optimizer, variant", "lr", "size", *(f"loss @{s}" for s in steps)]
        columns += [*(f"change % @{s}" for s in steps), "change %, equal time", "seconds", "diverged"]
        rows: list[list[str]] = []
        for name, outcomes in found.items():
            rows += [[]] if rows else []
            for variant, o in outcomes.items():
                losses = [number(float(o.loss[s, o.finished].mean())) if o.finished.any() else "-" for s in steps]
                reference = outcomes[NO_TELEPORT]
                changes = [self._change(o, reference, s) for s in steps]
                changes.append(self._change(o, reference, *self._same_time(o, reference)))
                shown = ["" if variant == NO_TELEPORT else _percent(c) for c in changes]
                edge, diverged = "*" if o.tuned.at_edge else "", int((~o.finished).sum())
                size = "" if o.size is None else f"{o.size:g}"
                ends = [number(float(o.seconds[-1]), 2), str(diverged)]
                rows.append([f"{name}, {variant}", f"{o.tuned.rate:g}{edge}", size, *losses, *shown, *ends])
        note = (
            f"{self.tasks} held-out tasks, means over those that finished; learning rates and sizes of teleports tuned "
            f"on {self.tuning_tasks} other tasks, on the same grids (* learning rate at the edge). Change: of the "
            "geometric mean from no teleport, paired, with 95% bootstrap intervals over tasks. Equal time: where the "
            "faster of the two is done; its interval is over tasks, and does not include timing noise. Seconds "
            "of one processor core, from a single run: all tasks together, teleports included."
        )
        return plain_table(f"Regression {self.size} x {self.size}", columns, rows, note)

    def _figure(self, found: Mapping[str, Mapping[str, VariantRuns]]) -> Figure:
        """The losses of each optimizer, against the step and against the time."""
        figure = new_figure(12, 4.2 * len(found))
        axes = figure.subplots(len(found), 2, sharey="row", squeeze=False)
        for row, (name, outcomes) in zip(axes, found.items(), strict=True):
            self._draw_losses(row[0], outcomes, by_time=False)
            self._draw_losses(row[1], outcomes, by_time=True)
            row[0].set_title(name, fontsize=11, loc="left")
            row[0].set_ylabel("loss, geometric mean over tasks")
        axes[-1, 0].set_xlabel("step")
        axes[-1, 1].set_xlabel(f"time for all {self.tasks} tasks, teleports included [s]")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9
        )
        return figure

    def _draw_losses(self, axes: Axes, outcomes: Mapping[str, VariantRuns], by_time: bool) -> None:
        """A line for each variant."""
        looks = variant_looks(self.variants)
        for variant, o in outcomes.items():
            if not o.finished.any():
                continue
            # Time 0 has no place on a logarithmic axis.
            x = np.where(o.seconds > 0, o.seconds, np.nan) if by_time else np.arange(len(o.loss))
            y = geometric_mean(o.loss[:, o.finished], 1)
            style = "--" if variant.startswith(("balance", "random")) else "-"
            axes.plot(x, y, style, color=looks[variant]["color"], linewidth=1.7, label=variant)
        if by_time:
            axes.set_xscale("log")
        axes.set_yscale("log")
        tidy(axes)


def make_network(size: int) -> nn.Sequential:
    """W2 sigma(W1 x) with square matrices."""
    first, last = (nn.Linear(size, size, bias=False) for _ in range(2))
    return nn.Sequential(first, nn.LeakyReLU(0.1), last)


def half_square(prediction: Tensor, target: Tensor) -> Tensor:
    """1/2 ||target - prediction||^2."""
    return 0.5 * (prediction - target).square().sum()


def _percent(change: Interval) -> str:
    value, low, high = (number(x) if not x > 0 else f"+{number(x)}" for x in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"
