"""The page of a report, from its template."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from metatele.evaluation import Evaluation
from metatele.evaluation.formats import ROWS, held_out
from metatele.evaluation.judge.verdict import FAMILY_WISE, MARGIN
from metatele.pictures.style import COLOURS, GREYS
from metatele.report.figures.figures import Figures, Shown
from metatele.report.figures.looks import DARK_COLOURS, DARK_GREYS
from metatele.report.page.measured import Measured, measured
from metatele.report.page.overview import Overview, overview
from metatele.report.page.sheet import Sheet, sheet
from metatele.report.page.verdicts import Judged, judged
from metatele.report.text import clean
from metatele.version import __version__

TEMPLATES = "templates"


@dataclass(frozen=True)
class Section:
    """One evaluation on the page.

    Attributes:
        id: what its identifiers begin with.
        title, about: its title, and what was measured, in one line.
        judged: the verdicts.
        sheets: the table of the losses that are judged, and those of other parts.
        figures, measured: the figures, and how it was measured.
    """

    id: str
    title: str
    about: str
    judged: Judged
    sheets: tuple[Sheet, ...]
    figures: tuple[Shown, ...]
    measured: Measured


def make_page(figures: Sequence[Figures]) -> str:
    """One HTML file with everything in it."""
    sections = [_section(each, f"e{i}") for i, each in enumerate(figures, 1)]
    several: Overview | None = overview([f.evaluation for f in figures]) if len(figures) > 1 else None
    script = _read("script.js")
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=", ".join(s.title for s in sections[:3]) + (" and others" if len(sections) > 3 else ""),
            sections=sections,
            overview=several,
            level=f"{100 * FAMILY_WISE:g}%",
            margin=f"{MARGIN:g}%",
            rows=ROWS,
            version=__version__,
            style=Markup(_read("style.css")),
            light=list(zip(range(len(COLOURS)), COLOURS, strict=True)),
            dark=list(zip(range(len(COLOURS)), DARK_COLOURS, strict=True)),
            light_greys=list(zip(range(len(GREYS)), GREYS, strict=True)),
            dark_greys=list(zip(range(len(GREYS)), DARK_GREYS, strict=True)),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _section(figures: Figures, name: str) -> Section:
    """The section of one evaluation; the identifiers in it begin with `name`."""
    e = figures.evaluation
    parts = [e.part, *(p for p in e.parts if p != e.part)]
    return Section(
        id=name,
        title=clean(e.called),
        about=_about(e),
        judged=judged(e),
        sheets=tuple(sheet(e, part) for part in parts),
        figures=tuple(figures.shown(f"{name}-")),
        measured=measured(e),
    )


def _about(e: Evaluation) -> str:
    s = e.settings
    steps = f"{s.steps} step{'s' if s.steps > 1 else ''}"
    contestants = f"{len(e.entries)} contestant{'s' if len(e.entries) > 1 else ''}"
    return f"{clean(e.family)}: {held_out(s.tasks)}, {steps} each, seed {s.seed}; {contestants}; loss on {ROWS[e.part]}"


@cache
def _environment() -> jinja2.Environment:
    """The template environment, which escapes everything that comes from users."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metatele.report.page", TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {"svg": Markup}
    environment.filters.update(filters)
    return environment


def _read(name: str) -> str:
    return resources.files("metatele.report.page").joinpath(TEMPLATES, name).read_text(encoding="utf-8")
