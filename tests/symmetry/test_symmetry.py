"""Every group found by the package obeys the laws of `check_symmetry`, alone and in products."""

from typing import cast, get_args

import metatele.tasks  # noqa: F401 - so that all subclasses are known
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metatele import Symmetry, SymmetryError, symmetries_of
from metatele.symmetry import (
    BijectiveGL,
    GeneralLinear,
    HiddenLayer,
    Kind,
    LogitTranslation,
    PlaneRotation,
    PositiveScaling,
    ProductGroup,
    QuadraticOrthogonal,
    check_finite,
    check_residual,
    group_of,
)
from metatele.task.params import flatten, map_params
from metatele.testing import check_symmetry, gradient_of
from tests.conftest import concrete_subclasses
from tests.symmetry.cases import KNOWN, SoftmaxFamily, cases_of, draw_batch, loss_of, networks_of

CONTINUOUS = sorted(concrete_subclasses(Symmetry), key=lambda c: c.__name__)


@pytest.mark.parametrize("group", CONTINUOUS)
@given(data=st.data())
def test_every_group_obeys_its_laws(group, data):
    case = data.draw(cases_of(group))
    assert type(case.symmetry) is group
    check_symmetry(case.symmetry, case.params, case.inputs, case.loss, rtol=case.rtol)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_loss_is_unchanged_to_1e_10(kind):
    batch = draw_batch(SoftmaxFamily((4, 4, 4, 2), (nn.LeakyReLU(0.1), None), rows=4), 3, 0)
    for symmetry in symmetries_of(batch.network, kind):
        check_symmetry(symmetry, batch.params, batch.inputs["inner"], loss_of(batch), rtol=1e-10)


def assert_carries(group: ProductGroup, batch, seed: int) -> None:
    """The loss stays, and the gradient is carried to the one at the moved point, which is another."""
    x, loss = batch.inputs["inner"], loss_of(batch)
    stream = torch.Generator().manual_seed(seed)
    algebra = [0.3 * torch.randn(batch.tasks, *s, generator=stream, dtype=torch.float64) for s in group.algebra_shapes]
    gradient, element = gradient_of(loss, batch.params), group.exp(algebra)
    moved, (carried,), _ = group.carry(element, batch.params, x, [gradient])
    torch.testing.assert_close(loss(moved), loss(batch.params), rtol=1e-7, atol=0)
    torch.testing.assert_close(flatten(carried), flatten(gradient_of(loss, moved)), rtol=1e-5, atol=1e-8)
    if any(f.moves_gradient for f in group.factors):
        assert (flatten(carried) - flatten(gradient)).norm() > 1e-3 * flatten(gradient).norm()
    torch.testing.assert_close(flatten(group.act(element, batch.params, x)), flatten(moved), rtol=0, atol=0)
    unit = group.identity(x)
    torch.testing.assert_close(flatten(group.act(unit, batch.params, x)), flatten(batch.params), rtol=1e-9, atol=1e-9)
    check_finite(group, element, batch.params, x)
    check_residual(group, element, batch.params, x, 1e-6)


@pytest.mark.parametrize("kind", get_args(Kind))
@given(data=st.data())
def test_a_product_carries_the_gradient_through_all_layers(kind, data):
    batch = draw_batch(data.draw(networks_of(kind)), 2, seed := data.draw(st.integers(0, 1000)))
    assert_carries(group_of(batch.network, kind), batch, seed)


@given(st.integers(0, 1000))
def test_a_deep_network_may_have_a_group_of_another_kind_at_each_layer(seed):
    family = SoftmaxFamily((4, 4, 4, 5, 4, 3), (nn.LeakyReLU(0.2), nn.LeakyReLU(0.1), nn.Tanh(), None), rows=4)
    batch = draw_batch(family, 2, seed)
    kinds: dict[str, Kind] = {"0": "scaling", "2": "data_dependent", "4": "pseudo_inverse", "6": "general_linear"}
    factors = [
        next(s for s in symmetries_of(batch.network, kind) if s.name == f"the hidden layer after '{layer}'")
        for layer, kind in kinds.items()
    ]
    group = ProductGroup((*factors, *symmetries_of(batch.network, "softmax")))
    assert len({type(f) for f in group.factors}) == 5
    assert not group.exact
    assert_carries(group, batch, seed)


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
        return self.scale(g, torch.ones_like(g), params)


