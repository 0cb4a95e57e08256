"""Figures as SVG inside a page: colours are CSS variables, identifiers are unique, and text stays text."""

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from metatele.pictures.style import FAINT, GRID, INK
from metatele.report.figures.drawing import quiet
from metatele.report.figures.looks import VARIABLES

REPLACED = {INK: "currentColor", GRID: "var(--grid)", FAINT: "var(--faint)", **VARIABLES}
SPACE = re.compile(r"\{[^}]*\}")
HREF = "{http://www.w3.org/1999/xlink}href"
TAGGED = re.compile(r"(line|band|dot)-(\d+)$")
NUMBER = re.compile(r"-?\d+\.\d{2,}")
DROPPED = ("metadata", "style")


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """A figure as an <svg> element.

    Lines, dots and bands have the contestant's index as data-c. No colour is left that would be invisible
    on a dark background; the page sets the size.

    Args:
        figure: what to show.
        prefix: what its identifiers begin with, so that several figures can share one page.
        description: alternative text for readers who cannot see it.
    """
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": prefix, "svg.image_inline": True}
    with matplotlib.rc_context(settings), quiet():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _tidy(root)
    _rename(root, prefix)
    box = root.get("viewBox", "")
    root.attrib = {"viewBox": box, "role": "img", "aria-label": description, "class": "plot"}
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element) -> None:
    """Drop what only files need, replace colours, shorten numbers."""
    for child in list(element):
        if SPACE.sub("", child.tag) in DROPPED:
            element.remove(child)
        else:
            _tidy(child)
    element.tag = SPACE.sub("", element.tag)
    if HREF in element.attrib:
        element.set("href", element.attrib.pop(HREF))
    style = element.get("style")
    if style is not None:
        style = re.sub(r"#[0-9a-fA-F]{6}", lambda m: REPLACED.get(m[0].lower(), m[0]), style)
        style = re.sub(
            r"font-family:[^;]*;?|font: ?([\d.]+px)[^;]*;?", lambda m: f"font-size: {m[1]};" if m[1] else "", style
        )
        element.set("style", style.strip())
    for key in ("d", "x", "y", "transform"):
        if key in element.attrib:
            element.set(key, _short(element.attrib[key], "d" if key == "d" else ""))
    match = TAGGED.match(element.get("id", ""))
    if match:
        element.set("class", match[1])
        element.set("data-c", match[2])
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None


def _short(numbers: str, kind: str) -> str:
    """Numbers with one digit after the point (a hundredth of a millimetre), and paths without needless spaces."""
    text = NUMBER.sub(lambda m: f"{float(m[0]):.1f}", numbers)
    return re.sub(r" ?([MLQCZzHV]) ?", r"\1", " ".join(text.split())) if kind == "d" else text


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Keep the identifiers that something refers to, with a prefix."""
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href":
                used.add(value.removeprefix("#"))
            elif "url(#" in value:
                used.update(re.findall(r"url\(#([^)]+)\)", value))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in used:
                    element.set("id", f"{prefix}-{value}")
                else:
                    del element.attrib["id"]
            elif key == "href":
                element.set(key, f"#{prefix}-{value.removeprefix('#')}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}-"))
