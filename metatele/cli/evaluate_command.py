"""metatele evaluate."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import Progress

import metatele.tasks as shipped
from metatele.checkpoint import TRAINING, find_checkpoint, load_checkpoint
from metatele.cli.arguments import instantiate
from metatele.errors import CheckpointError, ConfigError
from metatele.evaluation import evaluate
from metatele.optimizer import InnerOptimizer
from metatele.task import TaskFamily


def make_parser() -> ArgumentParser:
    """The command's arguments."""
    parser = ArgumentParser(
        description="Run checkpoints and plain baselines (gradient descent, momentum, Adam, tuned on other tasks) on "
        "the same held-out tasks. Writes results.json and three figures.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoints",
        type=str,
        nargs="+",
        help="checkpoint folders, runs of meta-training, or names of shipped checkpoints; NAME=FOLDER gives a name",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_argument(
        "--family", type=TaskFamily | None, help="task family (default: the one of the first checkpoint's training)"
    )
    parser.add_argument(
        "--modules", type=list[str] | None, help="modules to import first, where updates or teleports of your own are"
    )
    parser.add_argument("--tasks", type=int, default=64, help="held-out tasks")
    parser.add_argument("--steps", type=int, default=100, help="inner steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the tasks")
    parser.add_argument("--baselines", type=bool, default=True, help="run the plain baselines too")
    parser.add_argument("--tuning_tasks", type=int, default=16, help="training tasks to tune baselines on")
    parser.add_argument(
        "--report_steps", type=list[int] | None, help="steps that the table shows (default: 10, 30 and the last)"
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        help="contestant to take differences from (default: the first checkpoint without teleports)",
    )
    parser.add_argument("--output", type=str, default="evaluation", help="folder for results and figures")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    return parser


def run(parser: ArgumentParser, config: Namespace) -> int:
    """Run the command."""
    for module in config.modules or []:
        _import(module)
    checkpoints = _load_all(config.checkpoints)
    if config.family is None:
        config.family = _family_of_training(parser, config.checkpoints[0])
    report(
        checkpoints,
        instantiate(parser, config).family,
        family_spec(config.family),
        Path(config.output),
        tasks=config.tasks,
        steps=config.steps,
        seed=config.seed,
        baselines=config.baselines,
        tuning_tasks=config.tuning_tasks,
        report_steps=config.report_steps,
        reference=config.reference,
        device=config.device,
    )
    return 0


def report(
    checkpoints: dict[str, InnerOptimizer], family: TaskFamily, spec: dict[str, Any], output: Path, **settings: Any
) -> None:
    """Evaluate, print the table, and name what was written."""
    with progress_bar("evaluate") as progress:
        evaluation = evaluate(checkpoints, family, output=output, family_spec=spec, progress=progress, **settings)
    console = Console(highlight=False)
    console.print(evaluation.table())
    print(f"results and figures: {output}")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over the stages of something long, gone when it is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)


def family_spec(family: Namespace) -> dict[str, Any]:
    """The class and the arguments of a family, or of an experiment, as plain values."""
    spec = family.as_dict()
    return {"class_path": spec["class_path"], "init_args": spec.get("init_args") or {}}


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import {module!r} of --modules: {error}") from error


def _load_all(sources: list[str]) -> dict[str, InnerOptimizer]:
    loaded: dict[str, InnerOptimizer] = {}
    for source in sources:
        name, path = _split_name(source)
        folder = Path(path)
        name = name or (folder.parent.name if folder.name in ("best", "last") else folder.name) or path
        if name in loaded:
            raise ConfigError(f"two checkpoints are called {name!r}; name them, as in {name}-2={path}")
        loaded[name] = load_checkpoint(path)
    return loaded


def _split_name(source: str) -> tuple[str, str]:
    """NAME=FOLDER to its two parts; a folder whose own name has a = in it needs none."""
    if os.path.exists(source):
        return "", source
    name, _, path = source.rpartition("=")
    return name, path


def _family_of_training(parser: ArgumentParser, source: str) -> Namespace:
    """The family that a checkpoint was meta-trained on, if it is a shipped one: the record of a
    checkpoint must not make us import other code."""
    path = find_checkpoint(_split_name(source)[1]) / TRAINING
    hint = "name the task family with --family, for example --family metatele.tasks.TeacherStudent"
    if not path.is_file():
        raise ConfigError(f"{path.parent} does not record what it was meta-trained on; {hint}")
    try:
        recorded = yaml.safe_load(path.read_text(encoding="utf-8"))["family"]
        family = recorded[0] if isinstance(recorded, list) else recorded
        name, arguments = family["class_path"], family.get("init_args") or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is damaged and names no family; {hint}") from error
    if name not in [f"metatele.tasks.{known}" for known in shipped.__all__]:
        raise ConfigError(f"{path.parent} was meta-trained on {name}, which is not a shipped family; {hint}")
    return parser.parse_object({"checkpoints": [source], "family": {"class_path": name, "init_args": arguments}}).family