class Useless(Broken):
    def act(self, g, params, inputs):
        return dict(params)


class InPlace(Broken):
    def act(self, g, params, inputs):
        params[self.layer.weight_in].mul_(1.5)
        return PositiveScaling.act(self, g, params, inputs)


class Modest(PositiveScaling):
    """Says that it leaves the gradient alone."""

    __module__ = "tests"
    moves_gradient = False


class Untrue(PositiveScaling):
    __module__ = "tests"

    def residual(self, g, params, inputs):
        return torch.ones(len(g))


class Signed(PositiveScaling):
    """Says that what shrinks is small."""

    __module__ = "tests"

    def size(self, g):
        return g.log().mean(1)


class Boundless(PositiveScaling):
    """Measures its elements from 0."""

    __module__ = "tests"

    def size(self, g):
        return g.norm(dim=1)


@pytest.mark.parametrize(
    ("group", "law"),
    [
        (Signed, "size is finite, and above 0 but for the identity"),
        (Boundless, "the size of the identity is 0"),
        (Modest, "the gradient does not change, as moves_gradient = False says"),
        (Untrue, "residual is 0"),
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


def test_a_group_that_moves_nothing_cannot_hide_behind_an_unmoved_gradient(make_batch):
    class Idle(LogitTranslation):
        __module__ = "tests"

        def act(self, g, params, inputs):
            return dict(params)

    batch = make_batch()
    with pytest.raises(AssertionError, match="the parameters change"):
        check_symmetry(Idle("2.weight", None, 4), batch.params, batch.inputs["inner"], loss_of(batch))


def test_a_singular_element_is_nan_for_its_own_task_only():
    layer = HiddenLayer("the hidden layer after '0'", 2, "0.weight", None, "2.weight")
    params = {"0.weight": torch.ones(2, 2, 3), "2.weight": torch.ones(2, 1, 2)}
    g = torch.stack([torch.zeros(2, 2), 2 * torch.eye(2)]).requires_grad_()
    moved = GeneralLinear(layer).act(g, params, torch.ones(2, 1, 3))["2.weight"]
    assert moved[0].isnan().all()
    assert torch.equal(moved[1], torch.full((1, 2), 0.5))
    (gradient,) = torch.autograd.grad(moved[1].sum(), g)
    assert gradient.isfinite().all()


def test_the_factor_with_a_singular_element_is_named(make_batch):
    batch = make_batch(activations=(None, nn.LeakyReLU(0.1)))
    groups = [symmetries_of(batch.network, k)[i] for k, i in (("general_linear", 0), ("scaling", 1))]
    group, x = ProductGroup(tuple(groups)), batch.inputs["inner"]
    element = group.identity(x)
    check_finite(group, element, batch.params, x)
    matrix = groups[0].matrix(element[0])
    singular = [matrix * torch.tensor([1.0, 0.0]).reshape(2, 1, 1), element[1]]
    with pytest.raises(
        SymmetryError, match=r"group element of the hidden layer after '0' is singular.* in 1 of 2 tasks"
    ):
        check_finite(group, singular, batch.params, x)
    with pytest.raises(SymmetryError, match="group element of the hidden layer after '1' is singular"):
        check_finite(group, [element[0], 0 * element[1]], batch.params, x)
    already = map_params(lambda p: p * torch.tensor([torch.nan, 1.0]).reshape(2, *[1] * (p.dim() - 1)), batch.params)
    check_finite(group, element, already, x)


def test_singular_data_are_named():
    batch = draw_batch(SoftmaxFamily((4, 4, 4, 2), (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)), rows=4), 2, 0)
    group, x = group_of(batch.network, "data_dependent"), batch.inputs["inner"].clone()
    x[1, 0] = 0
    with pytest.raises(SymmetryError, match="hidden layer after '0' is singular or its data are, in 1 of 2"):
        check_finite(group, group.identity(x), batch.params, x)


def test_sizes_are_comparable_between_groups(make_batch):
    batch = make_batch(widths=(4, 3, 2), activations=(None,))
    t = torch.tensor([[0.3, -0.1, 0.2], [0.0, 0.0, 0.0]], dtype=torch.float64)
    rms = t.square().mean(1).sqrt()
    scaling, general = (symmetries_of(batch.network, k)[0] for k in ("scaling", "general_linear"))
    torch.testing.assert_close(scaling.size(scaling.exp(t)), rms)
    torch.testing.assert_close(general.size(general.exp(t.diag_embed())), rms)
    group = ProductGroup((scaling, general))
    sizes = group.sizes([scaling.exp(t), general.exp(2 * t.diag_embed())])
    torch.testing.assert_close(sizes, torch.stack([rms, 2 * rms]))
    assert ProductGroup().sizes([]).shape == (0, 0)
    skew = torch.tensor([[0.0, -2.0, 0.5], [2.0, 0.0, 1.0], [-0.5, -1.0, 0.0]], dtype=torch.float64)
    turn = general.exp(skew[None])
    torch.testing.assert_close(general.size(turn), (skew.square().sum() / 3).sqrt()[None])
    both = general.exp(t[:1].diag_embed()) @ turn
    assert general.size(both) > general.size(turn), "stretch and turn are both counted"
    translation = LogitTranslation("2.weight", "2.bias", 3)
    torch.testing.assert_close(translation.size(torch.full((1, 4), -0.5)), torch.tensor([0.5]))


@pytest.mark.parametrize("angle", [0.0, 1e-3, 1.0, 3.0, -3.0])
def test_rotations_have_the_size_of_their_angle(angle):
    algebra = torch.tensor([[angle]], dtype=torch.float64)
    for group in (QuadraticOrthogonal(torch.eye(2)), PlaneRotation.booth()):
        torch.testing.assert_close(group.size(group.exp(algebra)), algebra[0].abs())


def test_the_size_of_a_singular_element_is_infinite_for_its_own_task_only():
    group = GeneralLinear(HiddenLayer("a layer", 2, "0.weight", None, "2.weight"))
    g = torch.stack([torch.eye(2), torch.zeros(2, 2), torch.full((2, 2), torch.nan), 2 * torch.eye(2)])
    expected = torch.tensor([0.0, torch.inf, torch.nan, 2.0]).where(torch.arange(4) < 3, torch.tensor(2.0).log())
    torch.testing.assert_close(group.size(g), expected, equal_nan=True)


def test_data_dependence_needs_the_input_of_the_layer():
    layer = HiddenLayer("the hidden layer after '7'", 2, "0.weight", None, "2.weight")
    params = {"0.weight": torch.ones(1, 2, 2), "2.weight": torch.ones(1, 1, 2)}
    group = BijectiveGL(layer, 0.1)
    for call in (
        lambda: group.act(group.identity(torch.ones(1, 1)), params, torch.ones(1, 2, 2)),
        lambda: layer.pre_activations(params, torch.ones(1, 2, 2)),
    ):
        with pytest.raises(SymmetryError, match=r"hidden layer after '7'.*layer_input="):
            call()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_layer_knows_its_pre_activations(make_batch, kind):
    batch = make_batch(activations=(nn.LeakyReLU(0.1), nn.Tanh()))
    x, p = batch.inputs["inner"], batch.params
    first = p["0.weight"] @ x.mT + p["0.bias"].unsqueeze(2)
    second = p["2.weight"] @ nn.functional.leaky_relu(first, 0.1) + p["2.bias"].unsqueeze(2)
    try:
        found = [s.layer for s in symmetries_of(batch.network, kind) if hasattr(s, "layer")]
    except SymmetryError:
        return
    for layer, expected in zip(found, (first, second), strict=False):
        torch.testing.assert_close(layer.pre_activations(p, x), expected)


def test_groups_are_called_by_their_layer(make_batch):
    assert [s.name for s in symmetries_of(make_batch().network)] == [f"the hidden layer after '{i}'" for i in (0, 2)]
    assert LogitTranslation("4.weight", None, 3).name == "the logits of '4.weight'"


def test_data_that_is_not_square_is_an_error_with_its_shape(make_batch):
    batch = make_batch(rows=5)
    group = group_of(batch.network, "data_dependent")
    with pytest.raises(SymmetryError, match=r"\(5, 4\)"):
        group.act(group.exp([torch.zeros(2, *s) for s in group.algebra_shapes]), batch.params, batch.inputs["inner"])


def test_a_leaky_relu_without_inverse_is_refused():
    with pytest.raises(SymmetryError, match=r"slope 0\.0 is not bijective"):
        BijectiveGL(HiddenLayer("a layer", 2, "0.weight", None, "2.weight"), 0.0)


def test_the_empty_product_moves_nothing(make_batch):
    batch = make_batch()
    moved, gradients, squares = ProductGroup().carry([], batch.params, batch.inputs["inner"], [batch.params])
    assert all(moved[k] is p for k, p in batch.params.items())
    assert squares == []
    assert gradients == [batch.params]


def test_a_second_moment_is_turned_not_cancelled():
    group = QuadraticOrthogonal(torch.eye(2, dtype=torch.float64))
    quarter = group.exp(torch.tensor([[torch.pi / 4]], dtype=torch.float64))
    ones = {"w": torch.ones(1, 2, dtype=torch.float64)}
    turned = group.dual_square(quarter, ones, ones, ones, torch.empty(1, 1, 0))
    torch.testing.assert_close(turned, ones)
    wide = draw_batch(SoftmaxFamily((4, 4, 2), (nn.LeakyReLU(0.1),), rows=4), 3, 0)
    (symmetry,) = symmetries_of(wide.network, "data_dependent")
    x = wide.inputs["inner"]
    g = symmetry.exp(0.2 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    moved, square = symmetry.act(g, wide.params, x), map_params(torch.ones_like, wide.params)
    carried = symmetry.dual_square(g, wide.params, moved, square, x)
    assert all(bool((v > 1e-3).all()) for v in carried.values()), "no coordinate is left without a second moment"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_with_equal_rows_are_singular_and_move_nothing_at_random(dtype):
    batch = draw_batch(SoftmaxFamily((6, 6, 2), (nn.LeakyReLU(0.1),), rows=6), 20, 0).to(dtype)
    x = batch.inputs["inner"].clone()
    x[:, 3] = x[:, 1]
    group = group_of(batch.network, "data_dependent")
    moved = group.act(group.identity(x), batch.params, x)
    assert bool(moved["0.weight"].isnan().flatten(1).all(1).all())
    with pytest.raises(SymmetryError, match=r"hidden layer after '0'.*singular"):
        check_finite(group, group.identity(x), batch.params, x)


@pytest.mark.parametrize("kind", ["data_dependent", "pseudo_inverse"])
def test_a_last_layer_of_zeros_is_not_changed(kind):
    batch = draw_batch(SoftmaxFamily((4, 4, 2), (nn.LeakyReLU(0.1),), rows=4), 2, 0)
    batch.params["2.weight"].zero_()
    (symmetry,), x = symmetries_of(batch.network, kind), batch.inputs["inner"]
    g = symmetry.exp(0.1 * torch.ones(2, 4, 4, dtype=torch.float64))
    assert symmetry.residual(g, batch.params, x).tolist() == [0.0, 0.0]


def test_a_group_in_a_file_is_found_checked_and_named(monkeypatch):
    """What a new file in `metatele.symmetry.groups` gives: a kind, conformance tests, and a line of the error."""
    monkeypatch.setattr(Symmetry, "kinds", dict(Symmetry.kinds))

    class Doubled(PositiveScaling, kind="doubled", where="(twice as far) at no activation"):
        """Positive scaling, in other coordinates."""

        @classmethod
        def at(cls, layer, between):
            return None if between else cls(layer)

        def exp(self, algebra):
            return (2 * algebra).exp()

    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    (found,) = symmetries_of(network, "doubled")
    assert type(found) is Doubled
    (usual,) = symmetries_of(network)
    assert type(usual) is GeneralLinear
    assert cases_of(Doubled) is not None
    assert networks_of("doubled") is not None
    with pytest.raises(SymmetryError, match=r"'doubled' \(twice as far\) at no activation"):
        symmetries_of(nn.Linear(3, 3), "doubled")
