"""One teleport during training, to flatter or to more curved points: what becomes of the validation loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from metatele.errors import ConfigError
from metatele.evaluation.statistics import Interval
from metatele.experiments.flatness_figure import draw_flatness
from metatele.experiments.harness.base import NO_TELEPORT, Findings, Progress
from metatele.experiments.harness.drawing import plain_table, signed, spread
from metatele.experiments.harness.images import ImageExperiment, paired
from metatele.experiments.harness.measures import DISPLACEMENTS, FAR_DISTANCES, curvature_of, first_rows, sharpness_of
from metatele.experiments.harness.paired import Paired
from metatele.experiments.harness.training import Curves, Problem, initial_params, score, train_stack
from metatele.landscape import Curvature, Sharpness
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least
from metatele.support.messages import number
from metatele.task.params import Params, flatten
from metatele.teleports import Teleport
from metatele.update import TorchUpdate

MEASURES = {  # what a teleport may change at once, and what tables call it
    "sharpness_same": "sharpness\nsame",
    "sharpness": "sharpness\nfresh",
    "sharpness_far": "sharpness\nfar",
    "curvature": "curva-\nture",
    "gradient_norm": "gradient\nnorm",
    "train": "loss",
}
OUTCOMES = ("train", "validation", "accuracy")  # what becomes of the training


@dataclass(frozen=True)
class Branch:
    """One variant's training after the branch.

    Attributes:
        name: of the variant.
        measured: each of MEASURES after the teleport, [B].
        moved: norm of the change by the teleport, relative to the norm of all parameters, [B].
        curves: from the branch on.
    """

    name: str
    measured: dict[str, Tensor]
    moved: Tensor
    curves: Curves


class TeleportOnce(ImageExperiment):
    """SGD from many seeds, which branches once: each variant teleports there and trains on.

    All variants branch at the same points and train on with the same minibatches, so differences
    are due to the teleports. Sharpness is measured along the directions that teleports see and along fresh ones.
    Source: Zhao et al. 2024, arXiv:2305.13404, section 5.

    Args:
        teleports: {name of the variant: teleport}; their own first, last and every are ignored.
        branch: the epoch after which to teleport.
        lr: learning rate of SGD.
        directions: random directions for the measured sharpness.
        measured_rows: training rows on which sharpness is measured; all when None.
        folder, dataset, rows, validation_rows, hidden, batch, epochs, networks, seed, jobs: see `ImageExperiment`.
    """

    def __init__(
        self,
        teleports: dict[str, Teleport],
        branch: int = 20,
        lr: float = 0.01,
        directions: int = 20,
        measured_rows: int | None = 1000,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        at_least(1, branch=branch, **({} if measured_rows is None else {"measured_rows": measured_rows}))
        above_zero(lr=lr)
        if branch >= self.epochs:
            raise ConfigError(f"branch={branch} must come before the last of the epochs={self.epochs}")
        self.variants, self.branch, self.lr, self.measured_rows = self.with_none(teleports), branch, lr, measured_rows
        self.inner = InnerOptimizer(TorchUpdate("SGD", {"lr": lr}))
        self.sharpness = {
            "sharpness_same": Sharpness(directions=directions, chunk=DISPLACEMENTS),
            "sharpness": Sharpness(directions=directions, seed=1, chunk=DISPLACEMENTS),
            "sharpness_far": Sharpness(FAR_DISTANCES, directions, seed=1, chunk=DISPLACEMENTS),
        }
        self.curvature = Curvature(seed=1)

    def measure(self, progress: Progress) -> Findings:
        data = self.data()
        (trunk,) = self.run_all(self.trunk_run, ["trunk"], f"training up to epoch {self.branch}", progress)
        items = [(name, trunk.params) for name in self.variants]
        branches = self.run_all(self.branch_run, items, "teleporting and training on", progress)
        found = {b.name: b for b in branches}
        what = f"{self.describe(data)}; SGD, {self.networks} seeds, branches at epoch {self.branch} of {self.epochs}"
        after = {name: self._outcomes(name, found) for name in found}
        return Findings(
            [self._jump_table(found, what), self._outcome_table(found, after, what)],
            {"flatness": draw_flatness(trunk, {n: b.curves for n, b in found.items()}, after, self.branch, what)},
            {
                "trunk": _plain(trunk),
                "variants": [
                    {
                        "variant": name,
                        "after_teleport": {key: values.numpy() for key, values in b.measured.items()},
                        "moved": b.moved.numpy(),
                        "curves": _plain(b.curves),
                        "at_end": after[name],
                    }
                    for name, b in found.items()
                ],
            },
        )

    def trunk_run(self, _: str) -> Curves:
        """Training up to the branch."""
        problem = self._problem()
        seeds = self.seeds("evaluation", self.networks)
        params = initial_params(problem.network, seeds)
        return train_stack(self.inner, problem, params, seeds, self.branch * problem.epoch, problem.epoch)

    def branch_run(self, item: tuple[str, Params]) -> Branch:
        """A variant's teleport and the training after it."""
        name, start = item
        problem, seeds = self._problem(), self.seeds("after the branch", self.networks)
        params = teleport_once(self.variants[name], problem, start, seeds)
        train_loss, _, _, norm = score(problem, params)
        rows = first_rows(problem.train, self.measured_rows)
        measured = {
            **{key: sharpness_of(problem, rows, params, sharpness) for key, sharpness in self.sharpness.items()},
            "curvature": curvature_of(problem, params, self.curvature),
            "gradient_norm": norm,
            "train": train_loss,
        }
        moved = (flatten(params) - flatten(start)).norm(dim=1) / flatten(start).norm(dim=1)
        steps = (self.epochs - self.branch) * problem.epoch
        curves = train_stack(self.inner, problem, params, seeds, steps, problem.epoch)
        return Branch(name, measured, moved, curves)

    def _problem(self) -> Problem:
        data = self.data()
        return self.problem(data.train, data.validation, self.networks)

    def _outcomes(self, name: str, found: Mapping[str, Branch]) -> dict[str, Paired]:
        """Each outcome at the end, against that without teleport."""
        ends = {n: found[n].curves for n in (name, NO_TELEPORT)}
        return {o: paired(getattr(ends[name], o)[-1], getattr(ends[NO_TELEPORT], o)[-1], name, o) for o in OUTCOMES}

    def _jump_table(self, found: Mapping[str, Branch], what: str) -> Table:
        """What each teleport changed at once."""
        before, rows = found[NO_TELEPORT].measured, []
        for name, b in found.items():
            if name == NO_TELEPORT:
                cells = [number(float(before[m].mean())) for m in MEASURES]
            else:
                cells = [
                    signed(paired(b.measured[m], before[m], name, m).change.value, 2) for m in MEASURES if m != "train"
                ]
                cells.append(number(float((b.measured["train"] - before["train"]).abs().max()), 2))
            rows.append([name, f"{100 * float(b.moved.mean()):.1f}", *cells])
        note = (
            f"No teleport: the values at the branch, sharpness on {self.measured_rows or 'all'} training rows. The "
            "others: change from it in percent, geometric means over seeds; of the loss, the largest difference. "
            "Same: along the directions that teleports see by default; fresh: along others; far: fresh, at "
            f"distances {', '.join(map(str, FAR_DISTANCES))}."
        )
        return plain_table(
            f"What the teleports changed at once: {what}", ["variant", "moved\n%", *MEASURES.values()], rows, note
        )

    def _outcome_table(
        self, found: Mapping[str, Branch], after: Mapping[str, Mapping[str, Paired]], what: str
    ) -> Table:
        """What became of each variant in the end."""
        rows = []
        for name, b in found.items():
            c = b.curves
            assert c.validation is not None  # images have validation rows and labels
            assert c.accuracy is not None
            means = [number(float(loss[-1].mean())) for loss in (c.train, c.validation)]
            means.append(f"{100 * float(c.accuracy[-1].mean()):.2f}")
            points = after[name]["accuracy"].difference
            changes = [after[name][o].change for o in ("train", "validation")]
            changes.append(Interval(*(100 * x for x in (points.value, points.low, points.high))))
            texts = ["" if name == NO_TELEPORT else spread(change, 2) for change in changes]
            rows.append([name, *(cell for pair in zip(means, texts, strict=True) for cell in pair)])
        columns = ["variant", "train\nloss", "change %", "valid.\nloss", "change %", "acc.\n%", "change"]
        note = (
            f"Means over {self.networks} seeds. Change: ratio of geometric means from no teleport minus 1 (accuracy: "
            "difference in points), with its 95% bootstrap interval over paired seeds. Each interval is for its "
            f"comparison alone: none is corrected for the number of variants ({len(found) - 1})."
        )
        return plain_table(f"After epoch {self.epochs}: {what}", columns, rows, note)


def teleport_once(teleport: Teleport, problem: Problem, params: Params, seeds: list[int]) -> Params:
    """The parameters that a teleport goes to from given ones, {name: [B, ...]}."""
    inner, whole = InnerOptimizer(TorchUpdate("SGD", {"lr": 1.0}), teleport), problem.landscape
    group = inner.bind(problem.network, params)
    state = inner.start(params, group, torch.tensor(seeds))
    point = Point(params, whole.gradient(params), whole.inputs, 0, whole, whole)
    with torch.no_grad():
        there, _, _ = teleport.move(point, group, state.teleport, State())
    return {k: p.detach() for k, p in there.params.items()}


def _plain(curves: Curves) -> dict[str, Any]:
    """The curves as arrays."""
    return {name: getattr(curves, name).numpy() for name in ("step", "seconds", *OUTCOMES, "gradient_norm")}
