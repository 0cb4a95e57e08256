"""How contestants are drawn: a colour for a checkpoint and its controls, dashes for a kind of control or of rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from metatele.evaluation import Entry
from metatele.pictures.style import COLOURS, GREYS
from metatele.teleports.rules import CanonicalTeleport, When, rule_named, when_of

Dashes = str | tuple[int, tuple[float, ...]]

CONTROLS: dict[str | None, Dashes] = {
    "off": (0, (5, 2)),
    "mean schedule": (0, (4, 1.5, 1, 1.5)),
    "random": (0, (1, 1.2)),
    "balance": (0, (7, 1.5, 1, 1.5, 1, 1.5)),
}
BASELINES: tuple[Dashes, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
RULES: dict[When | None, Dashes] = {  # checkpoints with a closed-form rule, by when it acts
    "at step 0": (0, (1.2, 1.5)),
    "at every step": (0, (5.5, 1.8)),
    None: (0, (5.5, 1.5, 1.2, 1.5)),
}
MARKERS = ("", "o", "s", "^", "D", "v", "P", "X")  # tell apart what has the same colour and dashes
STRONG = 2  # colours that are kept for what matters most, if they suffice
# Given to the rules in turn: the lighter blue, close to the strongest colour, for the rarest of them.
RULE_COLOURS = (COLOURS[2], COLOURS[4], COLOURS[3], COLOURS[5])
MAIN, RULE, CONTROL, BASELINE = 5, 4, 3, 2  # who is drawn on top of whom

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


def looks_of(entries: Sequence[Entry], reference: str = "") -> dict[str, Look]:
    """{contestant: its look}: checkpoints in bold colours, the strongest two for the learned teleport and the
    reference; those with a closed-form rule thinner, with a colour for the rule and dashes for when it acts;
    controls dashed in their checkpoint's colour; baselines thin and grey, dashed by their kind of teleport."""
    out: dict[str, Look] = {}
    teleports: dict[str, int] = {}  # of the baselines: how many have had each so far
    colours = _main_colours(entries, reference)
    for e in entries:
        if e.kind == "baseline":
            teleport = str(e.parts["teleport"]["class"])
            before = teleports.setdefault(teleport, 0)
            teleports[teleport] += 1
            dashes = BASELINES[list(teleports).index(teleport) % len(BASELINES)]
            out[e.name] = Look(GREYS[before % len(GREYS)], dashes, 1.2, "", BASELINE)
        elif e.kind == "control" and e.source in out:
            source = out[e.source]
            dashes = CONTROLS.get(e.control, (0, (3, 1)))
            out[e.name] = _new(out, source.colour, dashes, 1.5, CONTROL, source.marker)
        elif e.name in colours:
            out[e.name] = _new(out, colours[e.name], "-", 2.6, MAIN)
        else:
            out[e.name] = _new(out, _rule_colour(e), RULES[when_of(e.parts["teleport"]["arguments"])], 1.8, RULE)
    return out


def _main_colours(entries: Sequence[Entry], reference: str) -> dict[str, str]:
    """{checkpoint: its colour}, of those without a rule and of the reference."""
    others = [e for e in entries if e.kind not in ("baseline", "control") or (e.kind == "control" and not e.source)]
    main = [e for e in others if not _has_rule(e) or e.name == reference]
    first = next((e for e in main if e.learned_teleport and e.name != reference), None)
    # The first learned teleport, the reference, other learned teleports, the rest.
    order = sorted(main, key=lambda e: (e is not first, e.name != reference, not e.learned_teleport))
    ruled = {_rule_colour(e) for e in others if _has_rule(e) and e.name != reference}
    free = sorted(COLOURS[STRONG:], key=lambda colour: colour in ruled)
    colours = [*COLOURS[:STRONG], *free]
    return {e.name: colours[i % len(colours)] for i, e in enumerate(order)}


def _has_rule(entry: Entry) -> bool:
    return rule_named(str(entry.parts["teleport"]["class"])) is not None


def _rule_colour(entry: Entry) -> str:
    """The colour of a closed-form rule, the same in every report; of what has none, as a control without its source,
    the first."""
    kinds = {kind.__name__: i for i, kind in enumerate(CanonicalTeleport.named.values())}
    return RULE_COLOURS[kinds.get(str(entry.parts["teleport"]["class"]), 0) % len(RULE_COLOURS)]


def _new(looks: dict[str, Look], colour: str, dashes: Dashes, width: float, order: int, marker: str = "") -> Look:
    """A look that none of the others has: with another marker if need be, and while there are markers."""
    tried = [Look(colour, dashes, width, m, order) for m in (marker, *MARKERS)]
    return next((look for look in tried if look not in looks.values()), tried[0])
