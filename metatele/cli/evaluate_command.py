"""metatele evaluate."""

import importlib
import shutil
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.arguments import instantiate, one_line
from metatele.cli.checkpoints import family_of_training, load_all
from metatele.cli.command import Command
from metatele.cli.reporting import family_spec, make_family, report
from metatele.cli.rerun import rerun
from metatele.cli.transfer import Cell, Variant, base_variant, folder_name, variants_of
from metatele.errors import ConfigError, MetateleError
from metatele.evaluation.evaluator import JOURNAL
from metatele.evaluation.settings import Baselines
from metatele.optimizer import InnerOptimizer
from metatele.report import write_report
from metatele.task.family import Split, TaskFamily
from metatele.task.sampling import sample_meta_batch

# What an evaluation's settings are called on the command line and in `evaluate`.
TRIED: tuple[Split, ...] = ("train", "validation")  # a test task is not for trying out
SETTINGS = ("seed", "baselines", "tuning_tasks", "report_steps", "timing_tasks", "timing_repeats", "chunk", "device")


class Evaluate(Command):
    """`metatele evaluate`."""

    def make_parser(self) -> ArgumentParser:
        parser = ArgumentParser(
            description="Run checkpoints, their controls and hand-designed optimizers (each with a step "
            "size and schedule "
            "tuned on other tasks) on the same held-out tasks. Prints a table and verdicts; writes results.json, "
            "report.html, results.csv and figures. Interrupted, the same command goes on where it was stopped.",
            exit_on_error=False,
            allow_abbrev=False,
        )
        parser.add_argument(
            "checkpoints",
            type=str,
            nargs="*",
            help="checkpoint folders, runs of meta-training, or names of shipped checkpoints; NAME=FOLDER "
            "gives a name, "
            "NAME=FOLDER,FOLDER,... takes several meta-seeds of one recipe as one contestant",
        )
        parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
        parser.add_argument(
            "--family", type=TaskFamily | None, help="task family (default: the one of the first checkpoint's training)"
        )
        parser.add_argument(
            "--modules",
            type=list[str] | None,
            help="modules to import first, where updates or teleports of your own are",
        )
        parser.add_argument(
            "--contestants",
            type=dict[str, InnerOptimizer] | None,
            help="optimizers without a checkpoint that take part too, as {NAME: {class_path: metatele.InnerOptimizer, "
            "init_args: {update: ..., teleport: ...}}}",
        )
        parser.add_argument("--tasks", type=int, default=64, help="held-out tasks")
        parser.add_argument("--steps", type=int, default=100, help="inner steps")
        parser.add_argument("--seed", type=int, default=0, help="seed of the tasks")
        parser.add_argument(
            "--baselines",
            type=Baselines | bool,
            default="plain",
            help="hand-designed optimizers: plain, teleports (each also with random and with optimised "
            "teleports), or none",
        )
        parser.add_argument(
            "--tuning_tasks", type=int, default=32, help="training tasks to tune baselines and record controls on"
        )
        parser.add_argument(
            "--report_steps", type=list[int] | None, help="steps that the table shows (default: 10, 30 and the last)"
        )
        parser.add_argument(
            "--reference",
            type=str | None,
            help="contestant to take differences from (default: the first checkpoint without teleports)",
        )
        parser.add_argument(
            "--timing_tasks", type=int, default=32, help="tasks that are played together for the wall-clock"
        )
        parser.add_argument(
            "--timing_repeats", type=int, default=3, help="runs of which the median wall-clock is taken"
        )
        parser.add_argument(
            "--chunk",
            type=int | None,
            help="tasks that are played together (default: so many that they take a gigabyte)",
        )
        parser.add_argument(
            "--transfer",
            type=dict[str, dict[str, Any] | None] | None,  # plain: jsonargparse would take class_path for Variant's own
            help="other tasks to evaluate on too, as {NAME: {class_path: ..., init_args: {...}, steps: "
            "..., tasks: ...}}; "
            "what is left out is as in the evaluation itself",
        )
        parser.add_argument(
            "--rerun", type=str | None, metavar="RESULTS", help="results.json of an evaluation that is to be made again"
        )
        parser.add_argument("--output", type=str, default="evaluation", help="folder for results, report and figures")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="write over another evaluation that is in the folder"
        )
        parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command."""
        for module in config.modules or []:
            _import(module)
        if config.rerun is not None:
            return rerun(parser, config, SETTINGS)
        if not config.checkpoints and config.family is None:
            raise ConfigError(
                "name a checkpoint to evaluate, or a task family with --family to see the baselines alone"
            )
        contestants: dict[str, Any] = {**load_all(config.checkpoints)}
        if config.family is None:
            config.family = family_of_training(parser, config.checkpoints[0])
        base = base_variant(family_spec(config.family), config.steps, config.tasks)
        cells = variants_of(base, {name: Variant.of(name, given) for name, given in (config.transfer or {}).items()})
        made = instantiate(parser, config)
        for name, inner in (made.contestants or {}).items():
            if name in contestants:
                raise ConfigError(f"two contestants are called {name!r}; give one of them another name")
            contestants[name] = inner
        settings = {name: config[name] for name in (*SETTINGS, "reference", "overwrite")}
        if len(cells) > 1:
            return _run_grid(parser, config, contestants, cells, settings)
        numbers = {"steps": config.steps, "tasks": config.tasks}
        report(contestants, made.family, base.family, Path(config.output), **numbers, **settings)
        return 0


def _run_grid(
    parser: ArgumentParser,
    config: Namespace,
    contestants: dict[str, Any],
    cells: dict[str, Cell],
    settings: dict[str, Any],
) -> int:
    """Evaluate on the cells of a transfer grid, each in a folder of its own; then put all side by side."""
    families = {name: _usable_family(parser, cell, config.seed) for name, cell in cells.items()}
    output = Path(config.output)
    evaluations = []
    for name, cell in cells.items():
        own = {
            "title": name,
            "strict": cell is next(iter(cells.values())),
            "steps": cell.steps,
            "tasks": cell.tasks,
            "report_steps": _within(config.report_steps, cell.steps),
            "journal": output / JOURNAL,  # kept until the last cell is done
        }
        folder = output / folder_name(name)
        evaluations.append(report(contestants, families[name], cell.family, folder, **{**settings, **own}))
    write_report(evaluations, output)
    shutil.rmtree(output / JOURNAL, ignore_errors=True)
    print(f"all side by side: {output / 'report.html'}")
    return 0


def _usable_family(parser: ArgumentParser, cell: Cell, seed: int) -> TaskFamily:
    """The family of a cell, with its errors told before any work."""
    try:
        family = make_family(parser, cell.family)
        for split in TRIED:
            sample_meta_batch(family, split, range(1), seed)
    except (MetateleError, ArgumentError) as error:
        raise ConfigError(f"transfer {cell.name!r}: {one_line(error)}") from error
    return family


def _within(report_steps: list[int] | None, steps: int) -> list[int] | None:
    """The steps to report that a trajectory of another length has."""
    return None if report_steps is None else [step for step in report_steps if step <= steps]


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import {module!r} of --modules: {error}") from error
