"""Reports in a real browser: they load without a network, are visible, sort, and fit on a phone."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from metatele.tasks import TeacherStudent

from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport
from metatele.evaluation import evaluate
from metatele.report import write, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on PATH")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-extensions --host-resolver-rules=MAP|*|~NOTFOUND --proxy-server=127.0.0.1:9 --enable-logging=stderr "
    "--virtual-time-budget=3000"
).replace("|", " ")

# What a page is asked once it has loaded; the answers come back in its own text.
LOOK = """
const box = (e) => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
const style = (e) => getComputedStyle(e);
answers.pictures = [...document.querySelectorAll(".plot")].map(box);
answers.seen = [...document.querySelectorAll(".plot")].map((e) => e.checkVisibility());
answers.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
answers.view = document.documentElement.clientWidth;
answers.paper = style(document.documentElement).backgroundColor;
answers.ink = style(document.querySelector(".plot text")).fill;
answers.letters = Math.min(...[...document.querySelectorAll(".plot text")].map((t) => {
  const svg = t.closest("svg");
  return parseFloat(style(t).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
}));
const captions = [...document.querySelectorAll("caption span")];
answers.captions = Math.max(...captions.map((e) => e.getBoundingClientRect().right));
const frames = [...document.querySelectorAll(".scroll")].filter((e) => e.checkVisibility());
const faded = () => frames.filter((e) => style(e).maskImage !== "none").length;
const hidden = () => frames.filter((e) => e.scrollWidth > e.clientWidth + 2).length;
answers.few = [faded(), hidden(), [...document.querySelectorAll("th.more")].filter((e) => e.checkVisibility()).length];
const table = document.querySelector("section.evaluation table.sortable");
const names = () => [...table.tBodies[0].rows].map((r) => r.cells[0].textContent.trim());
const column = (k) => [...table.tBodies[0].rows].map((r) => r.cells[k].getAttribute("data-v"));
const heading = [...table.tHead.rows[0].cells].find((h) => h.textContent.startsWith("mean @"));
const k = heading.cellIndex;
answers.before = names();
heading.querySelector("button").click();
answers.up = [heading.getAttribute("aria-sort"), column(k)];
heading.querySelector("button").click();
answers.down = [heading.getAttribute("aria-sort"), column(k)];
table.tHead.rows[0].cells[0].querySelector("button").click();
answers.names = names();
answers.sorted = document.querySelectorAll("[aria-sort]").length;
const key = document.querySelector(".legend button");
key.click();
const opacity = (c) => [...document.querySelectorAll(`.plot .line[data-c="${c}"]`)].map((e) => e.style.opacity);
answers.chosen = [key.getAttribute("aria-pressed"), opacity(key.dataset.c), opacity("1")];
key.click();
answers.released = [key.getAttribute("aria-pressed"), opacity("1")];
document.querySelector(".columns input").click();
answers.more = [...table.querySelectorAll("th.more")].every((e) => e.checkVisibility());
answers.choice = document.querySelector(".columns").checkVisibility();
document.getElementById("theme").click();
answers.theme = [document.documentElement.dataset.theme, style(document.documentElement).backgroundColor];
"""

FRAME = """<!DOCTYPE html>
<html><head><meta name="color-scheme" content="light dark"></head><body><pre id="told"></pre>
<script>onmessage = (e) => { document.getElementById("told").textContent = e.data; };</script>
<iframe src="copy.html" width="WIDTH" height="900" style="border: 0"></iframe></body></html>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    inners = []
    for seed, teleport in ((1, NeuronTeleport(hidden=4)), (2, None)):
        inners.append(InnerOptimizer(CoordinateUpdate(hidden=4), teleport))
        inners[-1].initialise(seed)
    given = {"tele <b>&": inners[0], "a very long name of a contestant " * 2: inners[1]}
    settings = {"tasks": 3, "steps": 4, "tuning_tasks": 1, "timing_repeats": 1, "baselines": False}
    evaluation = evaluate(given, TeacherStudent(3, 4, 2, rows=8), **settings)
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "save_figures", lambda figures, folder: [])  # the page is enough
        write_report(evaluation, folder / "one")
        write_report([evaluation, replace(evaluation, title="another " * 6)], folder / "two")
    return folder


