"""The experiments on labelled images: end to end from the command line, on tiny made data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from metatele import Balance, LevelSetTeleport, NullSpaceTeleport, OptimisedTeleport, RandomTeleport
from metatele.cli import main
from metatele.errors import ConfigError, SymmetryError
from metatele.experiments import FlatnessCorrelation, ImageOptimizers, TeleportOnce
from metatele.experiments.correlation import correlate
from metatele.experiments.flatness import teleport_once
from metatele.experiments.harness.images import hold_out, scheduled
from metatele.experiments.harness.training import initial_params, score, train_stack
from metatele.experiments.optimizers import GROWTH, Recipe
from tests.conftest import ROOT
from tests.task.image_files import write_cifar, write_mnist

CONFIGS = ROOT / "configs" / "experiments"
COMMON = {"epochs": 2, "networks": 3, "batch": 20, "jobs": 1}
SMALL: dict[str, dict[str, Any]] = {  # what makes each shipped configuration short
    "mnist_optimizers": {"early": 1, "tuning_epochs": 1, "tuning_networks": 2, "tuning_reach": 1, "teleport_epochs": 2},
    "flatness": {"branch": 1, "measured_rows": 20, "directions": 2, "lr": 0.1},
    "correlation": {"measured_rows": 20, "directions": 2, "elements": 3, "lr": 0.1},
}

LIGHT = {  # teleports that take less time than those of the shipped configurations
    "curvature up": {"class_path": "metatele.OptimisedTeleport", "init_args": {"objective": "curvature", "steps": 2}},
    "balance": {"class_path": "metatele.Balance"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with 100 made images in the format of MNIST."""
    path = tmp_path_factory.mktemp("mnist")
    write_mnist(path, "t10k", rows=100)
    return str(path)


def flags(name: str, folder: str, light: bool = True, **more: Any) -> list[str]:
    settings = {**COMMON, **SMALL[name], "folder": folder, **more}
    if light and name != "correlation":
        settings["teleports"] = json.dumps(LIGHT)
    config = str(CONFIGS / f"{name}.yaml")
    return ["experiment", "--config", config, *(f"--experiment.{k}={v}" for k, v in settings.items())]


def run(name: str, output: Path, folder: str, **more: Any) -> dict[str, Any]:
    """Run a shipped configuration, shortened; its results."""
    assert main([*flags(name, folder, **more), "--output", str(output)]) == 0
    return json.loads((output / "results.json").read_text())


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds" and k != "experiment"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def optimizers(folder: str, **more: Any) -> ImageOptimizers:
    """Two optimizers and two variants."""
    recipes = {"SGD": Recipe("SGD", 0.1), "Adam": Recipe("Adam", 0.01)}
    settings = {**COMMON, **SMALL["mnist_optimizers"], "tuning_reach": 0, "optimizers": recipes, **more}
    return ImageOptimizers({"balance": Balance()}, folder=folder, **settings)


def image_bytes(labelled: tuple[torch.Tensor, torch.Tensor]) -> set[bytes]:
    """The images that networks see."""
    return {row.numpy().tobytes() for network in labelled[0] for row in network}


def test_tuning_sees_nothing_of_the_evaluation(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, list[tuple[Any, ...]]] = {True: [], False: []}  # whether it is tuning: problem, weights, seeds
    stage = [""]

    def spy(inner: Any, problem: Any, params: Any, seeds: list[int], *rest: Any) -> Any:
        seen["tuning" in stage[0]].append((problem, params, seeds))
        return train_stack(inner, problem, params, seeds, *rest)

    monkeypatch.setattr("metatele.experiments.optimizers.train_stack", spy)
    optimizers(folder, tuning_reach=1).run(lambda name, *_: stage.__setitem__(0, name))
    assert len(seen[True]) >= 4 * 3
    assert len(seen[False]) == 4
    validation = image_bytes(seen[False][0][0].validation)
    weights, seeds = (
        {part: set().union(*(of(call) for call in calls)) for part, calls in seen.items()}
        for of in (lambda call: {row.numpy().tobytes() for p in call[1].values() for row in p}, lambda call: call[2])
    )
    for problem, *_ in seen[True]:
        trained, scored = image_bytes(problem.train), image_bytes(problem.validation)
        assert trained.isdisjoint(scored)
        assert (trained | scored).isdisjoint(validation)
    for drawn in (weights, seeds):
        assert drawn[True].isdisjoint(drawn[False])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_shipped_configurations_from_the_command_line(name: str, folder: str, tmp_path: Path) -> None:
    shipped = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["experiment"]["init_args"]
    results = run(name, tmp_path, folder, light=False)
    assert results["experiment"]["init_args"]["networks"] == 3
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".png", ".pdf"}
    if name != "correlation":
        parts = results["variants"] if name == "flatness" else results["cells"]
        assert {part["variant"] for part in parts} == {"no teleport", *shipped["teleports"]}


