"""Checkpoints as they are named on a command line."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

import metatele.tasks as shipped
from metatele.checkpoint import TRAINING, find_checkpoint
from metatele.errors import CheckpointError, ConfigError
from metatele.evaluation import Learned
from metatele.support.plain_yaml import read_yaml
from metatele.task import TaskFamily

MOST_OF_ANYTHING, MOST_LAYERS = 100_000, 1000  # rows, neurons; in families that are recorded beside checkpoints
Loaded = dict[str, list[Learned]]


def load_all(sources: list[str]) -> Loaded:
    """The meta-seeds of each contestant, by name. Raises: ConfigError, CheckpointError."""
    loaded: Loaded = {}
    for source in sources:
        name, paths = _split_name(source)
        folder = Path(paths[0])
        name = name or (folder.parent.name if folder.name in ("best", "last") else folder.name) or paths[0]
        if name in loaded:
            raise ConfigError(
                f"two checkpoints are called {name!r}; name them, as in {name}-2={paths[0]}, or take them as "
                f"meta-seeds of one recipe, as in {name}=FOLDER,FOLDER"
            )
        loaded[name] = [Learned.load(path) for path in paths]
    return loaded


def _split_name(source: str) -> tuple[str, list[str]]:
    """NAME=FOLDER,FOLDER to its parts; a folder whose own name has a = or a comma in it needs no name."""
    if os.path.exists(source):
        return "", [source]
    marks = [i for i, letter in enumerate(source) if letter == "="]
    for name, path in ((source[:i], source[i + 1 :]) for i in marks):
        if os.path.exists(path):
            return name, [path]
        if all(map(os.path.exists, path.split(","))):
            return name, path.split(",")
    name, _, path = source.partition("=") if marks else ("", "", source)
    return name, path.split(",")


def _shipped_families() -> set[str]:
    """The import paths of all shipped families, by the package and by their own file."""
    kinds = [c for c in vars(shipped).values() if isinstance(c, type) and issubclass(c, TaskFamily)]
    return {f"{module}.{c.__name__}" for c in kinds for module in (shipped.__name__, c.__module__)}


def check_recorded(family: object, arguments: object, what: str, hint: str) -> None:
    """Raises: ConfigError if what a record names, which anybody may have written, is neither a shipped family nor one
    that is imported already, or has arguments that would take all memory."""
    module, _, name = str(family).rpartition(".")
    there = getattr(sys.modules.get(module), name, None)
    imported = isinstance(there, type) and issubclass(there, TaskFamily)
    if not (isinstance(family, str) and (imported or family in _shipped_families())):
        raise ConfigError(f"{what} {family}, which is not a shipped family; {hint}")
    _check_sizes(arguments, f"{what} {family}", hint)


def _check_sizes(arguments: object, what: str, hint: str) -> None:
    """Raises: ConfigError for a number that would take all memory, in a record that anybody may have written."""
    for key, value in _named_values(arguments):
        most = MOST_LAYERS if key == "depth" else MOST_OF_ANYTHING
        with suppress(TypeError, ValueError):  # the parser takes a text of digits for a number
            if abs(float(value)) > most:
                raise ConfigError(f"{what} with {key}: {value}, more than {most}; {hint}")


def _named_values(arguments: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values inside mappings and lists, each with the last name above it."""
    if isinstance(arguments, dict):
        for key, value in arguments.items():
            yield from _named_values(value, str(key))
    elif isinstance(arguments, list):
        for value in arguments:
            yield from _named_values(value, name)
    else:
        yield name, arguments


def family_of_training(parser: ArgumentParser, source: str) -> Namespace:
    """The family that a checkpoint was meta-trained on, if it is a shipped one or its module is imported: the record of
    a checkpoint must not make us import other code."""
    path = find_checkpoint(_split_name(source)[1][0]) / TRAINING
    hint = "name the task family with --family, as in --family metatele.tasks.TeacherStudent or --family sine.Sine"
    if not path.is_file():
        raise ConfigError(f"{path.parent} does not record what it was meta-trained on; {hint}")
    try:
        recorded = read_yaml(path.read_text(encoding="utf-8"))["family"]
        family = recorded[0] if isinstance(recorded, list) else recorded
        name, arguments = family["class_path"], family.get("init_args") or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, yaml.YAMLError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged and names no family; {hint}") from error
    check_recorded(name, arguments, f"{path.parent} was meta-trained on", hint)
    return parser.parse_object({"checkpoints": [source], "family": {"class_path": name, "init_args": arguments}}).family
