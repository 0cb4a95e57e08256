"""Do flatter or more curved minima generalise better? Many networks, and the correlation over them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from scipy import stats
from torch import Tensor

from metatele.evaluation.statistics import CONFIDENCE, NOTHING, RESAMPLES, Interval, Values
from metatele.experiments.harness.base import Findings, Progress
from metatele.experiments.harness.drawing import plain_table, spread
from metatele.experiments.harness.images import ImageExperiment
from metatele.experiments.harness.measures import DISPLACEMENTS, FAR_DISTANCES, curvature_of, first_rows, sharpness_of
from metatele.experiments.harness.training import initial_params, train_stack
from metatele.landscape import Curvature, Sharpness
from metatele.landscape.sharpness import GRID
from metatele.optimizer import InnerOptimizer
from metatele.pictures.style import new_figure, tidy
from metatele.support.checks import above_zero, at_least
from metatele.support.messages import number
from metatele.support.seeding import derive_seed
from metatele.update import TorchUpdate

CORRELATED = {
    "sharpness": "sharpness, training",
    "curvature": "curvature",
    "rise": "sharpness - loss, training",
    "far": "far sharpness, training",
    "validation_sharpness": "sharpness, validation",
    "train": "training loss",
}
DRAWN_MEASURES = ("sharpness", "curvature")
FEWEST = 3  # fewest networks over which there is a correlation
STACK = 25  # networks trained side by side, whatever the number of processes


@dataclass(frozen=True)
class Correlation:
    """Correlation of a measure with the validation loss, each with its 95% interval over networks."""

    pearson: Interval
    spearman: Interval


class FlatnessCorrelation(ImageExperiment):
    """Networks trained with SGD from many seeds: sharpness and curvature against the validation loss.

    Sharpness is the mean loss near the minimum, so it includes the loss itself. The table also shows the
    rise of the loss alone (sharpness minus loss on the same rows), and the training loss.
    Source: Zhao et al. 2024, arXiv:2305.13404, section 5.

    Args:
        lr: learning rate of SGD.
        directions: random directions for the sharpness.
        elements: random elements of the Lie algebra for the curvature.
        measured_rows: training rows, and validation rows, on which sharpness is measured; all when None.
        folder, dataset, rows, validation_rows, hidden, batch, epochs, networks, seed, jobs: see `ImageExperiment`.
    """

    def __init__(
        self,
        lr: float = 0.01,
        directions: int = 20,
        elements: int = 20,
        measured_rows: int | None = 2000,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        at_least(FEWEST, networks=self.networks)
        at_least(1, **({} if measured_rows is None else {"measured_rows": measured_rows}))
        above_zero(lr=lr)
        self.lr, self.measured_rows = lr, measured_rows
        self.sharpness, self.far = (Sharpness(t, directions, chunk=DISPLACEMENTS) for t in (GRID, FAR_DISTANCES))
        self.curvature = Curvature(elements)

    def measure(self, progress: Progress) -> Findings:
        what = f"{self.describe(self.data())}; {self.networks} networks, SGD, {self.epochs} epochs"
        seeds = self.seeds("evaluation", self.networks)
        stacks = [seeds[i : i + STACK] for i in range(0, len(seeds), STACK)]
        parts = self.run_all(self.stack_run, stacks, "training and measuring", progress)
        values = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        found = {key: correlate(values[key], values["validation"], self.seed) for key in CORRELATED}
        return Findings(
            [self._table(values, found, what)],
            {"correlation": _draw(values, found, what)},
            {"networks": values, "correlation_with_validation_loss": found},
        )

    def stack_run(self, seeds: list[int]) -> dict[str, Values]:
        """Train some networks; their losses and measures at the end, each [B]."""
        data = self.data()
        problem = self.problem(data.train, data.validation, len(seeds))
        steps, inner = self.epochs * problem.epoch, InnerOptimizer(TorchUpdate("SGD", {"lr": self.lr}))
        curves = train_stack(inner, problem, initial_params(problem.network, seeds), seeds, steps, steps)
        assert problem.validation is not None  # images have validation rows and labels
        assert curves.validation is not None
        assert curves.accuracy is not None
        train_rows, unseen = (first_rows(rows, self.measured_rows) for rows in (problem.train, problem.validation))
        sharpness, far, unseen_sharpness = (
            sharpness_of(problem, rows, curves.params, measure)
            for rows, measure in ((train_rows, self.sharpness), (train_rows, self.far), (unseen, self.sharpness))
        )
        landscape = replace(problem.landscape, inputs=train_rows[0], targets=train_rows[1])
        with torch.no_grad():
            level = landscape.loss(curves.params)
        measured: dict[str, Tensor] = {
            "sharpness": sharpness,
            "rise": sharpness - level,
            "far": far,
            "validation_sharpness": unseen_sharpness,
            "curvature": curvature_of(problem, curves.params, self.curvature),
            "train": curves.train[-1],
            "validation": curves.validation[-1],
            "accuracy": curves.accuracy[-1],
        }
        return {key: value.double().numpy() for key, value in measured.items()}

    def _table(self, values: Mapping[str, Values], found: Mapping[str, Correlation], what: str) -> Table:
        """The correlation of every measure."""
        rows = [
            [name, number(float(values[key].mean())), spread(found[key].pearson, 2), spread(found[key].spearman, 2)]
            for key, name in CORRELATED.items()
        ]
        level, accuracy = values["validation"], 100 * float(values["accuracy"].mean())
        note = (
            f"Correlation over networks, with its 95% bootstrap interval. Sharpness on {self.measured_rows or 'all'} "
            f"rows, far: at distances {', '.join(map(str, FAR_DISTANCES))} instead of 0.001 to 0.191. Mean validation "
            f"loss {number(float(level.mean()))}, standard deviation {number(float(level.std()))}; "
            f"accuracy {accuracy:.1f}%."
        )
        return plain_table(
            f"Correlation with the validation loss: {what}", ["measure", "mean", "Pearson", "Spearman"], rows, note
        )


def correlate(x: Values, y: Values, seed: int = 0) -> Correlation:
    """Pearson's and Spearman's correlation of x and y [n], with percentile bootstrap intervals over pairs.

    Pairs that are not finite do not count; NaN where fewer than 3 are left or one side is constant.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(NOTHING, NOTHING)
    draws = np.random.default_rng(derive_seed("correlation", seed)).integers(len(x), size=(RESAMPLES, len(x)))

    def ranked(of: Values) -> Values:
        return np.asarray(stats.rankdata(of, axis=-1), np.float64)

    return Correlation(_interval(x, y, draws, lambda of: of), _interval(x, y, draws, ranked))