def browse(path: Path, *flags: str) -> tuple[str, list[str]]:
    """The document of a page after its scripts ran, and what the browser's console said."""
    assert BROWSER is not None
    command = [
        BROWSER,
        *re.split(r" (?=--)", FLAGS),
        *flags,
        f"--user-data-dir={path.parent / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def ask(report: Path, width: int, *flags: str) -> dict[str, object]:
    """What a copy of a page says about itself when it is so wide: it is framed by another page, because the
    window of a browser has a least width."""
    page = (report / "report.html").read_text(encoding="utf-8")
    script = f"<script>const answers = {{}};{LOOK}parent.postMessage(JSON.stringify(answers), '*');</script>"
    free = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page)
    assert free != page, "the page has no policy for scripts"
    (report / "copy.html").write_text(free.replace("</body>", f"{script}</body>"), encoding="utf-8")
    (report / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    text, console = browse(report / "frame.html", *flags)
    assert not console
    told = re.search(r'<pre id="told">(.*?)</pre>', text, re.DOTALL)
    assert told, "the page did not answer"
    assert told[1], "the page did not answer"
    return dict(json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))


@pytest.mark.parametrize("which", ["one", "two"])
def test_loads_without_a_network_and_without_a_complaint(report, which):
    text, console = browse(report / which / "report.html")
    assert not console
    assert 'id="theme"' in text
    assert "hidden" not in re.search(r'<button[^>]*id="theme"[^>]*>', text)[0], "the script has run"


@pytest.fixture(scope="module")
def desktop(report) -> dict[str, object]:
    return ask(report / "one", 1280)


def test_every_figure_is_seen(desktop):
    assert len(desktop["pictures"]) >= 7
    assert all(width > 200 and height > 100 for width, height in desktop["pictures"])
    assert all(desktop["seen"])


def test_headings_sort(desktop):
    state, column = desktop["up"]
    values = [float(v) for v in column if v]
    assert state == "ascending"
    assert values == sorted(values)
    assert len(set(values)) > 3
    state, column = desktop["down"]
    assert state == "descending"
    assert [float(v) for v in column if v] == sorted(values, reverse=True)
    assert sorted(desktop["names"]) == sorted(desktop["before"])
    assert [n[:3].lower() for n in desktop["names"]] == sorted(n[:3].lower() for n in desktop["before"])
    assert desktop["sorted"] == 1


def test_a_contestant_is_highlighted(desktop):
    pressed, mine, other = desktop["chosen"]
    assert (pressed, set(mine), set(other)) == ("true", {"1"}, {"0.12"})
    assert desktop["released"] == ["false", ["1"] * len(other)]


def test_fewer_columns_fit_and_more_can_be_had(desktop):
    assert desktop["few"] == [0, 0, 0], "nothing is wider than its box"
    assert desktop["choice"]
    assert desktop["more"]


@pytest.mark.parametrize("which", ["one", "two"])
def test_fits_on_a_phone(report, which):
    phone = ask(report / which, 360)
    assert phone["view"] == 360
    assert phone["wide"] == 0, "it scrolls sideways"
    assert all(200 < width < 360 for width, _ in phone["pictures"])
    faded, hidden, _ = phone["few"]
    assert faded == hidden > 0, "what scrolls sideways fades at its edge"
    assert phone["captions"] <= 360, "captions wrap"
    assert phone["letters"] > 7, "letters of figures must stay legible"


def test_light_and_dark(report, desktop):
    assert desktop["paper"] == "rgb(255, 255, 255)"
    assert desktop["theme"] == ["dark", "rgb(20, 23, 28)"]
    dark = ask(report / "one", 1280, "--blink-settings=preferredColorScheme=0")
    assert dark["paper"] == "rgb(20, 23, 28)"
    assert dark["ink"] == "rgb(230, 230, 227)"
    assert dark["theme"] == ["light", "rgb(255, 255, 255)"]
