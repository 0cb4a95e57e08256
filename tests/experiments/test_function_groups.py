"""The test functions as networks, and the groups that keep them."""

import pytest
import torch
from torch import nn

from metatele import (
    ConfigError,
    DenseTeleport,
    GradientDescent,
    InnerOptimizer,
    SymmetryError,
    TaskFamily,
    sample_meta_batch,
    symmetries_of,
)
from metatele.experiments.functions import Booth, Quadratic, Rosenbrock, value_loss
from metatele.symmetry import PlaneRotation, QuadraticOrthogonal, group_of
from metatele.task.stack import stacked_forward
from metatele.testing import check_task_family

MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
DUMMY = torch.zeros(1, 0)


def value(network: nn.Module) -> float:
    return value_loss(network(DUMMY), DUMMY).item()


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Booth([1.0, 3.0]), 0.0),
        (Booth([0.0, 0.0]), 74.0),
        (Rosenbrock([1.0, 1.0]), 0.0),
        (Rosenbrock([-1.0, 2.0]), 104.0),
        (Quadratic(MATRIX, [1.0, -1.0]), 2.0),
        (Booth([0, 0]), 74.0),
    ],
)
def test_the_values(network, expected):
    assert value(network) == pytest.approx(expected)
    assert network(DUMMY).shape == (1,)
    assert [k for k, _ in network.named_parameters()] == ["w"]


@pytest.mark.parametrize("rotation", [PlaneRotation.booth(), PlaneRotation.rosenbrock()], ids=lambda r: r.name)
def test_the_coordinates_are_inverses(rotation):
    w = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(rotation.from_uv(rotation.to_uv(w)), w)
    torch.testing.assert_close(rotation.to_uv(rotation.from_uv(w)), w)


def test_a_quarter_turn_takes_u_to_v():
    rotation = PlaneRotation.booth()
    w = rotation.from_uv(torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    moved = rotation.act(torch.full((1, 1), torch.pi / 2, dtype=torch.float64), {"w": w}, DUMMY)["w"]
    torch.testing.assert_close(rotation.to_uv(moved), torch.tensor([[0.0, 3.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"w.*\[n, n\] with n at least 2, got \(2, 3\)"),
        (torch.ones(1, 1), r"at least 2, got \(1, 1\)"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), r"'w'.*symmetric, but A and A\^T differ by 0\.5"),
        (torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), "differ by nan"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive definite, but its smallest eigenvalue is -1"),
        (torch.zeros(2, 2), "smallest eigenvalue is 0"),
    ],
)
def test_a_matrix_that_gives_no_group_is_refused_with_the_reason(matrix, message):
    with pytest.raises(SymmetryError, match=message):
        QuadraticOrthogonal(matrix)


def test_a_start_of_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"start must be 2 numbers, got shape \(3,\)"):
        Rosenbrock([1.0, 2.0, 3.0])


def test_the_group_elements_are_rotations():
    group = QuadraticOrthogonal(torch.eye(4) + 1)
    g = group.exp(torch.randn(3, *group.algebra_shape, generator=torch.Generator().manual_seed(0)))
    assert group.algebra_shape == (6,)
    torch.testing.assert_close(g @ g.mT, torch.eye(4).expand(3, 4, 4))
    torch.testing.assert_close(torch.linalg.det(g), torch.ones(3))


@pytest.mark.parametrize("make", [Booth, Rosenbrock, lambda start: Quadratic(MATRIX, start)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_values_stay_under_the_group(make, dtype):
    network, inputs = make([0.5, -0.3]).to(dtype), torch.zeros(2, 1, 0, dtype=dtype)
    params = {"w": torch.tensor([[0.5, -0.3], [1.5, 2.0]], dtype=dtype)}
    group = group_of(network)
    moved = group.act(group.exp([torch.full((2, 1), 0.4, dtype=dtype)]), params, inputs)
    before, after = (stacked_forward(network, p, inputs) for p in (params, moved))
    assert before.shape == (2, 1)
    assert after.dtype == moved["w"].dtype == dtype
    torch.testing.assert_close(after, before, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0)
    assert not torch.equal(moved["w"], params["w"])


class Starts(TaskFamily):
    """Rosenbrock's function from random starts."""

    def network(self):
        return Rosenbrock([0.0, 0.0])

    def initialise(self, network, generator):
        network.w.data.copy_(torch.randn(2, generator=generator))

    def sample(self, generator):
        return torch.randn(1, 1, generator=generator), torch.randn(1, 1, generator=generator)

    def loss(self, prediction, target):
        return value_loss(prediction, target)


def test_a_family_of_starts_is_a_task_family_that_a_teleport_can_use():
    check_task_family(Starts())
    batch = sample_meta_batch(Starts(), "train", range(3))
    x, y = batch.rows("inner")
    losses = batch.losses(stacked_forward(batch.network, batch.params, x), y)
    for i in range(3):
        assert float(losses[i]) == pytest.approx(value(Rosenbrock(batch.params["w"][i])), rel=1e-5)
    assert [type(s) for s in symmetries_of(batch.network)] == [PlaneRotation]
    inner = InnerOptimizer(GradientDescent(), DenseTeleport(4))
    inner.bind(batch.network, batch.params)
