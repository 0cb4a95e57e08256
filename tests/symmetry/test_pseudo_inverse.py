"""The data-dependent GL(h) for any activation: what holds for n < h, n = h and n > h data rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import MetaBatch, SymmetryError
from metatele.symmetry import (
    GeneralLinear,
    HiddenLayer,
    PositiveScaling,
    ProductGroup,
    PseudoInverseGL,
    check_finite,
    check_residual,
    group_of,
)
from metatele.task.params import flatten
from metatele.testing import ExampleFamily, check_symmetry
from tests.symmetry.cases import draw_batch, loss_of

H = 5


def one_hidden_layer(
    rows: int, activation: nn.Module | None, seed: int = 0
) -> tuple[MetaBatch, PseudoInverseGL, Tensor, Tensor]:
    """A network 3-H-2 with its group, data and a group element."""
    batch = draw_batch(ExampleFamily((3, H, 2), (activation,), rows=rows), 2, seed)
    (symmetry,) = group_of(batch.network, "pseudo_inverse").factors
    stream = torch.Generator().manual_seed(seed)
    g = symmetry.exp(0.3 * torch.randn(2, H, H, generator=stream, dtype=torch.float64))
    return batch, symmetry, batch.inputs["inner"], g


def activations_of(batch: MetaBatch, params: dict[str, Tensor], x: Tensor) -> Tensor:
    """s(Z), [B, H, n], written out."""
    return torch.tanh(params["0.weight"] @ x.mT + params["0.bias"].unsqueeze(2))


@given(st.integers(1, 8), st.integers(0, 1000))
def test_the_action_is_the_paper_s_formula_on_the_data(rows, seed):
    batch, symmetry, x, g = one_hidden_layer(rows, nn.Tanh(), seed)
    moved = symmetry.act(g, batch.params, x)
    before, after = activations_of(batch, batch.params, x), activations_of(batch, moved, x)
    matrix = symmetry.matrix(g)
    torch.testing.assert_close(moved["0.weight"], matrix @ batch.params["0.weight"])
    torch.testing.assert_close(moved["0.bias"].unsqueeze(2), matrix @ batch.params["0.bias"].unsqueeze(2))
    assert moved["2.bias"] is batch.params["2.bias"]
    formula = batch.params["2.weight"] @ before @ torch.linalg.pinv(after)
    torch.testing.assert_close(moved["2.weight"] @ after, formula @ after, rtol=1e-7, atol=1e-9)
    if rows >= H:
        torch.testing.assert_close(moved["2.weight"], formula, rtol=1e-6, atol=1e-9)


def test_with_few_rows_the_identity_keeps_what_the_layer_does_off_the_batch():
    batch, symmetry, x, _ = one_hidden_layer(2, nn.Tanh())
    kept = symmetry.act(symmetry.identity(x), batch.params, x)
    torch.testing.assert_close(flatten(kept), flatten(batch.params), rtol=1e-12, atol=1e-12)
    s = activations_of(batch, batch.params, x)
    literal = batch.params["2.weight"] @ s @ torch.linalg.pinv(s)
    assert (literal - batch.params["2.weight"]).norm() > 0.1 * batch.params["2.weight"].norm()


def test_equal_calls_give_equal_results_whatever_came_before():
    batch, symmetry, x, g = one_hidden_layer(2, nn.Tanh())
    first = symmetry.act(g, batch.params, x)
    torch.manual_seed(1)
    with torch.inference_mode():
        again = symmetry.act(g, batch.params, x)
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("rows", [2, H])
def test_an_activation_may_work_in_place(rows):
    batch, symmetry, x, _ = one_hidden_layer(rows, nn.LeakyReLU(0.2, inplace=True))
    check_symmetry(symmetry, batch.params, x, loss_of(batch), rtol=1e-7)


def test_more_rows_than_neurons_leave_a_residual_that_is_reported():
    batch, symmetry, x, g = one_hidden_layer(3 * H, nn.Tanh())
    residual = symmetry.residual(g, batch.params, x)
    seen = [p["2.weight"] @ activations_of(batch, p, x) for p in (batch.params, symmetry.act(g, batch.params, x))]
    expected = (seen[1] - seen[0]).flatten(1).norm(dim=1) / seen[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(residual, expected)
    assert (residual > 1e-3).all()
    unit = symmetry.residual(symmetry.identity(x), batch.params, x)
    torch.testing.assert_close(unit, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)
    with pytest.raises(AssertionError, match=r"broken law: PseudoInverseGL"):
        check_symmetry(symmetry, batch.params, x, loss_of(batch))


def test_a_residual_above_the_tolerance_is_an_error_that_says_what_to_do():
    batch, symmetry, x, g = one_hidden_layer(3 * H, nn.Tanh())
    group = ProductGroup((symmetry,))
    check_residual(group, [g], batch.params, x, 10.0)
    message = r"hidden layer after '0' .* tolerance 1e-06, on 15 data rows; it is exact on at most 5 rows: .*batch"
    with pytest.raises(SymmetryError, match=message):
        check_residual(group, [g], batch.params, x, 1e-6)
    with pytest.raises(SymmetryError, match="by nan"):
        check_residual(group, [g * torch.nan], batch.params, x, 10.0)


def test_exact_groups_have_no_residual():
    batch = draw_batch(ExampleFamily((3, H, 2), (nn.ReLU(),), rows=3 * H), 2, 0)
    group = group_of(batch.network)
    element = group.exp([torch.ones(2, H, dtype=torch.float64)])
    assert group.exact
    check_residual(group, element, batch.params, batch.inputs["inner"], 0.0)
    assert isinstance(group.factors[0], PositiveScaling)


@pytest.mark.parametrize("rows", [2, H, 3 * H])
def test_a_task_that_is_not_finite_leaves_the_others_and_their_gradients_alone(rows):
    batch, symmetry, x, g = one_hidden_layer(rows, nn.Tanh())
    bad, params = g.clone(), batch.params
    bad[0] = torch.nan if rows > H else 0.0
    bad.requires_grad_()
    moved = symmetry.act(bad, params, x)
    assert moved["2.weight"][0].isnan().all()
    torch.testing.assert_close(moved["2.weight"][1], symmetry.act(g, params, x)["2.weight"][1])
    (slope,) = torch.autograd.grad(moved["2.weight"][1].sum(), bad)
    assert slope[1].isfinite().all()
    assert rows > H or slope[0].isfinite().all()
    with pytest.raises(SymmetryError, match="hidden layer after '0' is singular or its data are, in 1 of 2 tasks"):
        check_finite(ProductGroup((symmetry,)), [bad], params, x)


def test_more_rows_than_neurons_are_differentiable_twice():
    batch, symmetry, x, g = one_hidden_layer(2 * H, nn.Tanh())

    def weight(g: Tensor) -> Tensor:
        return symmetry.act(g, batch.params, x)["2.weight"]

    assert torch.autograd.gradcheck(weight, (g.requires_grad_(),), fast_mode=True)
    assert torch.autograd.gradgradcheck(weight, (g,), fast_mode=True)


def test_rows_of_rows_are_rows():
    network = nn.Sequential(nn.Linear(3, H), nn.Tanh(), nn.Linear(H, 2)).double()
    params = {k: p.detach().unsqueeze(0) for k, p in network.named_parameters()}
    group = group_of(network, "pseudo_inverse")
    x = torch.randn(1, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    element = group.exp([0.3 * torch.ones(1, H, H, dtype=torch.float64)])
    flat = group.act(element, params, x.reshape(1, 4, 3))
    assert all(torch.equal(a, flat[k]) for k, a in group.act(element, params, x).items())


def test_without_an_activation_it_is_gl_on_the_data():
    batch, symmetry, x, g = one_hidden_layer(3, nn.Tanh())
    moved = PseudoInverseGL(symmetry.layer, nn.Identity()).act(g, batch.params, x)
    z = symmetry.layer.pre_activations(batch.params, x)
    expected = GeneralLinear(symmetry.layer).act(g, batch.params, x)["2.weight"]
    there = symmetry.matrix(g) @ z
    torch.testing.assert_close(moved["2.weight"] @ there, expected @ there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(2, H), st.integers(0, 1000))
def test_equal_rows_of_data_are_singular(dtype, rows, seed):
    batch, symmetry, x, g = one_hidden_layer(rows, nn.Tanh(), seed)
    x = x.clone()
    x[0, 0] = x[0, 1]
    moved = symmetry.act(g.to(dtype), {k: p.to(dtype) for k, p in batch.params.items()}, x.to(dtype))
    assert moved["2.weight"][0].isnan().all()
    assert moved["2.weight"][1].isfinite().all()


def test_a_layer_without_its_input_is_named():
    symmetry = PseudoInverseGL(HiddenLayer("the third layer", 2, "a", None, "b"), nn.Tanh())
    with pytest.raises(SymmetryError, match=r"the third layer: .*layer_input="):
        symmetry.act(
            torch.eye(2).unsqueeze(0), {"a": torch.ones(1, 2, 2), "b": torch.ones(1, 1, 2)}, torch.ones(1, 1, 2)
        )
