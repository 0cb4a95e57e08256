"""Teleports inside the usual optimizers, on images: what they change, and what they cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

from metatele.errors import ConfigError
from metatele.evaluation.statistics import Interval
from metatele.experiments.harness.base import NO_TELEPORT, Findings, Progress
from metatele.experiments.harness.drawing import plain_table, spread
from metatele.experiments.harness.images import ImageExperiment, hold_out, paired, scheduled
from metatele.experiments.harness.training import Curves, Problem, initial_params, train_stack
from metatele.experiments.optimizer_figure import draw_optimizers
from metatele.optimizer import InnerOptimizer, Moments
from metatele.support.checks import above_zero, at_least, within
from metatele.support.messages import number
from metatele.support.seeding import derive_seed
from metatele.teleports import Teleport
from metatele.tuning.search import Cell, RateSearch
from metatele.update import TorchUpdate

Pair = tuple[str, str]  # optimizer and variant
Search = RateSearch[float]
GROWTH = 6  # how many step sizes a grid may grow by


@dataclass(frozen=True)
class Recipe:
    """An optimizer to run.

    Attributes:
        optimizer: name of a class in torch.optim.
        lr: middle of the grid on which its learning rate is tuned.
        options: its other keyword arguments.
    """

    optimizer: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def update(self, lr: float) -> TorchUpdate:
        """The update with a learning rate."""
        return TorchUpdate(self.optimizer, {**self.options, "lr": lr})


@dataclass(frozen=True)
class Training:
    """A training run of all networks of an optimizer and variant, with one learning rate."""

    pair: Pair
    lr: float


def _lowest(scores: Mapping[Cell, float]) -> Cell:
    """The cell with the lowest score, the smaller one at a tie; the centre of the grid if none was tried."""
    return min(scores, key=lambda cell: (scores[cell], cell), default=("", 0))


RECIPES = {
    "SGD": Recipe("SGD", 0.1),
    "momentum": Recipe("SGD", 0.01, {"momentum": 0.9}),
    "AdaGrad": Recipe("Adagrad", 0.03),
    "RMSProp": Recipe("RMSprop", 0.001),
    "Adam": Recipe("Adam", 0.003),
}


class ImageOptimizers(ImageExperiment):
    """Every optimizer with every teleport and without, from equal weights on equal minibatches.

    Teleports go before the first step of each of the first epochs. Each pair of optimizer and
    variant has a learning rate of its own, tuned by shorter runs, on other seeds and on images held
    out from those to train on. All variants of an optimizer begin with the same grid; it is extended by
    one rate at a time, by 6 at most, while the best one is at its edge, so that some get more trials.
    Source: Zhao et al. 2024, arXiv:2305.13404, section 4.

    Args:
        teleports: {name of the variant: teleport}; their own first, last and every are ignored.
        optimizers: {name: recipe}; SGD, momentum, AdaGrad, RMSProp and Adam when None.
        teleport_epochs: how many of the first epochs begin with a teleport.
        moments: what becomes of an optimizer's state at a teleport (see `InnerOptimizer`); when None, it is
            transformed, or reset by teleports without a group; the reset alone can change a trajectory.
        early: number of epochs after which the losses are tabulated, besides the last.
        tuning_epochs, tuning_networks: epochs of a tuning run, and the number of its networks.
        tuning_reach: half-decades tried on either side of a recipe's learning rate at first; 0 for no tuning.
        held_out: share of the training images that the tuning runs are scored on instead.
        folder, dataset, rows, validation_rows, hidden, batch, epochs, networks, seed, jobs: see `ImageExperiment`.
    """

    def __init__(
        self,
        teleports: dict[str, Teleport],
        optimizers: dict[str, Recipe] | None = None,
        teleport_epochs: int = 8,
        moments: Moments | None = None,
        early: int = 3,
        tuning_epochs: int = 5,
        tuning_networks: int = 3,
        tuning_reach: int = 2,
        held_out: float = 0.2,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        at_least(1, teleport_epochs=teleport_epochs, early=early, tuning_epochs=tuning_epochs)
        at_least(1, tuning_networks=tuning_networks)
        at_least(0, tuning_reach=tuning_reach)
        within(0, 1, held_out=held_out)
        if early > self.epochs:
            raise ConfigError(f"early={early} is after the last of the epochs={self.epochs}; set it to {self.epochs}")
        self.variants, self.recipes = self.with_none(teleports), dict(RECIPES if optimizers is None else optimizers)
        if not self.recipes:
            raise ConfigError(f"optimizers must name at least one, got {optimizers}")
        self.teleport_epochs, self.moments, self.early = teleport_epochs, moments, early
        self.tuning_epochs, self.tuning_networks = tuning_epochs, tuning_networks
        self.tuning_reach, self.held_out = tuning_reach, held_out
        for name, recipe in self.recipes.items():
            above_zero(**{f"lr of {name}": recipe.lr})
            for variant in self.variants:  # so that incompatible settings are refused at once
                self._inner(Training((name, variant), recipe.lr), 1)

    def measure(self, progress: Progress) -> Findings:
        data = self.data()
        self.problem(data.train, data.validation, 1)  # refuses incompatible settings before the long runs
        pairs = [(optimizer, variant) for optimizer in self.recipes for variant in self.variants]
        searches = self._tune(pairs, progress)
        runs = [Training(pair, searches[pair].rate(searches[pair].best)) for pair in pairs]
        curves = self.run_all(self.final_run, runs, "training with the tuned learning rates", progress)
        found = dict(zip(pairs, curves, strict=True))
        what = self.describe(data)
        return Findings(
            [self._table(found, searches, k, what) for k in self._epochs],
            {"optimizers": draw_optimizers(found, self.teleport_epochs, what)},
            {"cells": [self._numbers(pair, found, searches[pair]) for pair in pairs]},
        )

    def tuning_run(self, run: Training) -> float:
        """Loss on the images held out at the end of a tuning run, mean over its networks."""
        rows, held = hold_out(self.data().train, self.held_out, derive_seed("held out", self.seed))
        curves = self._train(run, self.problem(rows, held, self.tuning_networks), "tuning", self.tuning_epochs)
        assert curves.validation is not None  # the problem has validation rows
        return float(curves.validation[-1].mean())

    def final_run(self, run: Training) -> Curves:
        """The curves of a run, without its parameters."""
        data = self.data()
        curves = self._train(run, self.problem(data.train, data.validation, self.networks), "evaluation", self.epochs)
        return replace(curves, params={})

    def _train(self, run: Training, problem: Problem, purpose: str, epochs: int) -> Curves:
        seeds = self.seeds(purpose, len(problem.train[0]))
        params = initial_params(problem.network, seeds)
        every = problem.epoch * (epochs if purpose == "tuning" else 1)
        steps = epochs * problem.epoch
        return train_stack(self._inner(run, problem.epoch), problem, params, seeds, steps, every, time.process_time)

    def _inner(self, run: Training, epoch: int) -> InnerOptimizer:
        optimizer, variant = run.pair
        teleport = self.variants[variant]
        if variant == NO_TELEPORT:
            return InnerOptimizer(self.recipes[optimizer].update(run.lr))
        teleport = scheduled(teleport, self.teleport_epochs, epoch)
        return InnerOptimizer(self.recipes[optimizer].update(run.lr), teleport, moments=self.moments)

    def _tune(self, pairs: list[Pair], progress: Progress) -> dict[Pair, Search]:
        """All searches side by side, round by round."""
        searches = {pair: self._search(self.recipes[pair[0]].lr) for pair in pairs}
        while wanted := [(pair, cell) for pair, search in searches.items() for cell in search.wanted()]:
            runs = [Training(pair, searches[pair].rate(cell)) for pair, cell in wanted]
            scores = self.run_all(self.tuning_run, runs, "tuning the learning rates", progress)
            for (pair, cell), score in zip(wanted, scores, strict=True):
                searches[pair].add(cell, score if np.isfinite(score) else np.inf)
        return searches

    def _search(self, centre: float) -> Search:
        """A search in half-decades around a learning rate; without a reach, just that learning rate."""
        reach = self.tuning_reach
        places = range(-reach, reach + 1) if reach else ()
        return RateSearch([""], places, lambda k: centre * 10 ** (k / 2), _lowest, GROWTH)

    def _numbers(self, pair: Pair, found: Mapping[Pair, Curves], search: Search) -> dict[str, Any]:
        """What results.json says of a pair."""
        curves = found[pair]
        named = {"train_loss": curves.train, "validation_loss": curves.validation, "accuracy": curves.accuracy}
        return {
            "optimizer": pair[0],
            "variant": pair[1],
            "lr": search.rate(search.best),
            "tuning": {search.rate(cell): search.found[cell] for cell in sorted(search.found)},
            "rates_tried": len(search.found),
            "at_edge": search.at_edge,
            "change": {k: {m: self._change(pair, found, m, k) for m in ("train", "validation")} for k in self._epochs},
            "step": curves.step.numpy(),
            "seconds": curves.seconds.numpy(),
            **{name: None if value is None else value.numpy() for name, value in named.items()},
        }

    @property
    def _epochs(self) -> list[int]:
        return list(dict.fromkeys((self.early, self.epochs)))

    def _change(self, pair: Pair, found: Mapping[Pair, Curves], loss: str, epoch: int) -> Interval:
        """Change of a loss from no teleports, in percent."""
        a, b = (getattr(found[c], loss)[epoch] for c in (pair, (pair[0], NO_TELEPORT)))
        return paired(a, b, *pair, loss, epoch).change

    def _table(self, found: Mapping[Pair, Curves], searches: Mapping[Pair, Search], epoch: int, what: str) -> Table:
        """All pairs after an epoch."""
        columns = ["optimizer", "lr", "train\nloss", "change %", "valid.\nloss", "change %", "acc. %", "s"]
        rows: list[list[str]] = []
        for pair in found:
            if pair[1] == NO_TELEPORT and rows:
                rows.append([])
            rows.append(self._row(pair, found, searches[pair], epoch))
        note = (
            f"Means over {self.networks} seeds. Change: ratio of geometric means from no teleports minus 1, with its "
            "95% bootstrap interval over paired seeds. Accuracy on the validation images. Seconds of one processor "
            f"core: training of all seeds together, teleports included. {self._tuning_note(searches)}"
        )
        return plain_table(f"After epoch {epoch}: {what}", columns, rows, note)

    def _row(self, pair: Pair, found: Mapping[Pair, Curves], search: Search, epoch: int) -> list[str]:
        """The table row of one pair."""
        c, plain = found[pair], pair[1] == NO_TELEPORT
        assert c.validation is not None  # images have validation rows and labels
        assert c.accuracy is not None
        ran = c.train[epoch].isfinite()
        diverged = f" ({int((~ran).sum())} diverged)" if not bool(ran.all()) else ""
        changes = ["" if plain else spread(self._change(pair, found, m, epoch), 0) for m in ("train", "validation")]
        return [
            (pair[0] if plain else f"+ {pair[1]}") + diverged,
            number(search.rate(search.best)) + ("*" if search.at_edge else ""),
            number(float(c.train[epoch][ran].mean())),
            changes[0],
            number(float(c.validation[epoch][ran].mean())),
            changes[1],
            f"{100 * float(c.accuracy[epoch][ran].mean()):.1f}",
            f"{float(c.seconds[epoch]):.1f}",
        ]

    def _tuning_note(self, searches: Mapping[Pair, Search]) -> str:
        """A note on how the learning rates were chosen, the same for every table."""
        if not self.tuning_reach:
            return "Learning rates as given, not tuned."
        tried = [len(search.found) for search in searches.values()]
        return (
            f"Learning rates tuned for the loss after {self.tuning_epochs} epochs, also in the table of epoch "
            f"{self.epochs}: training on {1 - self.held_out:.0%} of the training images, scored on the rest, "
            f"{self.tuning_networks} other seeds; equal grids, extended by up to {GROWTH} rates while the best is at "
            f"an edge: {min(tried)} to {max(tried)} tried for each (* the best is at an edge)."
        )
