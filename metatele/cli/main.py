"""The entry point: find the command, run it, turn expected errors into one line."""

import os
import sys
import warnings
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING

from metatele.cli.exit_codes import BAD_INPUT, INTERRUPTED
from metatele.errors import ConfigError, MetateleError, printable
from metatele.support.messages import lacks_memory
from metatele.version import __version__

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from metatele.cli.command import Command

# For each command: its class, which is loaded only when it is used, and its description in the help.
COMMANDS = {
    "meta-train": ("meta_train_command.MetaTrain", "meta-train a learned optimizer on a task family"),
    "evaluate": (
        "evaluate_command.Evaluate",
        "compare checkpoints, controls and tuned baselines on tasks that none has seen",
    ),
    "report": ("report_command.Report", "make the report of an evaluation again, or put several side by side"),
    "compare": (
        "compare_command.Compare",
        "meta-train with teleports, without, and with rules, at equal budget; then evaluate",
    ),
    "experiment": (
        "experiment_command.RunExperiment",
        "run one of the paper's experiments on teleportation without learning",
    ),
}


SHARED = ("meta-train", "evaluate")  # what processes that torchrun has started do together

_format_warning = warnings.formatwarning


def load_command(name: str) -> "Command":
    """The command of a name in `COMMANDS`."""
    module, kind = COMMANDS[name][0].split(".")
    command: Command = getattr(import_module(f"metatele.cli.{module}"), kind)(name)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; the process's own when None.
    Returns: the exit code: 0, 2 for bad input, 130 when interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _one_line_warning
    try:
        _find_users_modules()
        if not given or given[0] not in COMMANDS:
            return _without_command(given)
        command = load_command(given[0])
        _check_processes(given[0])
        _set_up_parsing()
        with _one_voice():
            parser = command.make_parser()
            parser.prog = f"metatele {command.name}"
            config = parser.parse_args(command.prepare(given[1:]))
            return command.run(parser, _expand_home(config))
    except (MetateleError, ArgumentError) as error:
        return _refuse(_one_line(error))
    except (UnicodeDecodeError, RecursionError) as error:  # from reading a configuration file
        return _refuse(f"a file cannot be read as YAML: {_one_line(error)}")
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return _refuse(f"not enough memory ({_one_line(error)}); use smaller sizes")
    except KeyboardInterrupt:
        return _interrupted()


def _without_command(given: list[str]) -> int:
    """Show the help or the version, or say what is missing."""
    parser = ArgumentParser(
        prog="metatele",
        description="Meta-train optimizers that teleport along the symmetries of a network.",
        epilog="`metatele COMMAND --help` shows the arguments of a command.",
        usage="metatele [--help] [--version] COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"metatele {__version__}")
    commands = parser.add_argument_group("commands")
    for name, (_, summary) in COMMANDS.items():
        commands.add_argument(name, nargs="?", help=summary)
    if given and given[0] in ("-h", "--help", "--version"):
        parser.parse_args(given[:1])
    what = f"there is no command {given[0]!r}" if given else "a command is missing"
    return _refuse(f"{what}; use one of {', '.join(COMMANDS)} (metatele --help)")


def _find_users_modules() -> None:
    """Users name their own families by import path; last, so that no file of a folder stands in for a library.

    Raises: ConfigError if the working directory is gone.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise ConfigError(f"there is no working directory: {error.strerror}; change to another") from error
    if here not in sys.path:
        sys.path.append(here)


def _check_processes(command: str) -> None:
    """Wait for the other processes, if there are any.

    Raises: ConfigError for a command that would do everything once in each process.
    """
    from metatele.support.ranks import restarted, under_torchrun  # not at the top: it loads torch

    if under_torchrun() and command not in SHARED:
        raise ConfigError(
            f"metatele {command} runs in one process, only {' and '.join(SHARED)} in several; start it without torchrun"
        )
    restarted()  # those who come late then know what the others know


@contextmanager
def _one_voice() -> Iterator[None]:
    """Inside, of processes that torchrun has started together only the first one prints."""
    from metatele.support.ranks import speaks  # not at the top: it loads torch

    with ExitStack() as stack:
        if not speaks():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def _set_up_parsing() -> None:
    from metatele.cli.arguments import set_up_parsing  # not at the top: it loads what commands need

    set_up_parsing()


def _expand_home(config: "Namespace") -> "Namespace":
    from metatele.cli.arguments import expand_home  # not at the top: it loads what commands need

    expanded: Namespace = expand_home(config)
    return expanded


def _one_line_warning(message: Warning | str, category: type[Warning], *where: object, **more: object) -> str:
    """Metatele's own warnings are for users, and told once; others, for developers, say where they come from."""
    if category is UserWarning:
        from metatele.support.ranks import first_to_say  # not at the top: it loads torch

        return f"metatele: warning: {printable(str(message))}\n" if first_to_say(str(message)) else ""
    return _format_warning(message, category, *where, **more)  # type: ignore[arg-type]


def _refuse(message: str) -> int:
    from metatele.support.ranks import first_to_say  # not at the top: it loads torch

    if first_to_say("error"):
        print(f"metatele: error: {printable(message)}", file=sys.stderr, flush=True)
    return BAD_INPUT


def _interrupted() -> int:
    from metatele.support.ranks import first_to_say  # not at the top: it loads torch

    if first_to_say("interrupted"):
        print("metatele: interrupted", file=sys.stderr)
    return INTERRUPTED


def _one_line(error: BaseException) -> str:
    from metatele.cli.arguments import one_line  # not at the top: it loads what commands need

    return one_line(error)
