"""metatele report."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from metatele.cli.command import Command
from metatele.errors import ConfigError
from metatele.evaluation import Evaluation
from metatele.evaluation.evaluation import RESULTS
from metatele.report import write_report

DEFAULT = "report"


class Report(Command):
    """`metatele report`."""

    def make_parser(self) -> ArgumentParser:
        parser = ArgumentParser(
            description="Make the report of evaluations from their results.json: report.html, a page that opens "
            "anywhere without a network, its figures as PNG and PDF, and results.csv. One evaluation is reported on in "
            "its own folder, several are put side by side.",
            exit_on_error=False,
            allow_abbrev=False,
        )
        parser.add_argument(
            "evaluations",
            type=str,
            nargs="+",
            help="folders of evaluations, their results.json, or folders that hold folders of evaluations",
        )
        parser.add_argument(
            "--output", type=str | None, help="folder (default: that of the evaluation; of several, 'report')"
        )
        return parser

    def run(self, parser: ArgumentParser, config: Namespace) -> int:
        """Run the command."""
        paths = list(dict.fromkeys(path for given in config.evaluations for path in _results(Path(given))))
        evaluations = [Evaluation.load(path) for path in paths]
        output = Path(config.output or (paths[0].parent if len(paths) == 1 else DEFAULT))
        page, *_ = write_report(evaluations, output, names=_names(paths))
        print(f"report: {page}")
        return 0


def _names(paths: list[Path]) -> list[str]:
    """The folders' names, with as many of the folders above them as tell them apart."""
    parts = [path.resolve().parent.parts[1:] for path in paths]
    names: list[str] = []
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len({*names}) == len(names):
            break
    return names


def _results(given: Path) -> list[Path]:
    """The results.json that a path stands for: itself, its own, or those of its folders.

    Raises: ConfigError if there is none.
    """
    if not given.is_dir():
        if not given.exists():
            raise ConfigError(f"there is no {given}; give the folder of an evaluation, or its {RESULTS}")
        return [given]
    if (given / RESULTS).is_file():
        return [given / RESULTS]
    found = sorted(given.glob(f"*/{RESULTS}"))
    if not found:
        raise ConfigError(f"{given} holds no {RESULTS}, and none of its folders does; give the folder of an evaluation")
    return found