@pytest.mark.slow
def test_optimizers_results_are_paired_and_tuned(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = run("mnist_optimizers", tmp_path, folder)["cells"]
    assert len(cells) == 5 * 3
    for cell in cells:
        assert len(cell["tuning"]) >= 3
        assert f"{cell['lr']}" in cell["tuning"]
        assert cell["rates_tried"] == len(cell["tuning"])
        rates = sorted(map(float, cell["tuning"]))
        assert cell["at_edge"] == (cell["lr"] in (rates[0], rates[-1]))
        assert np.shape(cell["validation_loss"]) == (3, 3)
        assert cell["validation_loss"][0] == cells[0]["validation_loss"][0]  # equal initial weights
        assert cell["change"]["2"]["train"].keys() == {"value", "low", "high"}
    out = " ".join(capsys.readouterr().out.split())
    assert "784-16-10-10, 80 images to train on, 20 to validate on" in out
    assert "tuned for the loss after 1 epochs, also in the table of epoch 2: training on 80%" in out
    tried = [cell["rates_tried"] for cell in cells]
    assert f"{min(tried)} to {max(tried)} tried for each" in out
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "optimizers.png", "optimizers.pdf"}


def test_a_rate_at_an_edge_is_marked(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageOptimizers, "tuning_run", lambda self, run: -run.lr)  # the larger, the better
    findings = optimizers(folder, tuning_reach=1, optimizers={"Adam": Recipe("Adam", 1e-8)}).run()
    assert [str(cell) for cell in findings.tables[0].columns[1]._cells] == ["3.16e-5*", "3.16e-5*"]
    assert [(cell["rates_tried"], cell["at_edge"]) for cell in findings.numbers["cells"]] == [(3 + GROWTH, True)] * 2


@pytest.mark.parametrize("teleport", [LevelSetTeleport(steps=2, rows=20), NullSpaceTeleport(steps=2, rows=5)])
def test_groupless_teleports_beside_those_of_a_group(folder: str, teleport: Any) -> None:
    mixed = {"groupless": teleport, "balance": Balance()}
    settings = {**COMMON, **SMALL["mnist_optimizers"], "tuning_reach": 0, "optimizers": {"Adam": Recipe("Adam", 0.01)}}
    plain, found, _ = ImageOptimizers(mixed, folder=folder, **settings).run().numbers["cells"]
    assert np.isfinite(found["train_loss"]).all()
    assert (found["train_loss"][1:] != plain["train_loss"][1:]).all()
    once = TeleportOnce(mixed, folder=folder, **COMMON, **SMALL["flatness"]).run()
    plain, found, _ = once.numbers["variants"]
    assert found["moved"].min() > 1e-4
    np.testing.assert_allclose(found["curves"]["train"][0], plain["curves"]["train"][0], rtol=0.1)
    assert "corrected for the number of variants (2)" in str(once.tables[1].caption)


def test_optimizers_of_a_configuration_of_your_own_without_tuning(folder: str, tmp_path: Path) -> None:
    own = json.dumps({"averaged": {"optimizer": "ASGD", "lr": 0.05, "options": {"lambd": 1e-3}}})
    cells = run("mnist_optimizers", tmp_path, folder, optimizers=own, tuning_reach=0)["cells"]
    assert [(c["optimizer"], c["lr"], c["tuning"]) for c in cells] == [("averaged", 0.05, {})] * 3


def test_once_teleports_keep_the_loss_and_move(folder: str, tmp_path: Path) -> None:
    results = run("flatness", tmp_path, folder)
    plain, *others = results["variants"]
    assert plain["variant"] == "no teleport"
    assert plain["moved"] == [0, 0, 0]
    assert [o["variant"] for o in others] == list(LIGHT)
    np.testing.assert_allclose(plain["curves"]["train"][0], results["trunk"]["train"][-1], rtol=1e-6)
    for other in others:
        np.testing.assert_allclose(other["curves"]["train"][0], plain["curves"]["train"][0], rtol=1e-5)
        assert min(other["moved"]) > 1e-3
        assert other["at_end"]["validation"]["tasks"] == 3
        assert other["after_teleport"]["gradient_norm"] != plain["after_teleport"]["gradient_norm"]


def test_correlation_has_all_networks(folder: str, tmp_path: Path) -> None:
    results = run("correlation", tmp_path, folder, networks=6)
    assert {len(values) for values in results["networks"].values()} == {6}
    found = results["correlation_with_validation_loss"]["sharpness"]["pearson"]
    assert found["low"] <= found["value"] <= found["high"]


