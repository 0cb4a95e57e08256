"""metatele compare: what do the teleports add?"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, cast

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import default_output, dump, families_of, instantiate, make_training_parser, require
from metatele.cli.command import Command
from metatele.cli.exit_codes import INTERRUPTED
from metatele.cli.meta_train_command import how_to_show
from metatele.cli.recipes import Recipe, possible_recipes
from metatele.cli.reporting import family_spec, report
from metatele.cli.side_by_side import Plan, Share, play_side_by_side, threads_of, train_all
from metatele.errors import ConfigError
from metatele.evaluation import Learned
from metatele.evaluation.evaluator import JOURNAL
from metatele.evaluation.settings import Options, Settings
from metatele.support.checks import at_least
from metatele.support.parallel import limited_threads
from metatele.task.mixture import TaskMixture
from metatele.teleports.rules import rules


class Compare(Command):
    """`metatele compare`."""

    def make_parser(self) -> ArgumentParser:
        parser = make_training_parser(
            "Meta-train an optimizer several times with equal budgets: with its teleport, without, and with "
            "closed-form rules in its place. Then evaluate all of them and plain baselines on held-out tasks."
        )
        parser.add_argument(
            "--controls",
            type=cast(Any, Literal)[("all", *(rule.name for rule in rules()))],
            nargs="+",
            default=["balance"],
            help="closed-form rules to meta-train with: at step 0, or at every step",
        )
        parser.add_argument(
            "--seeds", type=int, default=1, help="number of seeds to meta-train each with: seed, seed + 1, ..."
        )
        parser.add_argument(
            "--jobs",
            type=int,
            default=1,
            help="how many to meta-train, and then to evaluate, at a time, each in a process with its share of cores",
        )
        parser.add_argument("--output", type=str | None, help="folder (default: runs/NAME of the config)")
        parser.add_argument("--evaluation.tasks", type=int, default=64, help="held-out tasks")
        parser.add_argument(
            "--evaluation.steps", type=int | None, help="inner steps (default: the longest unroll.steps)"
        )
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command; it goes on where an interrupted one stopped."""
        require(config, "family", "optimizer.update")
        made = instantiate(parser, config)
        families, specs = families_of(made.family), families_of(config.family)
        for family in families:
            if isinstance(family, TaskMixture):
                raise ConfigError(
                    f"compare also evaluates on the family that it trains on, and {type(family).__name__} is a "
                    "mixture of families; use meta-train, and then evaluate --family FAMILY"
                )
        steps = made.unroll.longest if config.evaluation.steps is None else config.evaluation.steps
        at_least(1, seeds=config.seeds, jobs=config.jobs)
        at_least(1, **{"evaluation.tasks": config.evaluation.tasks, "evaluation.steps": steps})
        output = Path(config.output or default_output(config))
        known = {rule.name: rule for rule in rules()}
        controls = rules() if "all" in config.controls else [known[name] for name in dict.fromkeys(config.controls)]
        recipes = possible_recipes(made.optimizer, families, controls)
        plans = _plans(parser, config, output, recipes)
        settings = Settings(config.evaluation.tasks, steps, config.seed, device=config.device)
        places = [
            output / ("evaluation" if len(families) == 1 else f"evaluation-{number}-{type(family).__name__}")
            for number, family in enumerate(families)
        ]
        baselines = [
            Share({}, plans[0].config, number, settings, Options(journal=place / JOURNAL))
            for number, place in enumerate(places)
        ]
        jobs = min(config.jobs, len(plans))
        if not train_all(plans, jobs, baselines):
            print("metatele: stopped; run the same command again to continue", file=sys.stderr)
            return INTERRUPTED
        folders: dict[str, list[Path]] = defaultdict(list)
        for plan in plans:
            folders[plan.recipe.name].append(plan.folder)
        trained = {name: [Learned.load(folder) for folder in own] for name, own in folders.items()}
        for number, (family, spec, place) in enumerate(zip(families, specs, places, strict=True)):

            def ahead(options: Options, number: int = number) -> None:
                share = Share(dict(folders), plans[0].config, number, settings, options, parts=jobs)
                play_side_by_side(share, threads_of(jobs))

            with limited_threads(threads_of(jobs)):
                made_of = Options(family_spec=family_spec(spec))
                report(trained, family, settings, made_of, place, overwrite=True, ahead=ahead if jobs > 1 else None)
        return 0


def _plans(parser: ArgumentParser, config: Namespace, output: Path, recipes: list[Recipe]) -> list[Plan]:
    """A run of every contestant with every seed, in OUTPUT/NAME, or OUTPUT/NAME/seed-K for several seeds."""
    plans, shown = [], how_to_show(config)
    for seed in range(config.seed, config.seed + config.seeds):
        own = config.clone()
        own.seed = seed
        # What meta-train, which may resume the run, does not know is left out.
        settings = dump(parser, own, drop=("output", "evaluation", "controls", "seeds", "jobs"))
        for recipe in recipes:
            title, folder = recipe.name, output / recipe.name
            if config.seeds > 1:
                title, folder = f"{recipe.name} {seed}", folder / f"seed-{seed}"
            plans.append(Plan(title, recipe, settings, folder, shown))
    return plans
