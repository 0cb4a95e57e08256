"""Every group found by the package obeys the laws of `check_symmetry`."""

import dataclasses
from collections.abc import Mapping
from typing import cast, get_args

import metatele.tasks  # noqa: F401 - so that all subclasses are known
import pytest
import torch
from conftest import concrete_subclasses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import MetaBatch, Symmetry, SymmetryError, sample_meta_batch, symmetries_of
from metatele.params import flatten, map_params
from metatele.stack import stacked_forward
from metatele.symmetry import BijectiveGL, GeneralLinear, HiddenLayer, Kind, PositiveScaling, ProductGroup, group_of
from metatele.testing import ExampleFamily, check_symmetry, gradient_of

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.1),
    "none": None,
    "identity": nn.Identity(),
    "tanh": nn.Tanh(),
}
KINDS = get_args(Kind)


def loss_of(batch: MetaBatch):
    x, y = batch.rows("inner")

    def loss(params: Mapping[str, Tensor]) -> Tensor:
        return batch.losses(stacked_forward(batch.network, params, x), y)

    return loss


def draw_batch(family: ExampleFamily, tasks: int, seed: int) -> MetaBatch:
    batch = sample_meta_batch(family, "train", range(tasks), seed).to(torch.float64)
    if batch.inputs["inner"].shape[1] == batch.inputs["inner"].shape[2]:
        # Square data are for the groups that invert it, which holds the loss to the condition number.
        x = torch.linalg.qr(batch.inputs["inner"])[0] * 2
        batch = dataclasses.replace(batch, inputs=dict.fromkeys(batch.inputs, x))
    return batch


@st.composite
def networks(draw) -> tuple[ExampleFamily, Kind]:
    """A network of 2 to 4 linear layers that has a symmetry of the kind drawn with it."""
    kind = draw(st.sampled_from(KINDS))
    linear = draw(st.integers(2, 4))
    bias = draw(st.booleans())
    if kind == "data_dependent":
        width = draw(st.integers(2, 4))
        widths = [width] * linear + [draw(st.integers(1, 3))]  # every layer's own input is square
        names = ["leaky"] * (linear - 1)
        return ExampleFamily(widths, [ACTIVATIONS[n] for n in names], bias, rows=width), kind
    widths = draw(st.lists(st.integers(3, 5), min_size=linear + 1, max_size=linear + 1))
    usable = {"auto": ["relu", "leaky", "none", "identity"], "scaling": ["relu", "leaky", "none"]}
    usable["general_linear"] = ["none", "identity"]
    first = draw(st.sampled_from(usable[kind]))
    # A second ReLU could leave a tiny network dead, with no gradient that could change.
    others = draw(
        st.lists(st.sampled_from(sorted(ACTIVATIONS.keys() - {"relu"})), min_size=linear - 2, max_size=linear - 2)
    )
    return ExampleFamily(widths, [ACTIVATIONS[n] for n in (first, *others)], bias, rows=8), kind


@given(networks(), st.integers(2, 3), st.integers(0, 1000))
def test_every_group_obeys_its_laws(drawn, tasks, seed):
    family, kind = drawn
    batch = draw_batch(family, tasks, seed)
    for symmetry in symmetries_of(batch.network, kind):
        tolerance = 1e-7 if isinstance(symmetry, BijectiveGL) else 1e-10
        check_symmetry(symmetry, batch.params, batch.inputs["inner"], loss_of(batch), rtol=tolerance, seed=seed)


def test_every_group_has_an_example():
    cases = [
        (ExampleFamily((3, 3, 2), (ACTIVATIONS[name],), rows=3), kind)
        for name in ("relu", "leaky", "none")
        for kind in KINDS
    ]
    reached = set()
    for family, kind in cases:
        try:
            reached |= {type(s) for s in symmetries_of(family.network(), kind)}
        except SymmetryError:
            continue
    missing = concrete_subclasses(Symmetry) - reached
    assert not missing, f"no network of `networks` reaches {missing}: add one whose symmetries_of gives it"


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_unchanged_to_1e_10(kind):
    family = ExampleFamily((4, 4, 3, 2), (nn.LeakyReLU(0.1), None), rows=4)
    batch = draw_batch(family, 3, 0)
    for symmetry in symmetries_of(batch.network, kind):
        check_symmetry(symmetry, batch.params, batch.inputs["inner"], loss_of(batch), rtol=1e-10)


@given(networks(), st.integers(0, 1000))
def test_a_product_carries_the_gradient_through_all_layers(drawn, seed):
    family, kind = drawn
    batch = draw_batch(family, 2, seed)
    group, x, loss = group_of(batch.network, kind), batch.inputs["inner"], loss_of(batch)
    stream = torch.Generator().manual_seed(seed)
    algebra = [0.3 * torch.randn(2, *s, generator=stream, dtype=torch.float64) for s in group.algebra_shapes]
    gradient = gradient_of(loss, batch.params)
    moved, (carried,), _ = group.carry(group.exp(algebra), batch.params, x, [gradient])
    torch.testing.assert_close(loss(moved), loss(batch.params), rtol=1e-7, atol=0)
    torch.testing.assert_close(flatten(carried), flatten(gradient_of(loss, moved)), rtol=1e-5, atol=1e-8)
    assert (flatten(carried) - flatten(gradient)).norm() > 1e-3 * flatten(gradient).norm()