@pytest.mark.parametrize("name", ["flatness", "correlation"])
def test_equal_seeds_give_equal_numbers_and_others_do_not(name: str, folder: str, tmp_path: Path) -> None:
    first, again, other = (
        without_times(run(name, tmp_path / str(i), folder, seed=seed)) for i, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first != other


def test_equal_seeds_give_equal_numbers_of_optimizers(folder: str) -> None:
    first, again = (optimizers(folder).run().numbers["cells"] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["train_loss"], b["train_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_numbers_do_not_depend_on_the_number_of_processes(name: str, folder: str, tmp_path: Path) -> None:
    one, two = (without_times(run(name, tmp_path / str(jobs), folder, jobs=jobs)) for jobs in (1, 2))
    assert one == two


def test_on_cifar(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data", "test", rows=50)
    results = run("correlation", tmp_path / "out", str(tmp_path / "data"), dataset="cifar10", rows=40)
    assert results["experiment"]["init_args"]["dataset"] == "cifar10"
    assert all(np.isfinite(results["networks"]["validation"]))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"folder": "nowhere"}, "nowhere"),
        ({"dataset": "imagenet"}, "imagenet"),
        ({"networks": 0}, "networks"),
        ({"epochs": 0}, "epochs"),
        ({"jobs": 0}, "jobs"),
        ({"rows": 1000}, "1000"),
        ({"batch": 90}, "batch=90"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    name: str, settings: dict[str, Any], named: str, folder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*flags(name, **{"folder": folder, **settings}), "--output", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err


def test_a_refused_experiment_leaves_no_folder(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    for output in ("new", "new/inner", "mine", "mine/inner"):
        arguments = flags("mnist_optimizers", "nowhere")
        assert main([*arguments, "--output", str(tmp_path / output)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert [p.name for p in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    "make",
    [
        lambda f: TeleportOnce({}, branch=40, folder=f),
        lambda f: TeleportOnce({"no teleport": Balance()}, folder=f),
        lambda f: TeleportOnce({}, lr=0.0, folder=f),
        lambda f: ImageOptimizers({}, early=99, folder=f),
        lambda f: ImageOptimizers({}, optimizers={}, folder=f),
        lambda f: ImageOptimizers({}, optimizers={"x": Recipe("Foo", 0.1)}, folder=f),
        lambda f: ImageOptimizers({}, held_out=1.0, folder=f),
        lambda f: ImageOptimizers({}, rows=10, batch=11, folder=f),
        lambda f: FlatnessCorrelation(networks=2, folder=f),
    ],
)
def test_impossible_settings_are_refused(make: Any, folder: str) -> None:
    with pytest.raises(ConfigError):
        make(folder)


def test_a_teleport_whose_group_the_network_lacks_is_refused_at_once() -> None:
    for kind in (ImageOptimizers, TeleportOnce):
        with pytest.raises(SymmetryError):
            kind({"x": RandomTeleport(symmetry="general_linear")}, folder="")


def test_a_run_that_diverges_is_counted_and_left_out(folder: str) -> None:
    findings = optimizers(folder, optimizers={"SGD": Recipe("SGD", 1e18)}).run()
    assert any("diverged" in str(cell) for cell in findings.tables[-1].columns[0]._cells)


def test_scores_do_not_depend_on_the_networks_at_a_time(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = optimizers(folder)
    data = experiment.data()
    problem = experiment.problem(data.train, data.validation, 5)
    params = initial_params(problem.network, list(range(5)))
    whole = score(problem, params)
    monkeypatch.setattr("metatele.experiments.harness.training.ROWS_AT_A_TIME", 160)
    for a, b in zip(whole, score(problem, params), strict=True):
        torch.testing.assert_close(a, b)


def test_a_teleport_once_raises_the_gradient_norm(folder: str) -> None:
    experiment = optimizers(folder)
    data = experiment.data()
    problem = experiment.problem(data.train, data.validation, 2)
    params = initial_params(problem.network, [0, 1])
    before, after = (
        score(problem, p) for p in (params, teleport_once(OptimisedTeleport(steps=5), problem, params, [0, 1]))
    )
    torch.testing.assert_close(before[0], after[0])
    assert bool((after[3] > 1.01 * before[3]).all())


def test_scheduled_teleports_so_many_times_and_leaves_the_original() -> None:
    teleport = RandomTeleport(first=3)
    copy = scheduled(teleport, 3, 10)
    assert [step for step in range(50) if copy.active(step)] == [0, 10, 20]
    assert teleport.first == 3


def test_hold_out_splits_without_overlap() -> None:
    rows = torch.arange(10.0).unsqueeze(1), torch.arange(10)
    kept, held = hold_out(rows, 0.2, 0)
    assert len(held[1]) == 2
    assert sorted([*kept[1].tolist(), *held[1].tolist()]) == list(range(10))
    torch.testing.assert_close(kept[0][:, 0], kept[1].float())


def test_correlations_agree_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    found = correlate(x, y)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.pearson.low < found.pearson.value < found.pearson.high
    assert np.isnan(correlate(np.ones(5), np.arange(5.0)).pearson.value)
