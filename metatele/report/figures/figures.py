"""All figures of one evaluation: for the page, and as files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.figure import Figure

from metatele.evaluation import Entry, Evaluation
from metatele.report.figures import curves, moves
from metatele.report.figures.changes import Forest, forest
from metatele.report.figures.drawing import banded, draw_frame, draw_panel
from metatele.report.figures.drawing_changes import draw_forest
from metatele.report.figures.frames import BANDS, Frame
from metatele.report.figures.looks import Look, looks_of
from metatele.report.figures.svg import to_svg
from metatele.report.text import as_link, clean

CHOOSE = "Choose a contestant in the legend to highlight it and show its band."
MARKER_SIGNS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}  # of markers, in legends
SMALL_PANEL = (4.6, 3.4)  # inches of a panel that stands beside others


@dataclass(frozen=True)
class Key:
    """A contestant's entry in a legend; `colour`, `dashes` and `width` are values of SVG attributes."""

    index: int
    label: str
    kind: str
    trouble: str
    colour: str
    dashes: str
    width: float
    marker: str
    banded: bool


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it.

    Attributes:
        name: of the file to download its data to.
        title, caption: what stands above and below.
        pictures: its panels as SVG.
        keys: its legend.
        link: its data as CSV in a URI.
    """

    name: str
    title: str
    caption: str
    pictures: tuple[str, ...]
    keys: tuple[Key, ...]
    link: str


@dataclass
class Figures:
    """The figures of one evaluation."""

    evaluation: Evaluation

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each contestant is drawn."""
        return looks_of(self.evaluation.entries, self.evaluation.reference)

    @cached_property
    def frames(self) -> Sequence[Frame]:
        """The figures of curves, in the order of the page."""
        e = self.evaluation
        if not e.ran:
            return []
        made = [
            curves.loss_against_step(e),
            curves.loss_against_time(e),
            curves.gradient_against_loss(e),
            curves.profile(e),
            moves.group_elements(e),
            curves.accuracy_against_step(e),
        ]
        return [frame for frame in made if frame is not None]

    @cached_property
    def forest(self) -> Forest | None:
        """The final losses against the reference."""
        return forest(self.evaluation)

    def files(self) -> dict[str, Figure]:
        """{name without ending: figure}."""
        labels = {e.name: _label(e) for e in self.evaluation.entries}
        title = clean(self.evaluation.called)
        drawn = {frame.name: draw_frame(frame, self.looks, labels, title) for frame in self.frames}
        if self.forest is not None:
            drawn[self.forest.name] = draw_forest(self.forest, self.looks, {}, title)
        return drawn

    def shown(self, prefix: str) -> Iterator[Shown]:
        """The figures as the page shows them; identifiers begin with the prefix."""
        index = {e.name: i for i, e in enumerate(self.evaluation.entries)}
        for frame in self.frames:
            size = {"size": SMALL_PANEL} if len(frame.panels) > 1 else {}
            pictures = tuple(
                to_svg(draw_panel(panel, self.looks, index, **size), f"{prefix}{frame.name}-{k}", self._alt(frame, k))
                for k, panel in enumerate(frame.panels)
            )
            caption = " ".join([frame.caption, *([BANDS, CHOOSE] if frame.has_bands else [])])
            yield Shown(frame.name, frame.title, caption, pictures, self._keys(frame.names), as_link(frame.csv))
        if self.forest is not None:
            yield self._shown_forest(self.forest, index, prefix)

    def _shown_forest(self, forest: Forest, index: Mapping[str, int], prefix: str) -> Shown:
        """The forest plot as the page shows it."""
        what = (
            "Ratio of the geometric means of the losses, minus 1"
            if forest.relative
            else "Mean difference of the losses"
        )
        caption = (
            f"{what}, at step {forest.step}, against {clean(forest.reference)}, each with its own 95% interval over "
            "tasks. For many comparisons at once, see the verdicts above. Arrows mark values outside the axis."
        )
        picture = to_svg(
            draw_forest(forest, self.looks, index),
            f"{prefix}{forest.name}",
            f"{forest.title}. The table has the numbers.",
        )
        return Shown(forest.name, forest.title, caption, (picture,), (), as_link(forest.csv))

    def _alt(self, frame: Frame, k: int) -> str:
        panel = frame.panels[k]
        which = f", {panel.title}" if panel.title else ""
        lines = f"{len(panel.lines)} line{'' if len(panel.lines) == 1 else 's'}"
        return f"{frame.title}{which}: {panel.y} against {panel.x}, {lines}; the CSV file below has the numbers."

    def _keys(self, names: Sequence[str]) -> tuple[Key, ...]:
        """The legend of a figure with these contestants."""
        entries = self.evaluation.entries
        bands = banded(list(self.looks.values()), names, self.looks)
        found = []
        for i, e in enumerate(entries):
            if e.name not in names:
                continue
            look = self.looks[e.name]
            shown = e.name in bands
            drawn = look.variable, look.dash_array, look.width, MARKER_SIGNS.get(look.marker, "")
            found.append(Key(i, clean(e.label), e.kind, clean(e.trouble), *drawn, shown))
        return tuple(found)


def _label(entry: Entry) -> str:
    return f"{entry.label} ({clean(entry.trouble)})" if entry.trouble else entry.label
