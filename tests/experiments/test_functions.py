"""The experiments on test functions and on the regression task, and the theory behind the first."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metatele import InnerOptimizer, OptimisedTeleport, RandomTeleport, TorchUpdate
from metatele.cli import main
from metatele.experiments import Experiment
from metatele.experiments.functions import Quadratic
from metatele.experiments.harness.grid import Tuned, best_rate, rate_grid
from metatele.experiments.harness.training import Problem, initial_params, train_stack
from metatele.experiments.level_sets import FUNCTIONS, LevelSetTrajectories, descent
from metatele.experiments.quadratics import (
    angles,
    classical_rates,
    newton_angle,
    plain_landscape,
    plain_problem,
    random_quadratics,
    steps_needed,
    teleported,
    value,
)
from metatele.experiments.regression import RegressionTeleports
from tests.conftest import ROOT

SMALL = {
    "LevelSetTrajectories": {
        "dimensions": "[2, 3]", "conditions": "[5]", "quadratics": 2, "starts": 2, "ascent_steps": 60,
        "steps": 4, "runs": 3, "tuning_runs": 2, "rates": "[0.01, 0.1]",
    },
    "RegressionTeleports": {
        "size": 3, "tasks": 2, "tuning_tasks": 2, "steps": 2, "last": 0, "ascent_steps": 1, "sizes": "[0.1]",
    },
}  # fmt: skip
OPTIMAL = OptimisedTeleport(steps=500, lr=1.0)


def arguments(name: str, **changes: object) -> list[str]:
    settings = {**SMALL[name], **changes}
    return ["experiment", "--experiment", name, *(f"--experiment.{k}={v}" for k, v in settings.items())]


@pytest.mark.parametrize(("name", "figure"), [
    ("LevelSetTrajectories", "level_sets"), ("RegressionTeleports", "regression_teleports"),
])  # fmt: skip
def test_experiment_through_the_command(name, figure, tmp_path, capsys):
    assert main([*arguments(name), "--output", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results.json", f"{figure}.png", f"{figure}.pdf"}
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["experiment"]["class_path"].endswith(name)
    assert "teleport" in capsys.readouterr().out


def test_level_set_numbers():
    experiment = LevelSetTrajectories(
        (2,), (10.0,), 2, 2, ascent_steps=100, steps=5, runs=4, tuning_runs=2, rates=(0.01, 0.1)
    )
    numbers = experiment.run().numbers
    (found,) = numbers["quadratics"]
    assert found["angles"].largest < 1e-3 < found["angles"].before
    assert found["steps"]["1/L"]["optimal teleport"].value == 1
    for variants in numbers["functions"].values():
        start = variants["no teleport"]["loss"][0]
        for v in variants.values():
            assert v["loss"][0] == pytest.approx(start, rel=1e-9)  # a teleport keeps the loss


def test_regression_numbers():
    experiment = RegressionTeleports(4, tasks=4, tuning_tasks=2, steps=3, last=0, ascent_steps=1, sizes=(0.1,))
    for variants in experiment.run().numbers["optimizers"].values():
        assert set(variants) == set(experiment.variants)
        start = variants["no teleport"]["loss"][0]
        for v in variants.values():
            assert (v["loss"][0] == start).all()  # the same tasks
            assert len(v["seconds"]) == 4
            assert 0 <= v["diverged"] <= 4
        assert variants["no teleport"]["size"] is None
        assert variants["ascent, scaling"]["size"] == 0.1


@pytest.mark.parametrize(("name", "setting", "message"), [
    ("LevelSetTrajectories", {"conditions": "[0.5]"}, r"conditions\[0\] must be in \[1,"),
    ("LevelSetTrajectories", {"dimensions": "[1]"}, r"dimensions\[0\] must be a whole number of at least 2, got 1"),
    ("LevelSetTrajectories", {"rates": "[0.1, 0.01]"}, "lowest and the highest learning rate"),
    ("LevelSetTrajectories", {"ascent_steps": 0}, "ascent_steps must be a whole number of at least 1, got 0"),
    ("LevelSetTrajectories", {"target": 2}, "target must be in"),
    ("RegressionTeleports", {"sizes": "[]"}, "at least one size"),
    ("RegressionTeleports", {"sizes": "[-1]"}, r"sizes\[0\] must be above 0"),
    ("RegressionTeleports", {"first": 5, "last": 1}, "first=5, last=1"),
    ("RegressionTeleports", {"tasks": 1}, "tasks must be a whole number of at least 2, got 1"),
    ("RegressionTeleports", {"ascent_steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ("RegressionTeleports", {"groups": '["general_linear"]'}, "no symmetry of kind 'general_linear'"),
    ("RegressionTeleports", {"groups": '["softmax"]'}, "groups must be of the hidden layer"),
])  # fmt: skip
def test_bad_settings_are_one_line(name, setting, message, tmp_path, capsys):
    assert main([*arguments(name, **setting), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def entries(*tensors: torch.Tensor) -> set[float]:
    """All numbers in them but 0, which is what functions without data have for targets."""
    return {x for tensor in tensors for x in tensor.flatten().tolist()} - {0.0}


@pytest.mark.parametrize("experiment", [
    RegressionTeleports(3, tasks=4, tuning_tasks=2, steps=1, last=0, ascent_steps=1, sizes=(0.1,)),
    RegressionTeleports(3, tasks=2, tuning_tasks=2, steps=1, last=0, ascent_steps=1, sizes=(0.1,)),
    LevelSetTrajectories((2,), (10.0,), 1, 1, ascent_steps=20, steps=2, runs=4, tuning_runs=2, rates=(0.01, 0.1)),
])  # fmt: skip
def test_tuning_sees_nothing_of_what_is_held_out(experiment: Experiment, monkeypatch: pytest.MonkeyPatch):
    drawn: dict[str, list[set[float]]] = {"metatele.experiments.harness.grid": [], type(experiment).__module__: []}
    for module, seen in drawn.items():

        def spy(inner, problem, params, *rest, seen=seen):
            seen.append(entries(*problem.train, *params.values()))
            return train_stack(inner, problem, params, *rest)

        monkeypatch.setattr(f"{module}.train_stack", spy)
    experiment.run()
    tuning, held_out = drawn.values()
    assert len(tuning) > len(held_out) > 0
    assert set.union(*tuning).isdisjoint(set.union(*held_out))


spd = st.tuples(st.integers(2, 6), st.floats(2, 50), st.integers(0, 10**6))


def clear_top(matrix: torch.Tensor) -> bool:
    """Whether the largest eigenvalue stands apart; else the ascent has next to nothing to climb."""
    values = torch.linalg.eigvalsh(matrix)
    return bool(values[-1] > 1.1 * values[-2])


@settings(max_examples=8)
@given(spd)
def test_gradient_is_an_eigenvector_after_one_optimal_teleport_and_along_descent(case):
    dimension, condition, seed = case
    matrices = random_quadratics(dimension, condition, 1, seed)
    if not clear_top(matrices[0]):
        return
    starts = torch.randn(1, 3, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved = teleported(OPTIMAL, Quadratic(matrices[0], starts[0, 0]), starts[0]).unsqueeze(0)
    assert value(matrices, moved) == pytest.approx(value(matrices, starts), rel=1e-9)
    found = angles(matrices, starts, moved)
    assert found.largest < 1e-3
    assert found.along < 1e-3
    _, vectors = torch.linalg.eigh(matrices[0])
    gradient = 2 * moved[0] @ matrices[0]
    along = (gradient @ vectors[:, -1]).abs() / gradient.norm(dim=1)
    assert (along > 1 - 1e-6).all()  # that of the largest eigenvalue
    rates = classical_rates(matrices)
    assert steps_needed(matrices, moved, rates["1/L"], 1e-6).value == 1
    plain = steps_needed(matrices, starts, rates["2/(L+mu)"], 1e-6).value
    assert steps_needed(matrices, moved, rates["2/(L+mu)"], 1e-6).value >= plain  # its worst direction


def test_a_random_teleport_does_not_align_the_gradient():
    matrices = random_quadratics(4, 20.0, 1, 0)
    starts = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = teleported(RandomTeleport(3.0), Quadratic(matrices[0], starts[0]), starts)
    assert newton_angle(matrices, moved.unsqueeze(0)).mean() > 0.1


def test_random_quadratics_have_the_condition_number():
    values = torch.linalg.eigvalsh(random_quadratics(5, 30.0, 4, 1))
    assert torch.allclose(values[:, -1] / values[:, 0], torch.tensor(30.0, dtype=torch.float64))


def test_steps_needed_counts_steps():
    matrices = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    starts = torch.ones(1, 1, 2, dtype=torch.float64)
    # Each step halves w, so it quarters the loss.
    assert steps_needed(matrices, starts, torch.tensor([0.25]), 0.26).value == 1
    assert steps_needed(matrices, starts, torch.tensor([0.25]), 0.24).value == 2


def test_tuning_prefers_runs_that_finish():
    network = FUNCTIONS["Booth"].network
    starts = {"w": torch.tensor([[0.0, 0.0], [5.0, -3.0]], dtype=torch.float64)}
    tuned = best_rate(descent, [0.01, 0.1, 1e30], plain_problem(network, 2), starts, [0, 1], 20, 1)
    assert tuned.rate == 0.1
    assert tuned.diverged == {0.01: 0, 0.1: 0, 1e30: 2}
    assert not tuned.at_edge
    assert Tuned(1.0, {1.0: 2.0, 3.0: 4.0}, {1.0: 0, 3.0: 0}).at_edge


def test_rate_grid():
    assert rate_grid(0.01, 1, 2) == [0.01, 0.0316, 0.1, 0.316, 1.0]


def test_functions_have_their_minimum_where_they_say():
    for name, at in {"Quadratic": (0, 0), "Booth": (1, 3), "Rosenbrock": (1, 1)}.items():
        place = {"w": torch.tensor([at], dtype=torch.float64)}
        assert float(plain_landscape(FUNCTIONS[name].network, 1).loss(place)) == 0


def test_shipped_configurations_build(capsys):
    folder = ROOT / "configs" / "experiments"
    for name in ("test_functions", "regression"):
        assert main(["experiment", "--config", str(folder / f"{name}.yaml"), "--experiment.seed=-1"]) == 2
        assert "seed must be a whole number of at least 0, got -1" in capsys.readouterr().err


def test_tasks_that_diverge_are_left_standing_by_teleports():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    problem = Problem(network, nn.functional.mse_loss, (x, y))
    inner = InnerOptimizer(TorchUpdate("SGD", {"lr": 1e8}), OptimisedTeleport(last=None))
    curves = train_stack(inner, problem, initial_params(network, [0, 1]), [0, 1], 12, 4)
    assert not bool(curves.train[-1].isfinite().any())
