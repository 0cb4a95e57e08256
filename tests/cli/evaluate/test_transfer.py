"""`metatele evaluate --transfer`: grids of task families."""

import json
from pathlib import Path

import pytest
import yaml
from metatele.tasks import TeacherStudent

from metatele import DenseUpdate, InnerOptimizer, sample_meta_batch, save_checkpoint
from metatele.cli import evaluate_command, main
from metatele.cli.transfer import Variant, Variation, base_variant, folder_name, variants_of
from metatele.errors import ConfigError
from tests.cli.evaluate.conftest import GRID, QUICK, numbers, refused, results
from tests.conftest import ROOT


@pytest.mark.slow
def test_a_transfer_grid(capsys, reports):
    with pytest.warns(UserWarning, match="^tele: its teleports stay idle: no symmetry of kind 'scaling' is known for"):
        assert main(["evaluate", "tele", *QUICK, f"--transfer={json.dumps(GRID)}", "--report_steps=[3]"]) == 0
    out = capsys.readouterr().out
    assert "all side by side: evaluation/report.html" in out
    found = {name: results(f"evaluation/{name}") for name in ("as-it-is", *GRID)}
    assert sorted(p.name for p in Path("evaluation").iterdir()) == sorted(found)
    for name, r in found.items():
        assert r["title"] == name.replace("as-it-is", "as it is")
        assert r["settings"]["steps"] == GRID.get(name, {}).get("steps", 3)
        assert not any(e["failure"] for e in r["entries"])
        idle = {e["name"] for e in r["entries"] if "idle" in e["note"]}
        assert idle == ({"tele"} if name == "smooth" else set())
    own = {name: r["family_spec"]["init_args"] for name, r in found.items()}
    assert (own["wide"]["hidden"], own["wide"]["rows"]) == (9, 8), "what is not named stays"
    assert (own["long"]["hidden"], own["deep"]["depth"]) == (4, 3)
    assert found["other"]["family"] == "GaussianMixture"
    assert found["other"]["entries"][0]["runs"][0]["accuracies"]
    assert found["long"]["settings"]["report_steps"] == [3, 30]
    assert len(found["minibatches"]["entries"][0]["runs"][0]["at"]) == 4
    *single, (together, folder) = reports
    assert [where.name for _, where in single] == list(found)
    assert [e.title for e in together] == ["as it is", *GRID]
    assert folder == Path("evaluation")


def test_a_cell_equals_the_evaluation_on_its_own():
    cells = json.dumps({"wide": GRID["wide"]})
    assert main(["evaluate", "tele", *QUICK, f"--transfer={cells}"]) == 0
    assert main(["evaluate", "tele", *QUICK, "--family.hidden=9", "--output=alone"]) == 0
    cell, alone = numbers("evaluation/wide"), numbers("alone")
    assert cell.pop("title") == "wide"
    assert alone.pop("title") == ""
    assert cell == alone


def test_report_steps_beyond_the_end_of_a_cell():
    assert main(["evaluate", "tele", *QUICK, "--report_steps=[1, 3]", "--transfer={short: {steps: 2}}"]) == 0
    assert results("evaluation/short")["settings"]["report_steps"] == [1, 2]


def test_a_checkpoint_that_cannot_run_as_it_is_is_an_error(capsys, worked):
    dense, batch = InnerOptimizer(DenseUpdate(hidden=3)), sample_meta_batch(TeacherStudent(hidden=5), "train", [0])
    dense.bind(batch.network, batch.params)
    save_checkpoint(dense, Path("dense"))
    other = "--transfer={wide: {init_args: {hidden: 5}}}"
    assert "dense: this dense optimizer was made for" in refused(capsys, "dense", *QUICK, other)
    assert worked == ["TeacherStudent"]
    assert not list(Path("evaluation").glob("*/results.json"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "transfer").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_grids_can_be_made(path, tele):
    given = yaml.safe_load(path.read_text())
    base = base_variant(given["family"], given["steps"], given["tasks"])
    cells = variants_of(base, {name: Variant.of(name, cell) for name, cell in given["transfer"].items()})
    assert len(cells) == len(given["transfer"]) + 1
    parser = evaluate_command.Evaluate("evaluate").make_parser()
    parsed = parser.parse_args(["tele", "--config", str(path)])
    assert set(parsed.transfer) == set(given["transfer"])
    if path.stem != "mnist":  # its files are not ours to give
        for cell in cells.values():
            evaluate_command._usable_family(parser, cell, 0)


def test_cells():
    base = Variation("as it is", {"class_path": "metatele.tasks.Digits", "init_args": {"rows": 9, "hidden": [3]}}, 5, 6)
    cells = variants_of(base, {
        "same": Variant(init_args={"rows": 8}),
        "named": Variant("metatele.tasks.Digits", {"rows": 8}),
        "short": Variant("Digits", {"rows": 8}, 7, 8),
        "other": Variant("TeacherStudent", {"rows": 8}),
    })  # fmt: skip
    kept = {"class_path": "metatele.tasks.Digits", "init_args": {"rows": 8, "hidden": [3]}}
    assert [cells[n].family for n in ("same", "named", "short")] == [kept] * 3
    assert cells["other"].family == {"class_path": "TeacherStudent", "init_args": {"rows": 8}}
    assert [(c.steps, c.tasks) for c in cells.values()] == [(5, 6)] * 3 + [(7, 8), (5, 6)]
    assert base.family["init_args"]["rows"] == 9, "the base is left alone"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("leaky ReLU", "leaky-relu"), ("../../x", "x"), ("", "variant"), ("..", "variant"), ("a" * 300, "a" * 100)],
)
def test_folders_of_cells(name, folder):
    assert folder_name(name) == folder


def test_cells_with_one_folder():
    with pytest.raises(ConfigError, match="the transfer 'b!' has the name, or the folder"):
        variants_of(Variation("a", {"class_path": "x", "init_args": {}}, 1, 1), {"b": Variant(), "b!": Variant()})
