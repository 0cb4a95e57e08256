"""metatele experiment."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

import metatele.experiments  # noqa: F401 - so that the experiments can be named without their module
from metatele.cli.arguments import default_output, instantiate, require
from metatele.cli.command import Command
from metatele.cli.reporting import family_spec, progress_bar
from metatele.experiments import Experiment
from metatele.support.files import make_folder


class RunExperiment(Command):
    """`metatele experiment`."""

    def make_parser(self) -> ArgumentParser:
        parser = ArgumentParser(
            description="Run one of the paper's experiments on teleportation without learning: LevelSetTrajectories "
            "(test functions), RegressionTeleports (20 x 20 regression), ImageOptimizers (five optimizers), "
            "TeleportOnce "
            "(to flatter or more curved points), FlatnessCorrelation. Prints its table, and writes "
            "results.json and its "
            "figures. configs/experiments has a file for each; --experiment.help CLASS shows the arguments of one.",
            exit_on_error=False,
            allow_abbrev=False,
        )
        parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
        parser.add_argument("--experiment", type=Experiment, help="which experiment: a class and its arguments")
        parser.add_argument("--output", type=str | None, help="folder (default: runs/NAME of the config)")
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command."""
        require(config, "experiment")
        experiment: Experiment = instantiate(parser, config).experiment
        output = Path(config.output or default_output(config))
        with writable_folder(output):
            with progress_bar(type(experiment).__name__) as progress:
                findings = experiment.run(progress)
            findings.save(output, family_spec(config.experiment))
        for table in findings.tables:
            _print_whole(table)
        print(f"results and figures: {output}  ({findings.seconds:.0f} s)")
        return 0


def _print_whole(table: Table) -> None:
    """Print a table without leaving anything out, even if it is wider than the terminal."""
    console = Console(highlight=False)
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(highlight=False, width=max(console.width, needed)).print(table)


@contextlib.contextmanager
def writable_folder(path: Path) -> Iterator[None]:
    """Check that a folder can be written to before long work begins; remove what was created for it if it stays empty.

    Raises: OutputError.
    """
    made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        make_folder(path)
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: something was written
                folder.rmdir()
