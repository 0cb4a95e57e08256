"""What the commands that evaluate share: making a family, evaluating, showing what came out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from metatele.cli.arguments import instantiate
from metatele.evaluation import Evaluation, Verdict, evaluate
from metatele.evaluation.contestant import Given
from metatele.report import write_report
from metatele.task import TaskFamily


def report(
    checkpoints: Mapping[str, Given | Sequence[Given]],
    family: TaskFamily,
    spec: dict[str, Any],
    output: Path,
    **settings: Any,
) -> Evaluation:
    """Evaluate, write the report, print the table and the verdicts, and name what was written."""
    with progress_bar("evaluate") as progress:
        evaluation = evaluate(checkpoints, family, output=output, family_spec=spec, progress=progress, **settings)
    write_report(evaluation, output)
    console = Console(highlight=False)
    console.print(evaluation.table())
    print()
    for verdict in evaluation.verdicts:
        console.print(_spoken(verdict), soft_wrap=True)
    for claim in evaluation.claims:
        if claim.missing:
            text = f"INCOMPLETE: a claim about the teleports of {claim.name} lacks {'; '.join(claim.missing)}"
            console.print(Text(text, "yellow"), soft_wrap=True)
    print(f"\nreport: {output / 'report.html'}")
    return evaluation


def _spoken(verdict: Verdict) -> Text:
    styles = {"better": "green", "worse": "red"}
    return Text(verdict.sentence, styles.get(verdict.outcome, "dim"))


def make_family(parser: ArgumentParser, spec: Mapping[str, Any]) -> TaskFamily:
    """The family of a class path and arguments, made with the parser of the command. Raises: ConfigError."""
    config = parser.parse_object({"checkpoints": [], "family": dict(spec)})
    family: TaskFamily = instantiate(parser, config).family
    return family


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over the stages of something long, gone when it is done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    clocks = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *clocks, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)


def family_spec(family: Namespace) -> dict[str, Any]:
    """The class and the arguments of a family, or of an experiment, as plain values."""
    spec = family.as_dict()
    return {"class_path": spec["class_path"], "init_args": spec.get("init_args") or {}}
