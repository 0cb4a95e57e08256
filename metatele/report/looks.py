"""How contestants are drawn: a colour for a checkpoint and its controls, dashes for a kind of control."""

from collections.abc import Sequence
from dataclasses import dataclass

from metatele.evaluation import Entry
from metatele.figures import COLOURS, GREYS

Dashes = str | tuple[int, tuple[float, ...]]

CONTROLS: dict[str | None, Dashes] = {
    "off": (0, (5, 2)),
    "mean schedule": (0, (4, 1.5, 1, 1.5)),
    "random": (0, (1, 1.2)),
    "balance": (0, (7, 1.5, 1, 1.5, 1, 1.5)),
}
BASELINES: tuple[Dashes, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
MARKERS = ("", "o", "s", "^", "D")  # tell checkpoints with the same colour apart

# Colours on dark paper, in the order of COLOURS and GREYS.
DARK_COLOURS = ("#58a9e6", "#ff8a4c", "#2fc79a", "#e79ac4", "#9bd7f7", "#f7c04a")
DARK_GREYS = ("#b9b9b9", "#949494", "#777777")


@dataclass(frozen=True)
class Look:
    """How one contestant is drawn in all figures.

    Attributes:
        colour: of its lines, one of COLOURS or GREYS.
        dashes, width, marker: of its lines, as matplotlib has them.
        order: who is drawn on top of whom.
    """

    colour: str
    dashes: Dashes
    width: float
    marker: str
    order: int

    @property
    def variable(self) -> str:
        """The variable of the page's style that holds its colour."""
        return VARIABLES[self.colour.lower()]

    @property
    def dash_array(self) -> str:
        """Its dashes as SVG has them; "none" for a solid line."""
        if isinstance(self.dashes, str):
            return "none"
        return " ".join(f"{x * self.width:.3g}" for x in self.dashes[1])


VARIABLES = {
    **{colour.lower(): f"var(--colour-{i})" for i, colour in enumerate(COLOURS)},
    **{grey.lower(): f"var(--grey-{i})" for i, grey in enumerate(GREYS)},
}


def looks_of(entries: Sequence[Entry]) -> dict[str, Look]:
    """{contestant: its look}: checkpoints in bold colours, controls dashed in their checkpoint's colour,
    baselines thin and grey, dashed by their kind of teleport."""
    out: dict[str, Look] = {}
    checkpoints = 0
    teleports: dict[str, int] = {}  # of the baselines: how many have had each so far
    for e in entries:
        if e.kind == "baseline":
            teleport = str(e.parts["teleport"]["class"])
            before = teleports.setdefault(teleport, 0)
            teleports[teleport] += 1
            dashes = BASELINES[list(teleports).index(teleport) % len(BASELINES)]
            out[e.name] = Look(GREYS[before % len(GREYS)], dashes, 1.2, "", 2)
        elif e.kind == "control" and e.source in out:
            source = out[e.source]
            out[e.name] = Look(source.colour, CONTROLS.get(e.control, (0, (3, 1))), 1.5, source.marker, 3)
        else:
            round_, shade = divmod(checkpoints, len(COLOURS))
            out[e.name] = Look(COLOURS[shade], "-", 2.4, MARKERS[round_ % len(MARKERS)], 5)
            checkpoints += 1
    return out
