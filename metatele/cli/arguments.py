"""Arguments that the commands share, and how errors in them are reported."""

import os
import traceback
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

import metatele.tasks  # noqa: F401 - so that the shipped families can be named without their module
from metatele.errors import ConfigError, MetateleError
from metatele.meta_training import MetaSettings, UnrollSettings, ValidationSettings
from metatele.optimizer import InnerOptimizer
from metatele.support.messages import first_line, named_line
from metatele.support.plain_yaml import check_yaml
from metatele.task.family import TaskFamily

Families = TaskFamily | list[TaskFamily]

# Lines of jsonargparse's messages that say nothing to a user.
BOILERPLATE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "- Expected a <class 'list'>",
    "- Expected a <class 'NoneType'>",
)


_load_yaml = get_loader("yaml")  # jsonargparse's own
SECTIONS = {"optimizer", "unroll", "meta", "validation", "evaluation"}
# What stands beside them.
SINGLE = {"config", "family", "validation_family", "seed", "device", "output", "controls", "seeds", "jobs"}


def set_up_parsing() -> None:
    """Let jsonargparse read YAML with each key once and of a bounded size, and leave plain data plain: a class path in
    a value of any type is no class to be made."""
    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=["subprocess"])
    set_loader("yaml", _load, (yaml.YAMLError,))


def _load(text: str) -> Any:
    """A value, or a configuration file; a section that is left empty is left out."""
    check_yaml(text)
    try:
        value = _load_yaml(text)
    except (ValueError, AttributeError, TypeError, OverflowError) as error:  # a tag that its value does not fit
        raise ConfigError(f"a value is not what its tag says: {first_line(error)}") from error
    if not isinstance(value, dict) or text.lstrip().startswith("{") or not value.keys() <= SECTIONS | SINGLE:
        return value  # no configuration file, but perhaps the arguments of a class that has one called optimizer
    if "config" in value:
        raise ConfigError(f"a configuration cannot name others, got config: {value['config']!r}; give several --config")
    value = {k: v for k, v in value.items() if not (v is None and k in SECTIONS)}
    for key in SECTIONS & value.keys():
        if not isinstance(value[key], dict):
            raise ConfigError(f"{key} must be a section with settings of its own, got {value[key]!r}")
    return value


def make_training_parser(description: str) -> ArgumentParser:
    """A parser with the settings of meta-training."""
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_argument(
        "--family", type=Families, help="task family (or a list of them, used in turn): a class and its arguments"
    )
    parser.add_argument(
        "--validation_family",
        type=Families | None,
        help="task family (or a list) to validate on (default: what is trained on; of a mixture, eight members)",
    )
    parser.add_class_arguments(InnerOptimizer, "optimizer")
    parser.add_class_arguments(UnrollSettings, "unroll")
    parser.add_class_arguments(MetaSettings, "meta")
    parser.add_class_arguments(ValidationSettings, "validation")
    parser.add_argument("--seed", type=int, default=0, help="seed of the learned weights and of all tasks")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    return parser


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Build the objects that a configuration names. Raises: ConfigError."""
    try:
        return parser.instantiate(config)
    except MetateleError:
        raise
    except Exception as error:
        raise ConfigError(_of_users_code(error) or one_line(error)) from error


def _of_users_code(error: BaseException) -> str | None:
    """What the constructor of a class that a configuration names has raised, and where; None if it is the parser that
    complains."""
    while error.__cause__ is not None and error.__cause__.__traceback__ is not None:
        error = error.__cause__
    last = traceback.extract_tb(error.__traceback__)[-1]
    if Path(last.filename).parent.name == "jsonargparse" or isinstance(error, (MetateleError, ArgumentError)):
        return None
    return (
        f"{last.name.replace('__init__', 'a constructor')} raised {named_line(error)} ({last.filename}:{last.lineno})"
    )


def expand_home(value: Any) -> Any:
    """A configuration with paths that begin with ~ made whole, however deep: in a file no shell does it."""
    if isinstance(value, str):
        return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value
    if isinstance(value, Namespace):
        return Namespace(**{k: expand_home(v) for k, v in vars(value).items()})
    if isinstance(value, dict):
        return {k: expand_home(v) for k, v in value.items()}
    return [expand_home(v) for v in value] if isinstance(value, list) else value


def families_of(given: Any) -> list[Any]:
    """The families of a configuration, or their specifications: one, or a list of them."""
    return given if isinstance(given, list) else [given]


def require(config: Namespace, *keys: str) -> None:
    """Raises: ConfigError if a setting is missing."""
    for key in keys:
        if config.get(key) is None:
            raise ConfigError(f"{key} is missing; give it in the file named by --config, or as --{key} VALUE")


def default_output(config: Namespace) -> Path:
    """runs/NAME, with the name of the configuration file."""
    files = config.get("config") or []
    return Path("runs") / (Path(str(files[-1])).stem if files else "run")


def one_line(error: BaseException) -> str:
    """An error's message on one line, without the argument parser's boilerplate."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line.removeprefix("- ") for line in lines if line and not line.startswith(BOILERPLATE)]
    return " ".join(dict.fromkeys(kept)) or type(error).__name__


def dump(parser: ArgumentParser, config: Namespace, drop: tuple[str, ...] = ()) -> str:
    """A configuration as YAML, without the given keys."""
    kept: dict[str, Any] = {k: v for k, v in config.clone().items() if k.split(".")[0] not in ("config", *drop)}
    bare = Namespace()
    for key, value in kept.items():
        bare[key] = value
    return str(parser.dump(bare, skip_validation=True))
