"""Colours of the heat map: blue is better, orange is worse, for colour-blind readers too."""

BETTER, NEUTRAL, WORSE = (0x2B, 0x7B, 0xBA), (0xF5, 0xF5, 0xF2), (0xE0, 0x82, 0x14)
DARK = "#111111"


def diverging(strength: float) -> str:
    """The colour of a strength in [-1, 1]; dark ink can be read on all of them."""
    end = BETTER if strength < 0 else WORSE
    # Not all the way: dark text must stay readable on the ends.
    weight = 0.85 * min(1.0, abs(strength))
    mixed = (round(n + weight * (e - n)) for n, e in zip(NEUTRAL, end, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
