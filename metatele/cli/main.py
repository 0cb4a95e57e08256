"""The entry point: parse a command line, run the command, turn expected errors into one line."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from metatele.cli import compare_command, evaluate_command, experiment_command, meta_train_command, report_command
from metatele.cli.arguments import INTERRUPTED, one_line
from metatele.errors import MetateleError
from metatele.version import __version__

COMMANDS = {
    "meta-train": (meta_train_command, "meta-train a learned optimizer on a task family"),
    "evaluate": (evaluate_command, "compare checkpoints, controls and tuned baselines on tasks that none has seen"),
    "report": (report_command, "make the report of an evaluation again, or put several side by side"),
    "compare": (compare_command, "meta-train with teleports, without, and with rules, at equal budget; then evaluate"),
    "experiment": (experiment_command, "run one of the paper's experiments on teleportation without learning"),
}
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; the process's own when None.
    Returns: the exit code: 0, 2 for bad input, 130 when interrupted.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # users name their own families by import path
    parser = ArgumentParser(
        prog="metatele",
        description="Meta-train optimizers that teleport along the symmetries of a network.",
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parsers = {name: module.make_parser() for name, (module, _) in COMMANDS.items()}
    commands = parser.add_subcommands(required=True, dest="command")
    for name, (_, summary) in COMMANDS.items():
        commands.add_subcommand(name, parsers[name], help=summary)
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        config = parser.parse_args(meta_train_command.with_recorded_config(given))
        module, _ = COMMANDS[config.command]
        return module.run(parsers[config.command], config[config.command])
    except (MetateleError, ArgumentError) as error:
        message = one_line(error)
        for name in COMMANDS:  # "required: meta-train.optimizer.update", as nobody types it
            message = message.replace(f"required: {name}.", "required: ")
        print(f"metatele: error: {message}", file=sys.stderr)
        return BAD_INPUT
    except (UnicodeDecodeError, RecursionError) as error:  # from reading a configuration file
        print(f"metatele: error: a file cannot be read as YAML: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        print(f"metatele: error: not enough memory ({one_line(error)}); use smaller sizes", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("metatele: interrupted", file=sys.stderr)
        return INTERRUPTED
