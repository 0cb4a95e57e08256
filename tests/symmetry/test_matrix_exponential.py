"""exp(T) and exp(-T) by series against torch, and what divides by them or by the data."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metatele import symmetries_of
from metatele.symmetry import BijectiveGL, GeneralLinear, HiddenLayer, ProductGroup
from metatele.symmetry.matrices import exp_pair
from metatele.task.params import map_params

DTYPES = (torch.float64, torch.float32)
LAYER = HiddenLayer("hidden", 3, "in.weight", "in.bias", "out.weight")


def draw(tasks=3, size=3, norm=1.0, seed=0, dtype=torch.float64):
    """Matrices [tasks, size, size] of a Frobenius norm."""
    algebra = torch.randn(tasks, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (norm * algebra / algebra.flatten(1).norm(dim=1).reshape(-1, 1, 1)).to(dtype)


def exact(algebra):
    return torch.linalg.matrix_exp(algebra.double())


def relative(found, expected):
    """Each task's error relative to its norm, [B]."""
    return (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


sizes = st.integers(1, 8)
norms = st.one_of(st.just(0.0), st.floats(1e-12, 30), st.sampled_from([0.25, 0.25 * (1 + 1e-15), 0.5, 1.0, 2.0]))


@given(size=sizes, norm=norms, tasks=st.integers(1, 4), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_the_pair_is_exp_of_both_signs(size, norm, tasks, seed, dtype):
    algebra = draw(tasks, size, norm, seed, dtype)
    for found, sign in zip(exp_pair(algebra), (1, -1), strict=True):
        assert found.dtype == dtype
        # Rounding enters every squaring: T itself, rounded, already moves exp(T) by |T| eps.
        assert float(relative(found.double(), exact(sign * algebra)).max()) <= 8 * (1 + norm) * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", ["antisymmetric", "symmetric", "nilpotent", "diagonal"])
@pytest.mark.parametrize("norm", [0.1, 3.0, 30.0])
def test_special_matrices(kind, norm):
    any_ = draw(norm=norm, size=5)
    algebra = {
        "antisymmetric": any_ - any_.mT,
        "symmetric": any_ + any_.mT,
        "nilpotent": any_.triu(1),
        "diagonal": torch.diag_embed(any_[:, 0]),
    }[kind]
    for found, sign in zip(exp_pair(algebra), (1, -1), strict=True):
        assert float(relative(found, exact(sign * algebra)).max()) <= 1e-13 * (1 + norm)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_exp_of_zero_is_the_identity_bit_for_bit(size, dtype):
    others = draw(2, size, 5.0, dtype=dtype)
    for tasks in (
        torch.zeros(2, size, size, dtype=dtype),
        torch.cat([torch.zeros(1, size, size, dtype=dtype), others]),
    ):
        for found in exp_pair(tasks):
            assert torch.equal(found[0], torch.eye(size, dtype=dtype))


@given(size=sizes, norm=st.floats(0, 4), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_the_product_of_the_pair_is_the_identity(size, norm, seed, dtype):
    forth, back = exp_pair(draw(2, size, norm, seed, dtype))
    one = torch.eye(size, dtype=dtype).expand_as(forth)
    condition = forth.flatten(1).norm(dim=1) * back.flatten(1).norm(dim=1)
    for product in (forth @ back, back @ forth):
        error = (product - one).flatten(1).norm(dim=1)
        assert bool((error <= 8 * (1 + norm) * torch.finfo(dtype).eps * condition).all())


@pytest.mark.parametrize("norm", [0.0, 1e-3, 0.3, 2.0])
def test_derivatives_of_both_orders(norm):
    algebra = draw(2, 3, norm).requires_grad_()
    assert torch.autograd.gradcheck(exp_pair, algebra)
    assert torch.autograd.gradgradcheck(exp_pair, algebra)


@given(size=sizes, norm=norms, seed=st.integers(0, 99))
def test_derivatives_are_those_of_torch(size, norm, seed):
    algebra = draw(2, size, norm, seed).requires_grad_()
    weights = draw(2, size, 1.0, seed + 1)
    for side, sign in ((0, 1), (1, -1)):
        (found,) = torch.autograd.grad((weights * exp_pair(algebra)[side]).sum(), algebra)
        (expected,) = torch.autograd.grad((weights * exact(sign * algebra)).sum(), algebra)
        # Relative to the largest derivative that weights of this size could meet.
        size_of_exp = exact(sign * algebra).detach().flatten(1).norm(dim=1)
        error = (found - expected).flatten(1).norm(dim=1)
        assert bool((error <= 1e-13 * (1 + norm) * torch.maximum(size_of_exp, expected.flatten(1).norm(dim=1))).all())


@given(data=st.data(), size=sizes)
def test_a_task_does_not_depend_on_the_others(data, size):
    algebra = torch.cat([draw(1, size, data.draw(norms), seed) for seed in range(4)]).requires_grad_()
    together = exp_pair(algebra)
    for task in range(4):
        alone = exp_pair(algebra[task : task + 1])
        for a, t in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], t[task], rtol=1e-13, atol=1e-13 * float(a.detach().norm()))
            (one,) = torch.autograd.grad(a.sum(), algebra, retain_graph=True)
            (all_,) = torch.autograd.grad(t[task].sum(), algebra, retain_graph=True)
            torch.testing.assert_close(one, all_, rtol=1e-12, atol=1e-13 * float(one.norm()))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e200, 1e4])