def test_the_general_dual_agrees_with_the_closed_forms(make_batch):
    batch = make_batch()
    for symmetry in symmetries_of(batch.network):
        assert type(symmetry).dual is not Symmetry.dual
        x, loss = batch.inputs["inner"], loss_of(batch)
        g = symmetry.exp(0.3 * torch.randn(2, *symmetry.algebra_shape, dtype=torch.float64))
        gradient = gradient_of(loss, batch.params)
        moved = symmetry.act(g, batch.params, x)
        arguments = (g, batch.params, moved, gradient, x)
        torch.testing.assert_close(
            flatten(symmetry.dual(*arguments)), flatten(Symmetry.dual(symmetry, *arguments)), rtol=1e-9, atol=1e-12
        )


def test_squares_are_carried_exactly_by_diagonal_elements(make_batch):
    batch = make_batch()
    for symmetry in symmetries_of(batch.network):
        x, loss = batch.inputs["inner"], loss_of(batch)
        scales = 0.3 * torch.randn(2, symmetry.algebra_shape[0], dtype=torch.float64)
        g = symmetry.exp(scales.diag_embed() if isinstance(symmetry, GeneralLinear) else scales)
        gradient = gradient_of(loss, batch.params)
        moved = symmetry.act(g, batch.params, x)
        squares = symmetry.dual_square(g, batch.params, moved, map_params(torch.square, gradient), x)
        expected = map_params(torch.square, gradient_of(loss, moved))
        torch.testing.assert_close(flatten(squares), flatten(expected), rtol=1e-9, atol=1e-14)


class Broken(PositiveScaling):
    """Forgets to undo the scale in the outgoing weights, as a user's first attempt might."""

    __module__ = "tests"

    def act(self, g, params, inputs):
        return self._scale(g, torch.ones_like(g), params)


class Useless(Broken):
    def act(self, g, params, inputs):
        return dict(params)


class InPlace(Broken):
    def act(self, g, params, inputs):
        params[self.layer.weight_in].mul_(1.5)
        return PositiveScaling.act(self, g, params, inputs)


@pytest.mark.parametrize(
    ("group", "law"),
    [
        (Broken, "the loss is unchanged"),
        (Useless, "the gradient changes"),
        (InPlace, "changes its arguments|unchanged|="),
    ],
)
def test_a_broken_group_is_caught_by_name(make_batch, group, law):
    batch = make_batch()
    layer = cast(PositiveScaling, symmetries_of(batch.network, "scaling")[0]).layer
    with pytest.raises(AssertionError, match=law) as caught:
        check_symmetry(group(layer), batch.params, batch.inputs["inner"], loss_of(batch))
    assert group.__name__ in str(caught.value)


def test_a_wrong_dual_is_caught(make_batch):
    class WrongDual(Broken):
        act = PositiveScaling.act

        def dual(self, g, params, moved, gradient, inputs):
            return PositiveScaling.act(self, g, gradient, inputs)

    batch = make_batch()
    layer = cast(PositiveScaling, symmetries_of(batch.network, "scaling")[0]).layer
    with pytest.raises(AssertionError, match="dual carries the gradient"):
        check_symmetry(WrongDual(layer), batch.params, batch.inputs["inner"], loss_of(batch))


def test_a_singular_element_is_nan_for_its_own_task_only():
    layer = HiddenLayer("the hidden layer after '0'", 2, "0.weight", None, "2.weight")
    params = {"0.weight": torch.ones(2, 2, 3), "2.weight": torch.ones(2, 1, 2)}
    g = torch.stack([torch.zeros(2, 2), 2 * torch.eye(2)]).requires_grad_()
    moved = GeneralLinear(layer).act(g, params, torch.ones(2, 1, 3))["2.weight"]
    assert moved[0].isnan().all()
    assert torch.equal(moved[1], torch.full((1, 2), 0.5))
    (gradient,) = torch.autograd.grad(moved[1].sum(), g)
    assert gradient.isfinite().all()


def test_data_that_is_not_square_is_an_error_with_its_shape(make_batch):
    batch = make_batch(rows=5)
    group = group_of(batch.network, "data_dependent")
    with pytest.raises(SymmetryError, match=r"\(5, 4\)"):
        group.act(group.exp([torch.zeros(2, *s) for s in group.algebra_shapes]), batch.params, batch.inputs["inner"])


def test_a_leaky_relu_without_inverse_is_refused():
    with pytest.raises(SymmetryError, match=r"slope 0\.0 is not bijective"):
        BijectiveGL(HiddenLayer("a layer", 2, "0.weight", None, "2.weight"), 0.0, lambda params, inputs: inputs)


def test_the_empty_product_moves_nothing(make_batch):
    batch = make_batch()
    moved, gradients, squares = ProductGroup().carry([], batch.params, batch.inputs["inner"], [batch.params])
    assert all(moved[k] is p for k, p in batch.params.items())
    assert squares == []
    assert gradients == [batch.params]
