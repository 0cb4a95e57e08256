"""One recipe against tuned baselines on task families that no recipe was meta-trained or selected on.

    python -m benchmarks.general [NAME=]CHECKPOINT[,CHECKPOINT...] [NAME=FOLDER,... ...]
        [--list first] [--tasks 128] [--steps 100] [--seed 0] [--only FAMILY ...] [--output general] [--tuned FOLDER]

The first recipe is judged, over all of its meta-seeds; further ones, Adam with one untuned step size for all families,
and the evaluator's seven tuned baselines take part. Every number is the evaluator's: `metatele report` shows the rest.
Each family has a folder of its own; one that is done is not evaluated again, and one that was interrupted goes on. What
takes most of the time is to find the baselines' step sizes; they are kept (see `benchmarks.tuned`), in the repository.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.status import Status

from benchmarks.__main__ import number as whole
from benchmarks.__main__ import show
from benchmarks.held_out import LISTS, HeldOut
from benchmarks.performance import markdown
from benchmarks.tables import NOTHING, Table
from benchmarks.tuned import FOLDER, found_before, keep
from metatele import HandDesigned, InnerOptimizer, evaluate
from metatele.cli.checkpoints import load_all
from metatele.errors import ConfigError, MetateleError
from metatele.evaluation import Entry, Evaluation, Learned, Options, Settings, Verdict
from metatele.evaluation.evaluation import RESULTS
from metatele.evaluation.judge.pairing import best_baseline
from metatele.evaluation.results import plain
from metatele.evaluation.settings import Progress
from metatele.support.messages import number
from metatele.task.family import Part

FIXED = "Adam at 1e-3"
ZERO = 1e-6  # of the initial loss: what is left is rounding
FLAT = 0.95  # of the loss at half of the steps: a longer trajectory would not help
Recipes = Mapping[str, Sequence[Learned]]


@dataclass(frozen=True)
class Line:
    """What one family says about a recipe; NaN and None where there is nothing to say.

    Attributes:
        family: its name.
        best: the baseline that was best on its tuning tasks.
        against_best, against_fixed: the evaluator's verdicts on the recipe.
        equal_seconds: ratio of the recipe's loss, when the best baseline has run all steps, to the baseline's.
        cost: milliseconds a step, relative to tuned Adam's.
        diverged: tasks of the recipe, over all seeds.
        fell: the best baseline's final loss relative to its first.
        lately: and to that at half of the steps.
        trouble: why there is no comparison.
    """

    family: str
    best: str = NOTHING
    against_best: Verdict | None = None
    against_fixed: Verdict | None = None
    equal_seconds: float = math.nan
    cost: float = math.nan
    diverged: int = 0
    fell: float = math.nan
    lately: float = math.nan
    trouble: str = ""

    @property
    def floor(self) -> str:
        """Where the best baseline has arrived, if nothing more can be won there."""
        return "zero" if self.fell < ZERO else "floor" if self.lately > FLAT else ""

    @staticmethod
    def of(name: str, evaluation: Evaluation, recipe: str) -> "Line":
        """The line of one family's evaluation."""
        entry, best, part, last = (
            evaluation[recipe],
            best_baseline(evaluation.entries),
            evaluation.part,
            evaluation.last,
        )
        if not entry.runs or best is None:
            return Line(name, trouble=entry.trouble or "every baseline failed")
        verdicts = {(v.name, v.against): v for v in evaluation.verdicts}
        return Line(
            family=name,
            best=best.label,
            against_best=verdicts[recipe, best.name],
            against_fixed=verdicts[recipe, FIXED],
            equal_seconds=_centre(entry, part, _step_within(entry, best)) / _centre(best, part, last),
            cost=entry.milliseconds / evaluation["Adam"].milliseconds,
            diverged=entry.diverged,
            fell=_centre(best, part, last) / _centre(best, part, 0),
            lately=_centre(best, part, last) / _centre(best, part, last // 2),
        )


def _centre(entry: Entry, part: Part, step: int) -> float:
    """The geometric mean of the losses; the median where one of them is 0."""
    summary = entry.summary(part, step)
    return summary.median if math.isnan(summary.geometric_mean) else summary.geometric_mean


def _step_within(entry: Entry, other: Entry) -> int:
    """The last recorded step at which a contestant has not taken longer than another one for its whole trajectory."""
    if entry.cost is None or other.cost is None:
        return int(entry.runs[0].at[-1])
    place = np.searchsorted(entry.cost.seconds, other.cost.seconds[-1], side="right") - 1
    return int(entry.runs[0].at[max(0, int(place))])


def ratio_of(verdict: Verdict | None) -> float:
    """The ratio of the geometric means of the losses; NaN if there is none."""
    return math.nan if verdict is None or not verdict.relative else 1 + verdict.change.value / 100


def families_table(recipe: str, lines: Sequence[Line]) -> Table:
    """One row for each family."""
    header = ["family", "best baseline", "its loss, of the first", f"{recipe} / best", "", "at equal seconds"]
    header += [f"/ {FIXED}", "", "ms/step, of Adam's", "diverged"]
    rows = [
        [
            line.family,
            line.trouble or line.best,
            f"{number(line.fell)} {line.floor}".strip(),
            *_judged(line.against_best),
            number(line.equal_seconds),
            *_judged(line.against_fixed),
            number(line.cost),
            NOTHING if line.trouble else str(line.diverged),
        ]
        for line in lines
    ]
    return Table(f"{recipe}: final losses, as ratios", header, rows)


def _judged(verdict: Verdict | None) -> list[str]:
    """The ratio of the losses with its interval, or their difference, and the verdict."""
    if verdict is None:
        return [NOTHING, NOTHING]
    c = verdict.change
    if verdict.relative:
        text = f"{number(1 + c.value / 100)} [{number(1 + c.low / 100)}, {number(1 + c.high / 100)}]"
    else:
        text = f"difference {number(c.value)} [{number(c.low)}, {number(c.high)}]"
    return [text, verdict.outcome]


def summary_table(recipe: str, lines: Sequence[Line]) -> Table:
    """Geometric means over families, and how many verdicts there are of each kind: over all, over those where the best
    baseline has something left to win, and over the others."""
    open_, shut = [x for x in lines if not x.floor], [x for x in lines if x.floor]
    header = ["families", "number", "against", "ratio", "at equal seconds"]
    header += ["better", "not distinguishable", "worse", "not decided"]
    rows = []
    for label, chosen in (("all", lines), ("with room", open_), ("best at zero or flat", shut)):
        mine = [line for line in chosen if line.against_best is not None]
        seconds = _mean(line.equal_seconds for line in mine)
        for against, verdicts, at_seconds in (
            ("best baseline", [line.against_best for line in mine], number(seconds)),
            (FIXED, [line.against_fixed for line in mine], NOTHING),
        ):
            outcomes = [v.outcome for v in verdicts if v is not None]
            counts = [str(outcomes.count(o)) for o in ("better", "not distinguishable", "worse", "not decided")]
            rows.append([label, str(len(mine)), against, number(_mean(map(ratio_of, verdicts))), at_seconds, *counts])
    return Table(f"{recipe}: geometric means and verdicts over families", header, rows)


def _mean(ratios: Any) -> float:
    """The geometric mean of those that are there."""
    logs = [math.log(x) for x in ratios if x > 0 and math.isfinite(x)]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def contestants(recipes: Recipes) -> dict[str, Any]:
    """Who takes part. Adam comes first: the evaluator gives the first that does not teleport a balanced twin, and its
    is the cheapest."""
    if FIXED in recipes:
        raise ConfigError(f"the name {FIXED!r} is taken by the untuned baseline; give the checkpoint another one")
    return {FIXED: InnerOptimizer(HandDesigned("Adam", 1e-3)), **recipes}


def evaluated(one: HeldOut, recipes: Recipes, folder: Path, settings: Settings, options: Options) -> Evaluation:
    """The evaluation on one family, from its folder if it is there.

    Raises: ConfigError if the folder holds another one.
    """
    if not (folder / RESULTS).is_file():
        return evaluate(contestants(recipes), one.family(), settings, output=folder, options=options)
    found = Evaluation.load(folder)
    wanted = {name: tuple(seed.origin for seed in seeds) for name, seeds in recipes.items()}
    there = {e.name: e.origins for e in found.entries if e.kind == "checkpoint" and e.name != FIXED}
    mine = {"recipes": _digests(wanted), "family": one.spec, **asdict(settings)}
    theirs = {"recipes": _digests(there), "family": found.family_spec, **asdict(found.settings)}
    del mine["chunk"]  # chosen by the evaluator
    for key in mine:
        if plain(mine[key]) != plain(theirs[key]):
            raise ConfigError(f"{folder} holds an evaluation with other {key}: {theirs[key]}, not {mine[key]}")
    return found


def _digests(origins: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    return {name: [origin.sha256[:12] for origin in seeds if origin is not None] for name, seeds in origins.items()}


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(
        "python -m benchmarks.general", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    names = [one.name for families in LISTS.values() for one in families]
    add("checkpoints", nargs="+", help="[NAME=]FOLDER,FOLDER,...; the first is judged")
    add("--list", choices=LISTS, default="first", help="of families: each was written before the recipe of its number")
    add("--tasks", type=whole, default=128)
    add("--steps", type=whole, default=100)
    add("--seed", type=int, default=0, help="of the tasks; the list was made with 0, so that others judge")
    add("--tuning-tasks", type=whole, default=32, help="of the baselines")
    add("--timing-repeats", type=whole, default=3)
    add("--only", nargs="+", choices=names, metavar="FAMILY", help=f"instead of a list: {', '.join(names)}")
    add("--output", type=Path, default=Path("general"))
    add("--tuned", type=Path, default=FOLDER, help="where step sizes of baselines are kept, and found again")
    add("--threads", type=whole, default=1)
    return out


def chosen(name: str, only: Sequence[str] | None) -> list[HeldOut]:
    """The families of a list, or those with these names."""
    if only is None:
        return list(LISTS[name])
    return [one for families in LISTS.values() for one in families if one.name in only]


def _shower(one: HeldOut, status: Status) -> Progress:
    """Where the progress of one family is shown."""
    return lambda stage, done, total: status.update(f"{one.name}: {stage}, {done} of {total}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate on each family, and print the tables; then again as Markdown."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    progress, lines = Console(stderr=True), list[Line]()
    try:
        recipes = load_all(options.checkpoints)
        reported = tuple(step for step in (10, 30, options.steps // 2) if step <= options.steps)
        counts = {name: getattr(options, name) for name in ("tasks", "steps", "seed", "tuning_tasks", "timing_repeats")}
        settings = Settings(**counts, report_steps=reported)
        for one in chosen(options.list, options.only):
            with progress.status(one.name) as status:
                tunings = found_before(options.tuned, one.name, one.family(), settings)
                shower = _shower(one, status)
                how = Options(FIXED, False, family_spec=one.spec, title=one.name, progress=shower, tunings=tunings)
                folder = options.output / one.name.replace(" ", "-")
                made = evaluated(one, recipes, folder, settings, how)
            if not tunings:
                keep(options.tuned, one.name, one.family(), made)
            progress.print(f"{one.name}: {made.elapsed:.0f} s{', step sizes found before' if tunings else ''}")
            lines.append(Line.of(one.name, made, next(iter(recipes))))
    except MetateleError as error:
        raise SystemExit(f"error: {error}") from error
    recipe = next(iter(recipes))
    both = families_table(recipe, lines), summary_table(recipe, lines)
    for table in both:
        show(Console(), table)
    print("\n\n".join(map(markdown, both)))


if __name__ == "__main__":
    main()