@pytest.mark.parametrize("norm", [0.0, 0.1, 10.0])
def test_numbers_that_are_not_finite_stay_with_their_task(bad, norm):
    good = draw(3, 3, norm)
    algebra = good.clone()
    algebra[1, 0, 2] = algebra[1, 2, 0] = bad
    algebra.requires_grad_()
    for found, alone in zip(exp_pair(algebra), exp_pair(good[::2]), strict=True):
        torch.testing.assert_close(found[::2], alone, rtol=1e-13, atol=1e-13 * float(alone.norm()))
        assert not found[1].isfinite().all()
        (gradient,) = torch.autograd.grad(found[::2].sum(), algebra, retain_graph=True)
        assert bool(gradient[::2].isfinite().all())


@pytest.mark.parametrize("size", [1, 3])
def test_no_tasks_at_all(size):
    algebra = torch.empty(0, size, size, dtype=torch.float64, requires_grad=True)
    pair = exp_pair(algebra)
    assert [p.shape for p in pair] == [algebra.shape] * 2
    (gradient,) = torch.autograd.grad(pair[0].sum() + pair[1].sum(), algebra)
    assert gradient.shape == algebra.shape


def by_hand(g):
    """The same group element as a matrix alone."""
    return g[:, 0]


def test_an_element_that_exp_made_divides_as_any_other_does():
    symmetry, algebra, rows = GeneralLinear(LAYER), draw(2, norm=2.0).requires_grad_(), draw(2, seed=1)
    g = symmetry.exp(algebra)
    fresh = by_hand(g)
    for of in (
        symmetry.inverse_matrix,
        lambda g: symmetry.divide(rows[:, :2], g),
        lambda g: symmetry.divide(symmetry.matrix(g), g),
        lambda g: symmetry.matrix(symmetry.inverse(g)),
    ):
        found, expected = of(g), of(fresh)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        gradients = [torch.autograd.grad(x.square().sum(), algebra, retain_graph=True)[0] for x in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


def test_elements_made_by_hand():
    symmetry, g, rows = GeneralLinear(LAYER), draw(2, norm=3.0, seed=2).requires_grad_(), draw(2, seed=1)
    one = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    torch.testing.assert_close(symmetry.inverse(g) @ g, one)
    torch.testing.assert_close(symmetry.divide(rows, g) @ g, rows)
    torch.autograd.gradcheck(lambda g: (symmetry.inverse(g), symmetry.divide(rows, g)), g)
    for product in (
        symmetry.compose(symmetry.exp(g.detach()), symmetry.exp(rows)),
        symmetry.compose(symmetry.exp(g.detach()), g),
    ):
        undone = symmetry.inverse_matrix(product) @ symmetry.matrix(product)
        torch.testing.assert_close(undone, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("made", [torch.clone, torch.detach, lambda g: g[1:], torch.Tensor.float])
def test_what_is_made_of_an_element_has_its_inverse(made):
    symmetry = GeneralLinear(LAYER)
    g = made(symmetry.exp(draw(2, norm=1.0)))
    product = symmetry.matrix(symmetry.compose(symmetry.inverse(g), g))
    torch.testing.assert_close(product, torch.eye(3, dtype=g.dtype).expand_as(product), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [0.1, 3.0])
def test_the_action_of_both_kinds_of_elements_is_the_same(norm):
    symmetry = GeneralLinear(LAYER)
    stream = torch.Generator().manual_seed(0)
    shapes = {"in.weight": (2, 3, 4), "in.bias": (2, 3), "out.weight": (2, 2, 3)}
    params = {k: torch.randn(*s, generator=stream, dtype=torch.float64) for k, s in shapes.items()}
    g, inputs = symmetry.exp(draw(2, norm=norm)), torch.empty(2, 0)
    for act in (
        lambda g: symmetry.act(g, params, inputs),
        lambda g: symmetry.dual(g, params, params, params, inputs),
        lambda g: symmetry.dual_square(g, params, params, params, inputs),
    ):
        for name, expected in act(by_hand(g)).items():
            torch.testing.assert_close(act(g)[name], expected, rtol=1e-10, atol=1e-10 * float(expected.norm()))


@pytest.fixture
def on_data(make_batch):
    """The data-dependent groups of a network's two layers (the second does not see the data), and a batch for them."""
    batch = make_batch(tasks=3, widths=(3, 3, 3, 2), activations=(nn.LeakyReLU(0.2),) * 2)
    groups = symmetries_of(batch.network, "data_dependent")
    assert [s.layer.sees_data for s in groups] == [True, False]
    return groups, batch.params, batch.inputs["inner"]


def unremembering(symmetry):
    """The same group, which solves with the data each time."""
    return BijectiveGL(dataclasses.replace(symmetry.layer, sees_data=False), symmetry.slope)


def assert_acts_right(symmetry, g, params, inputs):
    found, expected = symmetry.act(g, params, inputs), unremembering(symmetry).act(g, params, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("change", ["in place", "replaced", "replaced and gone", "dtype"])
def test_other_data_have_another_inverse(on_data, change):
    (symmetry, _), params, inputs = on_data
    inputs = inputs.clone()
    symmetry = symmetry.on(inputs)
    g = symmetry.exp(draw(3, norm=0.3))
    for _ in range(2):
        assert_acts_right(symmetry, g, params, inputs)
    if change == "in place":
        inputs.mul_(2).add_(0.1)
    elif change == "replaced":
        inputs = inputs.flip(0).clone()
    elif change == "replaced and gone":  # the new one may take the old one's place in memory
        values = (inputs * 3).tolist()
        del inputs
        inputs = torch.tensor(values, dtype=torch.float64)
    else:
        assert_acts_right(symmetry, g, params, inputs)
        g, params, inputs = g.float(), map_params(torch.Tensor.float, params), inputs.float()
        assert all(v.dtype == torch.float32 for v in symmetry.act(g, params, inputs).values())
        return
    assert_acts_right(symmetry, g, params, inputs)


def test_two_data_in_turn(on_data):
    (symmetry, _), params, inputs = on_data
    g, symmetry = symmetry.exp(draw(3, norm=0.3)), symmetry.on(inputs)
    other = 2 * inputs.flip(0)
    for data in (inputs, other, inputs, other[:], inputs):
        assert_acts_right(symmetry, g, params, data)


def test_a_group_that_knows_its_data_is_copied(on_data):
    (symmetry, _), params, inputs = on_data
    g = symmetry.exp(draw(3, norm=0.3))
    assert_acts_right(copy.deepcopy(symmetry.on(inputs)), g, params, 2 * inputs)


def test_the_inverse_of_the_data_is_precise_in_float32(on_data):
    (symmetry, _), params, inputs = on_data
    g = symmetry.exp(draw(3, norm=0.3))
    expected = symmetry.act(g, params, inputs)
    found = symmetry.act(g.float(), map_params(torch.Tensor.float, params), inputs.float())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-3 * float(value.norm()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_data_first_seen_without_a_graph_serve_with_one(on_data, mode):
    (symmetry, _), params, inputs = on_data
    algebra = draw(3, norm=0.3).requires_grad_()
    with mode():
        symmetry = symmetry.on(inputs)
    gradients = []
    for s in (symmetry, unremembering(symmetry)):
        moved = s.act(s.exp(algebra), params, inputs)
        gradients.append(torch.autograd.grad(sum(v.square().sum() for v in moved.values()), algebra)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def test_data_made_in_inference_mode(on_data):
    (symmetry, _), params, inputs = on_data
    g = symmetry.exp(draw(3, norm=0.3))
    with torch.inference_mode():
        inputs = inputs.clone()
        for group in (symmetry, symmetry.on(inputs)):
            assert_acts_right(group, g, params, inputs)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["equal rows", "zero", "to rounding"])
def test_singular_data_of_one_task_are_its_own(on_data, layer, kind):
    groups, params, inputs = on_data
    symmetry, inputs = groups[layer], inputs.clone()
    if kind == "equal rows":
        inputs[1] = 1.0
    elif kind == "zero":
        inputs[1] = 0.0
    else:
        inputs[1, 2] = inputs[1, 0] / 3 + inputs[1, 1] / 7
    algebra = draw(3, norm=0.3).requires_grad_()
    leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
    moved = symmetry.act(symmetry.exp(algebra), leaves, inputs)[symmetry.layer.weight_in]
    assert bool(moved[::2].isfinite().all())
    if layer == 0:
        assert bool(moved[1].isnan().all())
    alone = symmetry.act(symmetry.exp(algebra[::2]), map_params(lambda p: p[::2], leaves), inputs[::2].clone())
    torch.testing.assert_close(moved[::2], alone[symmetry.layer.weight_in], rtol=1e-10, atol=1e-12)
    wanted = [algebra, *leaves.values()]
    gradients = torch.autograd.grad(moved[::2].square().sum(), wanted, allow_unused=True, materialize_grads=True)
    assert all(bool(g[::2].isfinite().all()) for g in gradients)
    assert float(gradients[0][::2].norm()) > 0


def test_what_was_made_of_data_can_be_given_to_another(on_data):
    groups, params, inputs = on_data
    group = ProductGroup(tuple(groups))
    made = group.of_data(inputs)
    assert [len(tensors) for tensors in made] == [1, 0]  # the second layer does not see the data
    torch.testing.assert_close(made[0][0] @ inputs.mT, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    bound, given, other = group.on(inputs), group.on(inputs, made), inputs.clone()
    assert bound.on(inputs) is bound, "it has them already"
    assert group.factors[0]._data.inputs is None, "the group itself stays as it is"
    assert bound.of_data(inputs)[0][0] is bound.of_data(inputs)[0][0], "made once"
    assert given.of_data(inputs)[0][0] is made[0][0]
    assert given.of_data(other)[0][0] is not made[0][0]
    element = group.exp([draw(3, norm=0.3), draw(3, norm=0.2, seed=1)])
    expected = group.act(element, params, inputs)
    for acting, data in ((bound, inputs), (given, inputs), (given, other), (group.on(other, made), other)):
        torch.testing.assert_close(acting.act(element, params, data), expected, rtol=0, atol=0)


def test_data_without_an_inverse_are_told_apart(on_data):
    (symmetry, _), _, inputs = on_data
    inputs = inputs.clone()
    inputs[1] = 1.0
    inverse, lost = symmetry.of_data(inputs)
    assert lost.flatten().tolist() == [False, True, False]
    assert not inverse[1].any()


@pytest.mark.parametrize("known", ["both", "one", "none"])
def test_elements_of_some_tasks_and_of_others(known):
    """The inverse goes with its element, where both have one."""
    symmetry = GeneralLinear(LAYER)
    g, like = symmetry.exp(draw(3, norm=0.4)), torch.zeros(3, 1, dtype=torch.float64)
    g, one = (g if known != "none" else by_hand(g)), symmetry.identity(like)
    one = one if known == "both" else by_hand(one)
    keep = torch.tensor([True, False, True])
    selected = symmetry.select(keep, g, one)
    assert (selected.dim() == 4) == (known == "both")
    matrix = symmetry.matrix(selected)
    expected = torch.where(keep.reshape(-1, 1, 1), symmetry.matrix(g), symmetry.matrix(one))
    torch.testing.assert_close(matrix, expected, rtol=0, atol=0)
    undone = symmetry.inverse_matrix(selected) @ matrix
    torch.testing.assert_close(undone, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
