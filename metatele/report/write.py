"""Writing a report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from metatele.errors import ConfigError
from metatele.evaluation import Evaluation
from metatele.pictures.style import save_figures
from metatele.report.csv_file import results_csv
from metatele.report.figures.changes import transfer
from metatele.report.figures.drawing import quiet
from metatele.report.figures.drawing_changes import draw_transfer
from metatele.report.figures.figures import Figures
from metatele.report.page.page import make_page
from metatele.report.text import clean, slug
from metatele.support.files import make_folder, write_atomic

PAGE, TABLE = "report.html", "results.csv"


def write_report(
    evaluations: Sequence[Evaluation] | Evaluation, folder: Path | str, *, names: Sequence[str] | None = None
) -> list[Path]:
    """Write the report of one evaluation, or of several side by side, into a folder.

    The page, `report.html`, is one file that needs nothing else: no network, no other file. Beside it are its
    figures as PNG and PDF, and `results.csv` with every number. Of several evaluations the figures' names
    begin with the evaluation's number and title. Equal evaluations give equal bytes.

    Args:
        evaluations: what to report on.
        folder: where to write; it is made if it does not exist.
        names: one for each evaluation, such as its folder's. Among several evaluations it is added in parentheses
            to the titles of those that have no title of their own, or share one.
    Returns: the paths of what was written, the page first.
    Raises: ConfigError without any evaluation, or with more or fewer names than evaluations; OutputError if the
        folder cannot be written to.
    """
    given = [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)
    if not given:
        raise ConfigError("there is nothing to report: give at least one evaluation")
    if names is not None and len(names) != len(given):
        raise ConfigError(f"names must have one entry for each of the {len(given)} evaluations, got {len(names)}")
    where = make_folder(Path(folder))
    titles = zip(given, _titles(given, names), strict=True)
    titled = [e if e.called == title else replace(e, title=title) for e, title in titles]
    figures = [Figures(e) for e in titled]
    page, table = where / PAGE, where / TABLE
    write_atomic(table, results_csv(titled))
    with quiet():
        pictures = save_figures(_files(figures), where)
    write_atomic(page, make_page(figures))
    return [page, table, *pictures]


def _files(figures: Sequence[Figures]) -> Mapping[str, Figure]:
    """Every figure by its file's name."""
    if len(figures) == 1:
        return figures[0].files()
    drawn = {"transfer": draw_transfer(transfer([f.evaluation for f in figures]))}
    for i, each in enumerate(figures, 1):
        prefix = "-".join(filter(None, (str(i), slug(each.evaluation.called))))
        drawn |= {f"{prefix}-{name}": figure for name, figure in each.files().items()}
    return drawn


def _titles(evaluations: Sequence[Evaluation], names: Sequence[str] | None) -> list[str]:
    """What the evaluations are called: with their names where titles do not tell them apart, else numbered."""
    plain = [clean(e.called) for e in evaluations]
    if names is not None and len(plain) > 1:
        unclear = [not e.title or plain.count(t) > 1 for e, t in zip(evaluations, plain, strict=True)]
        given = zip(plain, map(clean, names), unclear, strict=True)
        plain = [f"{t} ({name})" if add and name else t for t, name, add in given]
    return [f"{t} ({plain[: i + 1].count(t)})" if plain.count(t) > 1 else t for i, t in enumerate(plain)]