def _interval(x: Values, y: Values, draws: NDArray[np.int64], scale: Callable[[Values], Values]) -> Interval:
    resampled = _pearson(scale(x[draws]), scale(y[draws]))
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(_pearson(scale(x), scale(y))), float(low), float(high))


def _pearson(x: Values, y: Values) -> Values:
    """Along the last axis; NaN where one side is constant."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def _draw(values: Mapping[str, Values], found: Mapping[str, Correlation], title: str) -> Figure:
    """Each of the measures drawn, against the validation loss."""
    figure = new_figure(10, 4.4)
    for axes, key in zip(figure.subplots(1, len(DRAWN_MEASURES), sharey=True), DRAWN_MEASURES, strict=True):
        axes.plot(values[key], values["validation"], "o", color="#0072B2", alpha=0.6, markersize=5, mew=0)
        r, rho = found[key].pearson, found[key].spearman
        texts = [f"{name} {c.value:.2f} [{c.low:.2f}, {c.high:.2f}]" for name, c in (("Pearson", r), ("Spearman", rho))]
        axes.set_title(", ".join(texts), fontsize=9.5, loc="left")
        axes.set_xlabel(CORRELATED[key])
        tidy(axes)
    figure.axes[0].set_ylabel("validation loss")
    figure.suptitle(title, fontsize=10)
    return figure
