"""metatele meta-train."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from metatele.checkpoint import TRAINING
from metatele.cli.arguments import default_output, dump, families_of, instantiate, make_training_parser, require
from metatele.cli.command import Command
from metatele.cli.exit_codes import INTERRUPTED
from metatele.errors import CheckpointError, ConfigError
from metatele.meta_training import MetaTraining, Monitor, ProgressBar, meta_train
from metatele.meta_training.settings import LOGARITHMIC
from metatele.meta_training.state import STATE
from metatele.optimizer import InnerOptimizer
from metatele.support.ranks import restarted, speaks, under_torchrun
from metatele.task.mixture import TaskMixture


class MetaTrain(Command):
    """`metatele meta-train`."""

    def make_parser(self) -> ArgumentParser:
        parser = make_training_parser(
            "Meta-train a learned optimizer. Writes best/, last/, the state to resume from, and TensorBoard scalars."
        )
        parser.add_argument("--output", type=str | None, help="folder of the run (default: runs/NAME of the config)")
        parser.add_argument("--resume", type=str | None, metavar="RUN", help="folder of a run to continue")
        return parser

    def prepare(self, arguments: list[str]) -> list[str]:
        """Put the configuration of a run that is to be resumed before the other arguments, which may then change it
        (only meta.iterations and device may differ)."""
        for i, argument in enumerate(arguments):
            if argument == "--resume" and i + 1 < len(arguments):
                run = arguments[i + 1]
            elif argument.startswith("--resume="):
                run = argument.removeprefix("--resume=")
            else:
                continue
            path = Path(os.path.expanduser(run)) / TRAINING
            if not path.is_file():
                raise CheckpointError(f"there is no run to resume in {run}: it holds no {TRAINING}")
            return ["--config", str(path), *arguments]
        return arguments

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command."""
        if config.resume is not None and config.output is not None:
            raise ConfigError(f"a resumed run stays in its folder {config.resume}; leave --output {config.output} out")
        output = Path(config.resume or config.output or default_output(config))
        resume = config.resume is not None or (restarted() and (output / STATE).is_file())
        with stop_on_interrupt() as stop:
            bar = ProgressBar("meta-train", **how_to_show(config))
            result = train(parser, config, output, resume, [bar], stop.is_set)
        if not speaks():
            return 0 if result.finished else INTERRUPTED
        if not result.finished:
            print(
                f"metatele: stopped after {len(result.history)} iterations; "
                f"continue with: metatele meta-train --resume {output}",
                file=sys.stderr,
            )
            return INTERRUPTED
        print(
            f"best checkpoint: {output / 'best'}\nevaluate it:     metatele evaluate {output}{_family_argument(config)}"
        )
        return 0


def how_to_show(config: Namespace) -> dict[str, Any]:
    """How `ProgressBar` is to show the losses of a run."""
    losses = {config.meta.loss, *(phase.get("loss") or config.meta.loss for phase in config.meta.phases or [])}
    return {
        "log_loss": losses <= set(LOGARITHMIC),
        "log_score": config.meta.loss in LOGARITHMIC,
        "relative": bool(config.validation.baselines),
    }


def _family_argument(config: Namespace) -> str:
    """What must be added to the command `evaluate` for a family that is not a shipped one, or a mixture."""
    family, *_ = families_of(config.family)
    if _is_mixture(family):
        tests = [f for f in families_of(config.validation_family or []) if not _is_mixture(f)]
        return f" --family {tests[0].class_path if tests else 'FAMILY'}"
    return "" if family.class_path.startswith("metatele.tasks.") else f" --family {family.class_path}"


def _is_mixture(family: Namespace) -> bool:
    """Whether the class that a configuration names is a mixture."""
    module, _, name = family.class_path.rpartition(".")
    return issubclass(getattr(import_module(module), name), TaskMixture)


def train(
    parser: ArgumentParser,
    config: Namespace,
    output: Path,
    resume: bool,
    monitors: Sequence[Monitor],
    stop: Callable[[], bool],
    change: Callable[[InnerOptimizer], InnerOptimizer] = lambda inner: inner,
) -> MetaTraining:
    """Meta-train what a configuration describes.

    Args:
        parser, config: of the command.
        output: folder of the run.
        resume: whether to go on with the run that is there.
        monitors: notified of every iteration.
        stop: called after every iteration; when it returns True, the run is saved and ends.
        change: what to do to the configuration's own optimizer first.
    """
    require(config, "family", "optimizer.update")
    made = instantiate(parser, config)
    return meta_train(
        change(made.optimizer),
        made.family,
        made.unroll,
        made.meta,
        made.validation,
        seed=made.seed,
        output=output,
        resume=resume,
        monitors=monitors,
        stop=stop,
        device=made.device,
        config=dump(parser, config, drop=("output", "resume")),
        validation_family=made.validation_family or (),
    )


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C asks for runs to stop after their iteration; the second one stops them at once. Under torchrun,
    which hands Ctrl-C on, so that it comes twice, and ends processes by SIGTERM, the first one alone is heard."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if under_torchrun():
            asked.set()
            return
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nmetatele: finishing this iteration and saving; press Ctrl-C again to stop at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    heard = (signal.SIGINT,) if under_torchrun() else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
