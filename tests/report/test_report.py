"""Reports: what they say, that names of users are safe in them, and that their data are the evaluation's."""

import base64
import csv
import dataclasses
import html.parser
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from metatele.tasks import Digits, PaperRegression, TeacherStudent
from torch import nn

from metatele import ConfigError, CoordinateUpdate, InnerOptimizer, NeuronTeleport, OutputError, TaskFamily, Update
from metatele.cli import report_command
from metatele.evaluation import Evaluation, Interval, evaluate
from metatele.evaluation.formats import interval_text
from metatele.parts.point import State
from metatele.pictures.style import COLOURS, save_figures
from metatele.report import write, write_report
from metatele.report.figures.changes import strength, transfer
from metatele.report.figures.curves import loss_against_step
from metatele.report.figures.looks import looks_of
from metatele.report.figures.moves import group_elements
from metatele.report.figures.palette import diverging
from metatele.report.page.measured import private
from metatele.report.page.sheet import sheet
from metatele.report.text import clean, slug, to_csv
from metatele.task.params import map_params
from metatele.teleports import CanonicalTeleport
from tests.conftest import ROOT

EVIL = "<script>alert(1)</script> & \"q\" 'a'"
MATH = "$x^{2$ \\frac{ _under %"
UNICODE = "_漢字 🚀 \u202e\x00\x1b\ud800\nnew line"
LIMIT = 2_000_000  # bytes of a typical page


class Half(Update):
    """Gradient descent that leaves the finite numbers on every other task at step 2."""

    def __init__(self) -> None:
        super().__init__()

    def start(self, params):
        return State()

    def propose(self, point, state):
        def broken(step):
            step = -0.1 * step
            if point.step == 2:
                step[::2] = math.inf
            return step

        return map_params(broken, point.gradient), state


class Crash(Half):
    """It fails at its second step."""

    def propose(self, point, state):
        if point.step == 1:
            raise ValueError("crash <b>at</b> step 1")
        return super().propose(point, state)


class Below(TaskFamily):
    """w^2 / 2 - 1: losses that become negative."""

    def network(self):
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator):
        return torch.ones(1, 1), torch.zeros(1, 1)

    def loss(self, prediction, target):
        return (prediction - target).square().sum() / 2 - 1

    def initialise(self, network, generator):
        network.weight.data.uniform_(1, 2, generator=generator)


def learned(seed: int, teleport: bool = False) -> InnerOptimizer:
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=4) if teleport else None)
    inner.initialise(seed)
    return inner


def quick(checkpoints, family, **settings) -> Evaluation:
    small = {"tasks": 3, "steps": 4, "tuning_tasks": 2, "timing_repeats": 1, "baselines": False}
    return evaluate(checkpoints, family, **small | settings)


