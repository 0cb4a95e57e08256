"""What the commands that evaluate share: making a family, evaluating, showing the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from metatele.cli.arguments import instantiate
from metatele.errors import ConfigError
from metatele.evaluation import Evaluation, Verdict, evaluate
from metatele.evaluation.contestants.learned import LearnedOrInner
from metatele.evaluation.evaluation import RESULTS
from metatele.evaluation.evaluator import JOURNAL, PATIENCE
from metatele.evaluation.play.journal import Journal
from metatele.evaluation.results import plain
from metatele.evaluation.settings import Options, Settings
from metatele.report import write_report
from metatele.support.lock import locked
from metatele.support.ranks import joined, speaks
from metatele.task.family import TaskFamily

Contestants = Mapping[str, LearnedOrInner | Sequence[LearnedOrInner]]


def report(
    checkpoints: Contestants,
    family: TaskFamily,
    settings: Settings,
    options: Options,
    output: Path,
    *,
    overwrite: bool = False,
    ahead: Callable[[Options], None] | None = None,
) -> Evaluation:
    """Evaluate, write the report, print the table and the verdicts, and name what was written. Of several processes the
    first one writes and prints.

    Args:
        checkpoints, family, settings, options: see `metatele.evaluate`; the options say how the family was made.
        output: the folder.
        overwrite: whether results of another evaluation there may be lost.
        ahead: what is done first, when the folder is this process's alone: given the options, with the journal.
    Raises: ConfigError if the folder holds the results of another evaluation that are not to be overwritten;
        OutputError if another process is at work there.
    """
    with joined(settings.device, PATIENCE) as (ranks, _), ExitStack() as stack:

        def claim() -> Path:
            folder = stack.enter_context(locked(output))
            if not overwrite:
                _check_free(folder, sorted(checkpoints), settings, options)
            return folder

        folder = ranks.from_first(claim)
        with progress_bar("evaluate") as progress:
            shown = replace(options, progress=progress, journal=options.journal or folder / JOURNAL)
            if ahead is not None:
                ahead(shown)
            evaluation = evaluate(checkpoints, family, settings, options=shown)
        ranks.from_first(lambda: _write(evaluation, folder, options))
    if ranks.first:
        _show(evaluation, folder)
    if not evaluation.ran:
        raise ConfigError(f"every contestant failed, {evaluation.entries[0].name!r} by {evaluation.entries[0].failure}")
    return evaluation


def _write(evaluation: Evaluation, folder: Path, options: Options) -> None:
    """Write results and report; the journal is then not needed any more."""
    evaluation.save(folder)
    if options.journal is None:
        Journal(folder / JOURNAL).close()
    write_report(evaluation, folder)


def _show(evaluation: Evaluation, folder: Path) -> None:
    """Print the table and the verdicts, and where the report is."""
    console = Console(highlight=False)
    console.print(evaluation.table())
    console.print("\nVerdicts (intervals that hold for all of them at once, at 99%: wider than the table's):")
    for verdict in evaluation.verdicts:
        console.print(_spoken(verdict), soft_wrap=True)
    for claim in evaluation.claims:
        answer = evaluation.conclusions[claim.name]
        console.print(Text(f"\nDo the learned teleports of {claim.name} help? {answer}", "bold"))
        if claim.missing:
            lacking = f"INCOMPLETE, missing: {'; '.join(claim.missing)}."
            hint = "`metatele compare --controls all --seeds 3` provides all of it."
            console.print(Text(f"{lacking} {hint}", "yellow"), soft_wrap=True)
    print(f"\nreport: {folder / 'report.html'}")


def _check_free(output: Path, names: Sequence[str], settings: Settings, options: Options) -> None:
    """Raises: ConfigError if a folder holds the results of an evaluation of other contestants, tasks or settings."""
    if not (output / RESULTS).is_file():
        return
    old = Evaluation.load(output)
    same = old.family_spec is not None and plain(options.family_spec) == plain(old.family_spec)
    same = same and sorted(e.name for e in old.entries if e.kind == "checkpoint") == list(names)
    kept = ("tasks", "steps", "seed", "tuning_tasks")
    if not same or any(getattr(old.settings, key) != getattr(settings, key) for key in kept):
        raise ConfigError(
            f"{output} holds another evaluation ({old.family}, {old.settings.tasks} tasks, {len(old.entries)} "
            "contestants); choose another --output, or give --overwrite true"
        )


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
    """A progress bar over the stages of a long computation, removed at the end."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    clocks = (TimeElapsedColumn(), TimeRemainingColumn())
    shown = console.is_terminal and speaks()
    with Progress(*columns, *clocks, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(title)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)


def family_spec(family: Namespace) -> dict[str, Any]:
    """The class and the arguments of a family, or of an experiment, as plain values."""
    spec = family.as_dict()
    return {"class_path": spec["class_path"], "init_args": spec.get("init_args") or {}}
