"""metatele evaluate."""

import importlib
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import instantiate, one_line
from metatele.cli.checkpoints import family_of_training, load_all
from metatele.cli.command import Command
from metatele.cli.reporting import Contestants, family_spec, make_family, report
from metatele.cli.rerun import rerun
from metatele.cli.transfer import Variant, Variation, base_variant, folder_name, variants_of
from metatele.errors import ConfigError, MetateleError
from metatele.evaluation.contestants.learned import LearnedOrInner
from metatele.evaluation.evaluator import JOURNAL, PATIENCE
from metatele.evaluation.play.journal import Journal
from metatele.evaluation.settings import Options, Settings
from metatele.optimizer import InnerOptimizer
from metatele.report import write_report
from metatele.support.ranks import joined
from metatele.task.family import Split, TaskFamily
from metatele.task.sampling import sample_meta_batch

TRIED: tuple[Split, ...] = ("train", "validation")  # a test task is not for trying out
ABOUT = (
    "Run checkpoints, their controls and hand-designed optimizers (each with a step size and schedule tuned on other "
    "tasks) on the same held-out tasks. Prints a table and verdicts; writes results.json, report.html, results.csv and "
    "figures. If it is interrupted, the same command continues where it stopped."
)
CHECKPOINTS = (
    "checkpoint folders, runs of meta-training, or names of shipped checkpoints; NAME=FOLDER gives a name, "
    "NAME=FOLDER,FOLDER,... takes several meta-seeds of one recipe as one contestant"
)


class Evaluate(Command):
    """`metatele evaluate`."""

    def make_parser(self) -> ArgumentParser:
        parser = ArgumentParser(description=ABOUT, exit_on_error=False, allow_abbrev=False)
        add = parser.add_argument
        add("checkpoints", type=str, nargs="*", help=CHECKPOINTS)
        add("--config", action="config", help="YAML file with any of the settings below")
        add(
            "--family", type=TaskFamily | None, help="task family (default: the one of the first checkpoint's training)"
        )
        add(
            "--modules",
            type=list[str] | None,
            help="modules to import first, such as those that define your own updates or teleports",
        )
        add(
            "--contestants",
            type=dict[str, InnerOptimizer] | None,
            help="optimizers without a checkpoint that take part too, as {NAME: {class_path: metatele.InnerOptimizer, "
            "init_args: {update: ..., teleport: ...}}}",
        )
        add(
            "--reference",
            type=str | None,
            help="contestant to take differences from (default: the first checkpoint without teleports)",
        )
        add(
            "--transfer",
            type=dict[str, dict[str, Any] | None] | None,  # plain: jsonargparse would take class_path for Variant's own
            help="other tasks to evaluate on too, as {NAME: {class_path: ..., init_args: {...}, steps: ..., tasks: "
            "...}}; what is left out is as in the evaluation itself",
        )
        add("--rerun", type=str | None, metavar="RESULTS", help="results.json of an evaluation to repeat")
        add("--output", type=str, default="evaluation", help="folder for results, report and figures")
        add("--overwrite", type=bool, default=False, help="overwrite another evaluation in the folder")
        parser.add_class_arguments(Settings)
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command."""
        for module in config.modules or []:
            _import(module)
        if config.rerun is not None:
            return rerun(parser, config)
        if not config.checkpoints and config.family is None:
            raise ConfigError(
                "name a checkpoint to evaluate, or a task family with --family to see the baselines alone"
            )
        contestants: dict[str, LearnedOrInner | Sequence[LearnedOrInner]] = {**load_all(config.checkpoints)}
        if config.family is None:
            config.family = family_of_training(parser, config.checkpoints[0])
        base = base_variant(family_spec(config.family), config.steps, config.tasks)
        cells = variants_of(base, {name: Variant.of(name, given) for name, given in (config.transfer or {}).items()})
        made = instantiate(parser, config)
        for name, inner in (made.contestants or {}).items():
            if name in contestants:
                raise ConfigError(f"two contestants are called {name!r}; give one of them another name")
            contestants[name] = inner
        settings = Settings(**{field.name: config[field.name] for field in fields(Settings)})
        if len(cells) > 1:
            _run_grid(parser, config, contestants, cells, settings)
        else:
            options = Options(config.reference, family_spec=base.family)
            report(contestants, made.family, settings, options, Path(config.output), overwrite=config.overwrite)
        return 0


def _run_grid(
    parser: ArgumentParser, config: Namespace, contestants: Contestants, cells: dict[str, Variation], settings: Settings
) -> None:
    """Evaluate on the cells of a transfer grid, each in a folder of its own; then put all side by side."""
    families = {name: _usable_family(parser, cell, config.seed) for name, cell in cells.items()}
    output = Path(config.output)
    evaluations = []
    with joined(settings.device, PATIENCE) as (ranks, _):
        for name, cell in cells.items():
            reported = config.report_steps and tuple(step for step in config.report_steps if step <= cell.steps)
            own = replace(settings, steps=cell.steps, tasks=cell.tasks, report_steps=reported)
            options = Options(
                config.reference,
                strict=cell is next(iter(cells.values())),
                family_spec=cell.family,
                title=name,
                journal=output / JOURNAL,  # kept until the last cell is done
            )
            folder = output / folder_name(name)
            evaluations.append(report(contestants, families[name], own, options, folder, overwrite=config.overwrite))
        ranks.from_first(lambda: write_report(evaluations, output))
        if ranks.first:
            Journal(output / JOURNAL).close()
    print(f"all side by side: {output / 'report.html'}")


def _usable_family(parser: ArgumentParser, cell: Variation, seed: int) -> TaskFamily:
    """The family of a cell; errors in it are reported before any work."""
    try:
        family = make_family(parser, cell.family)
        for split in TRIED:
            sample_meta_batch(family, split, range(1), seed)
    except (MetateleError, ArgumentError) as error:
        raise ConfigError(f"transfer {cell.name!r}: {one_line(error)}") from error
    return family


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import {module!r} of --modules: {error}") from error