class Reader(html.parser.HTMLParser):
    """What a page holds: its elements, identifiers and text, and whether every element is closed in order."""

    VOID = ("meta", "link", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({k for k, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def ordinary() -> Evaluation:
    """Everything in it: a learned teleport, its controls, tuned baselines, parts, accuracy."""
    inners = {"tele": learned(1, True), "plain": learned(2)}
    return quick(inners, Digits(classes=3, rows=24, hidden=[4]), tasks=4, steps=6, baselines=True, tuning_tasks=1)


@pytest.fixture(scope="module")
def odd() -> Evaluation:
    """Names that are no names, tasks that diverge, a contestant that crashes."""
    inners = {
        EVIL: learned(1, True),
        MATH: learned(2),
        UNICODE: InnerOptimizer(Half()),
        "crash": InnerOptimizer(Crash()),
    }
    return quick(inners, Digits(classes=3, rows=24, hidden=[4]), title="</title><b>$&", tasks=4)


@pytest.fixture(scope="module")
def written(ordinary, tmp_path_factory) -> Path:
    """The report of the ordinary evaluation."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "folder"
    paths = write_report(ordinary, folder)
    assert [p.name for p in paths[:2]] == ["report.html", "results.csv"]
    assert set(paths) == set(folder.iterdir()), "nothing else is left"
    return folder


@pytest.fixture(scope="module")
def odd_written(odd, tmp_path_factory) -> Path:
    """The report of the odd one."""
    folder = tmp_path_factory.mktemp("odd")
    write_report(odd, folder)
    return folder


@pytest.fixture
def only_pages(monkeypatch) -> None:
    """Figures are made for files too, but only the heat map is written: that takes most of the time."""

    def save(figures, folder):
        save_figures({n: f for n, f in figures.items() if n == "transfer"}, folder)
        return [folder / f"{name}.{end}" for name in figures for end in ("png", "pdf")]

    monkeypatch.setattr(write, "save_figures", save)


def page(folder: Path) -> tuple[str, Reader]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Reader(text)


def downloads(reader: Reader) -> dict[str, list[list[str]]]:
    """{file name: rows} of every link to data on a page."""
    found = {}
    for link in reader.all("a"):
        if link.get("download"):
            head, _, data = link["href"].partition(";base64,")
            assert head == "data:text/csv;charset=utf-8"
            found[link["download"]] = list(csv.reader(io.StringIO(base64.b64decode(data).decode())))
    return found


# --- an ordinary report --------------------------------------------------------------------------


def test_the_files(written):
    figures = (
        "loss_against_step loss_against_time gradient_against_loss profile group_elements accuracy_against_step change"
    )
    expected = {f"{name}.{end}" for name in figures.split() for end in ("png", "pdf")} | {"report.html", "results.csv"}
    assert {p.name for p in written.iterdir()} == expected
    assert all(p.stat().st_size > 500 for p in written.iterdir())


def test_what_the_page_says(ordinary, written):
    _, reader = page(written)
    for e in ordinary.entries:
        assert e.label in reader.words
        assert e.note in reader.words
    for verdict in ordinary.verdicts:
        assert reader.words.count(f"{verdict.name} against {verdict.against}: ") == 1
        assert verdict.sentence not in reader.words, "the verb stands before the row already"
    for claim in ordinary.claims:
        assert f"Do the learned teleports of {claim.name} help?" in reader.words
        conclusion, stamp = ordinary.conclusions[claim.name], f"INCOMPLETE: {len(claim.missing)} missing"
        assert reader.words.index(conclusion) < reader.words.index(stamp)
        assert all(text in reader.words for text in claim.missing)
    for text in ("4 held-out tasks, 6 steps each, seed 0", "family-wise level of\n99%", "0.1%", "reference"):
        assert text in reader.words
    assert "metatele evaluate --rerun PATH/results.json --output NEW" in reader.words
    assert ordinary.environment["versions"]["torch"] in reader.words
    assert reader.words.index("Verdicts") < reader.words.index("All contestants") < reader.words.index("Figures")


def test_the_page_stands_alone(written):
    text, reader = page(written)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    policy = next(m["content"] for m in reader.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    for _, attributes in reader.elements:
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:")), value
            assert not key.startswith("on"), f"inline handler {key}"
            assert "url(" not in (value or "").replace("url(#", ""), value
    assert "@import" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


def test_the_page_is_accessible(written):
    _, reader = page(written)
    ids = [a["id"] for _, a in reader.elements if a.get("id")]
    assert len(ids) == len(set(ids)), "an identifier twice"
    referred = {v[1:] for _, a in reader.elements for k, v in a.items() if k == "href" and v.startswith("#")}
    clips = {i for _, a in reader.elements for v in a.values() for i in re.findall(r"url\(#([^)]+)\)", v or "")}
    assert referred | clips <= set(ids)
    assert len(reader.all("h1")) == 1
    assert all(th.get("scope") in ("col", "row") for th in reader.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in reader.all("svg"))
    assert len(reader.all("figure")) == len(reader.all("figcaption")) == len(downloads(reader))
    assert all(button.get("type") == "button" for button in reader.all("button"))


def test_no_path_of_the_machine_and_a_size_that_can_be_mailed(written):
    text, _ = page(written)
    assert str(ROOT) not in text
    assert len(text) < LIMIT / 3
    assert private({"folder": "/home/me/data", "size": 3, "more": ["C:\\x\\y.npz", "a/b"]}) == {
        "folder": "data",
        "size": 3,
        "more": ["y.npz", "a/b"],
    }


# --- numbers -------------------------------------------------------------------------------------


def test_the_table_of_all_numbers(ordinary, written):
    rows = list(csv.DictReader((written / "results.csv").open(encoding="utf-8")))
    steps = ordinary.settings.report_steps
    assert len(rows) == len(ordinary.entries) * len(ordinary.parts) * len(steps)
    for row in rows:
        entry, part, step = ordinary[row["contestant"]], row["part"], int(row["step"])
        summary = entry.summary(part, step)
        for name in ("mean", "median", "geometric_mean", "iqm"):
            assert float(row[name]) == getattr(summary, name)
        assert float(row["accuracy"]) == pytest.approx(entry.accuracies(part, step).mean())
        assert int(row["diverged"]) == entry.diverged
        assert float(row["ms_per_step"]) == 1000 * entry.cost.seconds[-1] / ordinary.last
        if entry.name == ordinary.reference:
            assert row["change_percent"] == row["win_rate"] == ""
        else:
            paired = ordinary.paired(entry.name, part, step)
            bounds = [float(row[f"change_{k}"]) for k in ("percent", "low", "high")]
            assert bounds == [paired.change.value, paired.change.low, paired.change.high]
            assert float(row["win_rate"]) == paired.win_rate
        if part == ordinary.part:
            assert float(row["log_area"]) == ordinary.measures[entry.name].log_area
            assert float(row["steps_to_target"]) == ordinary.measures[entry.name].steps_to_target
        assert bool(row["lr"]) == (entry.tuning is not None)
        moves = entry.runs[0].moves
        assert (float(row["worst_loss_change_by_teleports"]) == moves.worst_loss_change) if moves else True


def test_the_downloads_are_what_is_drawn(ordinary, written):
    _, reader = page(written)
    data = downloads(reader)
    heading, *rows = data["loss_against_step.csv"]
    assert heading == ["contestant", "step", "loss on unseen rows", "lower quartile", "upper quartile"]
    assert {row[0] for row in rows} == {e.name for e in ordinary.entries}
    for name, step, loss, low, high in rows:
        losses = ordinary[name].losses("test", int(step))
        expected = [np.exp(np.log(losses).mean()), *np.quantile(losses, [0.25, 0.75])]
        assert [float(loss), float(low), float(high)] == pytest.approx(expected, rel=1e-4)
    last = {r[0]: r for r in data["change.csv"][1:]}
    for name, row in last.items():
        change = ordinary.paired(name).change
        assert [float(x) for x in row[1:]] == pytest.approx([change.value, change.low, change.high], rel=1e-3)
    moves = ordinary["tele"].runs[0].moves
    sizes = [float(r[3]) for r in data["group_elements.csv"] if r[:2] == ["layer 1", "tele"]]
    assert sizes == pytest.approx(np.median(moves.sizes[:, 0], axis=1), rel=1e-4)
    profiles = {r[0]: float(r[2]) for r in data["profile.csv"][1:]}
    assert set(profiles.values()) <= {0.25, 0.5, 0.75, 1.0}
    accuracy = [float(r[2]) for r in data["accuracy_against_step.csv"][1:] if r[0] == "plain"]
    assert accuracy == pytest.approx(ordinary["plain"].runs[0].accuracies["test"].mean(1), rel=1e-4)
    for name in ("loss_against_time.csv", "gradient_against_loss.csv"):
        assert all(float(x) > 0 for row in data[name][1:] for x in row[1:])


def test_every_line_can_be_highlighted(ordinary, written):
    text, reader = page(written)
    figure = text[text.index('id="e1-loss_against_step"') : text.index('id="e1-loss_against_time"')]
    lines = re.findall(r'class="line" data-c="(\d+)"|data-c="(\d+)" class="line"', figure)
    assert {int(a or b) for a, b in lines} == set(range(len(ordinary.entries)))
    keys = [b for b in reader.all("button") if b.get("data-c")]
    assert all(b.get("aria-pressed") == "false" for b in keys)


def test_looks(ordinary):
    looks = looks_of(ordinary.entries)
    assert looks["tele, teleports off"].colour == looks["tele"].colour != looks["plain"].colour
    assert looks["tele"].width > looks["tele, teleports off"].width > looks["SGD"].width
    assert looks["tele"].dash_array == "none" != looks["tele, teleports off"].dash_array
    checkpoints = [dataclasses.replace(ordinary["plain"], name=f"c{i}") for i in range(14)]
    many = looks_of(checkpoints)
    assert len({(k.colour, k.marker) for k in many.values()}) == 14, "all checkpoints can be told apart"


def test_the_strongest_colours_are_for_the_learned_teleport_and_the_reference(ordinary):
    def ruled(name, rule, last):
        arguments = {"first": 0, "last": last, "every": 1, "symmetry": "scaling"}
        parts = {**ordinary["plain"].parts, "teleport": {"class": rule, "arguments": arguments}}
        return dataclasses.replace(ordinary["plain"], name=name, parts=parts)

    kinds = [kind.__name__ for kind in CanonicalTeleport.named.values()]
    rules = [ruled(f"{rule} {last}", rule, last) for rule in kinds for last in (0, None, 5)]
    copies = [dataclasses.replace(ordinary["plain"], name=f"c{i}") for i in range(3)]
    repeated = [dataclasses.replace(e, name=f"{e.name} again") for e in rules]
    looks = looks_of([*rules, *copies, *repeated, *ordinary.entries], "plain")
    assert (looks["tele"].colour, looks["plain"].colour) == COLOURS[:2]
    assert looks["tele, teleports off"].colour == COLOURS[0]
    first, every, some = (looks[f"Balance {last}"] for last in (0, None, 5))
    assert first.colour == every.colour not in COLOURS[:2]
    assert len({x.dashes for x in (first, every, some)}) == 3
    assert first.width < looks["plain"].width
    assert len({looks[f"{rule} 0"].colour for rule in kinds}) == 4
    shown = [looks[e.name] for e in (*rules, *repeated, *copies, ordinary["tele"], ordinary["plain"])]
    assert len({(k.colour, k.dashes, k.width, k.marker) for k in shown}) == len(shown)
    assert len({(k.colour, k.dashes) for k in shown[:12]}) == 12


def test_columns(ordinary, written):
    text, _ = page(written)
    shown = sheet(ordinary, "test")
    few = [h.text for h in shown.headings if not h.more]
    means = [f"mean @{step}" for step in ordinary.settings.report_steps]
    assert few == ["change @6", "wins", *means, "accuracy @6", "ms/step", "diverged"]
    assert all(len(line.cells) == len(shown.headings) for line in shown.lines)
    assert text.count('<p class="columns" hidden>') == len(ordinary.parts), "the script shows it"
    assert all(f"<dt>{h.text}</dt><dd>" in text for h in shown.headings)


def test_changes_in_words():
    assert interval_text(Interval(-3.0, -20.0, 1e48), True) == "-3.0% [-20.0, > +10000]"
    assert interval_text(Interval(2e4, math.nan, math.nan), True) == "> +10000%"
    assert interval_text(Interval(9999.0, 5.0, math.inf), True) == "+9999% [+5.0, > +10000]"
    assert interval_text(Interval(1e48, 0.0, 1e50), False) == "1.00e48 [0, 1.00e50]"


# --- odd input -----------------------------------------------------------------------------------


def test_names_are_only_ever_text(odd, odd_written):
    text, reader = page(odd_written)
    assert "<script>alert" not in text
    assert len(reader.all("script")) == 1
    assert not reader.all("b")
    for name in (EVIL, MATH):
        assert name in reader.words
    assert clean(UNICODE) in reader.words
    assert not {"\x00", "\x1b", "\ud800"} & set(text)
    names = {row[0] for rows in downloads(reader).values() for row in rows}
    assert {EVIL, MATH, clean(UNICODE)} <= names
    rows = list(csv.DictReader((odd_written / "results.csv").open(encoding="utf-8", newline="")))
    assert {r["contestant"] for r in rows} == {clean(e.name) for e in odd.entries}


def test_failures_and_divergence_are_shown(odd, odd_written):
    _, reader = page(odd_written)
    assert "failed: ValueError while playing: crash <b>at</b> step 1" in reader.words
    assert "2 of 4 diverged" in reader.words
    rows = list(csv.DictReader((odd_written / "results.csv").open(encoding="utf-8", newline="")))
    crashed = [r for r in rows if r["contestant"] == "crash"]
    assert crashed
    assert all(r["mean"] == r["diverged"] == "" and "crash" in r["failure"] for r in crashed)


@pytest.mark.parametrize(
    ("checkpoints", "family", "settings"),
    [
        ({"a": learned(1, True)}, TeacherStudent(3, 4, 2, rows=8), {"tasks": 1, "steps": 1}),
        ({"a": learned(1), "b": learned(2)}, Below(), {"baselines": True, "tuning_tasks": 1}),
        ({"a": [learned(s, True) for s in (1, 2)], "b": [learned(s) for s in (3, 4)]}, PaperRegression(4), {}),
        ({"crash": InnerOptimizer(Crash())}, TeacherStudent(3, 4, 2, rows=8), {}),
        ({"crash": InnerOptimizer(Crash()), "a": learned(1)}, PaperRegression(4), {"reference": "crash"}),
        ({"half": InnerOptimizer(Half())}, TeacherStudent(3, 4, 2, rows=8), {"tasks": 1}),
    ],
    ids=["one task", "negative losses", "meta-seeds", "all crash", "reference crashes", "all diverge"],
)
def test_odd_evaluations(checkpoints, family, settings, tmp_path, only_pages):
    evaluation = quick(checkpoints, family, **settings)
    write_report(evaluation, tmp_path)
    _, reader = page(tmp_path)
    assert "nan" not in reader.words.lower().replace("nano", "").split()
    data = downloads(reader)
    assert ("profile.csv" in data) == (len(evaluation.ran) > 1 and not isinstance(family, Below))
    assert ("group_elements.csv" in data) == any(e.moves for e in evaluation.ran)
    assert "accuracy_against_step.csv" not in data
    if isinstance(family, Below):
        assert loss_against_step(evaluation).panels[0].y_scale == "linear"
        for name, step, loss, *_ in data["loss_against_step.csv"][1:]:
            expected = evaluation[name].losses("inner", int(step)).mean()
            assert float(loss) == pytest.approx(expected, rel=1e-4)
        assert data["change.csv"][0][1] == "mean difference"


def test_meta_seeds_count_as_tasks_of_their_own(tmp_path):
    evaluation = quick({"a": [learned(s, True) for s in (1, 2)]}, PaperRegression(4))
    frame = group_elements(evaluation)
    sizes = np.concatenate([r.moves.sizes[:, 0] for r in evaluation["a"].runs], axis=1)
    assert frame.panels[0].lines[0].y == pytest.approx(np.median(sizes, axis=1), rel=1e-5)


def test_nothing_to_report(tmp_path):
    with pytest.raises(ConfigError, match="at least one evaluation"):
        write_report([], tmp_path)


def test_a_folder_that_cannot_be_written(ordinary, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_report(ordinary, tmp_path / "file" / "sub")


# --- several evaluations -------------------------------------------------------------------------


def test_several_evaluations(odd, tmp_path, only_pages):
    small = quick({MATH: learned(2), "other": learned(3)}, PaperRegression(3), tasks=2, steps=1)
    paths = write_report([small, odd, small], tmp_path)
    names = {p.name for p in paths}
    assert {"transfer.png", "1-paperregression-1-profile.pdf", "2-title-b-profile.png"} <= names
    text, reader = page(tmp_path)
    assert len([a for a in reader.all("section") if a.get("class") == "evaluation"]) == 3
    ids = [a["id"] for _, a in reader.elements if a.get("id")]
    assert len(ids) == len(set(ids)), "an identifier twice"
    assert {"PaperRegression (1)", "PaperRegression (2)"} <= {line.strip() for line in reader.words.splitlines()}
    rows = downloads(reader)["transfer.csv"]
    assert [r[3] for r in rows if r[0] == "other"] == ["changed", "absent", "changed"]
    change = next(float(r[2]) for r in rows if r[0] == "other")
    assert change == pytest.approx(small.paired("other").change.value, rel=1e-3)
    assert [r[3] for r in rows if r[0] == MATH] == ["reference"] * 3
    assert [r[3] for r in rows if r[0] == "crash" and r[1] == "</title><b>$&"] == ["failed"]
    assert "background: #" in text
    assert (tmp_path / "transfer.pdf").stat().st_size > 500


def test_names_tell_evaluations_apart(ordinary, tmp_path):
    own = dataclasses.replace(ordinary, title="own")
    assert write._titles([ordinary, ordinary], None) == ["Digits (1)", "Digits (2)"]
    assert write._titles([ordinary, ordinary], ["a", "b\n"]) == ["Digits (a)", "Digits (b )"]
    assert write._titles([ordinary, own], ["a", "b"]) == ["Digits (a)", "own"]
    assert write._titles([own, own], ["a", "b"]) == ["own (a)", "own (b)"]
    assert write._titles([own, own], ["a", "a"]) == ["own (a) (1)", "own (a) (2)"]
    assert write._titles([ordinary], ["a"]) == ["Digits"], "alone it needs none"
    with pytest.raises(ConfigError, match="one entry for each of the 1"):
        write_report(ordinary, tmp_path, names=["a", "b"])


def test_a_verdict_for_the_reference_counts_for_the_other(ordinary):
    best = next(v for v in ordinary.verdicts if v.name == ordinary.reference)
    known = dataclasses.replace(best, outcome="better")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(ordinary), "verdicts", (known,))
        heat = transfer([ordinary])
    cells = dict(zip(heat.contestants, heat.cells, strict=True))
    assert cells[best.against][0][0].startswith("▼ ")


def test_the_colours_of_the_heat_map():
    assert strength(0) == 0
    assert strength(-100) == strength(-99.9) == -1
    assert strength(1e9) == strength(200) == 1
    assert strength(-50) == pytest.approx(-strength(100))
    assert diverging(0) == "#f5f5f2"
    assert len({diverging(x) for x in (-1, -0.5, 0, 0.5, 1)}) == 5


# --- text ----------------------------------------------------------------------------------------


def test_text():
    assert clean("a\n\tb\x07\ud800") == "a  b\ufffd?"
    assert slug("Teacher\u2013student, <b> Ünï") == "teacherstudent-b-uni"
    assert slug("漢字") == ""


# --- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> int:
    report = report_command.Report("report")
    parser = report.make_parser()
    return report.run(parser, parser.parse_args(list(arguments)))


def test_the_command_reports_in_place_and_equal_evaluations_give_equal_bytes(ordinary, written, tmp_path, capsys):
    ordinary.save(tmp_path)
    assert command(str(tmp_path)) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_what_the_command_reports_on_and_where(ordinary, tmp_path, monkeypatch):
    calls: list[tuple[list[str], Path]] = []

    def write(evaluations, output, *, names):
        calls.append(([e.title for e in evaluations], output))
        assert names == [e.title for e in evaluations]
        return [output / "report.html"]

    monkeypatch.setattr(report_command, "write_report", write)
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        dataclasses.replace(ordinary, title=name).save(tmp_path / "all" / name)
    command("all")
    command("all/b", "all", "all/a/results.json", "--output", "out")
    command("all/b/results.json")
    assert calls == [(["a", "b"], Path("report")), (["b", "a"], Path("out")), (["b"], Path("all/b"))]


def test_folders_with_the_same_name_are_told_apart(tmp_path):
    def names(*folders):
        return report_command._names([tmp_path / folder / "results.json" for folder in folders])

    assert names("a/ev") == ["ev"]
    assert names("a/ev", "b/ev", "c") == ["a/ev", "b/ev", f"{tmp_path.name}/c"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "holds no results.json"),
        ("{", "cannot read the results"),
        ('{"format": 1}', "format 2"),
        ('{"format": 2, "family": "x"}', "is damaged"),
    ],
)
def test_bad_input_of_the_command(content, match, tmp_path):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=match):
        command(str(tmp_path))
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ConfigError, match="there is no"):
        command(str(tmp_path / "nowhere"))


def test_damaged_curves_are_bad_input(ordinary, tmp_path):
    path = ordinary.save(tmp_path)
    results = json.loads(path.read_text())
    results["entries"][0]["runs"][0]["stopped_at"] = "text"
    path.write_text(json.dumps(results))
    with pytest.raises(ConfigError):
        command(str(tmp_path))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_cell_is_no_formula(name):
    assert to_csv(["a"], [[name], ["x=1"]]) == f"a\n'{name}\nx=1\n"
    assert to_csv(["a"], [[-1.5]]) == "a\n-1.5\n"
