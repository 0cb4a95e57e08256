"""Discrete groups: every one obeys the laws of `check_discrete_symmetry`, and is found where it is."""

from itertools import permutations

import metatele.tasks  # noqa: F401 - so that all subclasses are known
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metatele import SymmetryError
from metatele.symmetry import DiscreteSymmetry, HiddenLayer, Permutations, SignFlips, discrete_symmetries_of
from metatele.task.params import flatten
from metatele.testing import check_discrete_symmetry, gradient_of
from tests.conftest import concrete_subclasses
from tests.symmetry.cases import cases_of, loss_of

LAYER = HiddenLayer("the hidden layer after '0'", 3, "0.weight", "0.bias", "2.weight")
DISCRETE = sorted(concrete_subclasses(DiscreteSymmetry), key=lambda c: c.__name__)


@pytest.mark.parametrize("group", DISCRETE)
@given(data=st.data())
def test_every_discrete_group_obeys_its_laws(group, data):
    case = data.draw(cases_of(group))
    check_discrete_symmetry(case.symmetry, case.params, case.inputs, case.loss, case.rtol)


@pytest.mark.parametrize("group", DISCRETE)
@given(data=st.data())
def test_the_gradient_turns_but_keeps_its_norm(group, data):
    case = data.draw(cases_of(group))
    streams = [torch.Generator().manual_seed(i) for i in range(len(case.inputs))]
    moved = case.symmetry.act(case.symmetry.sample(streams, case.inputs), case.params, case.inputs)
    norms = [flatten(gradient_of(case.loss, p)).norm(dim=1) for p in (case.params, moved)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-9, atol=1e-12)


def test_draws_are_uniform():
    streams, like = [torch.Generator().manual_seed(i) for i in range(6000)], torch.zeros(6000, 1)
    orders = Permutations(LAYER).sample(streams, like)
    signs = SignFlips(LAYER).sample(streams, like)
    assert signs.dtype == like.dtype
    for element, values in (
        (orders, permutations(range(3))),
        (signs, torch.cartesian_prod(*[torch.tensor([1, -1])] * 3)),
    ):
        values = [torch.as_tensor(v) for v in values]
        counts = torch.tensor([(element == v).all(1).sum() for v in values])
        assert counts.sum() == 6000
        assert ((counts / 6000 * len(values) - 1).abs() < 0.15).all()


def test_a_permutation_puts_neuron_g_i_at_place_i():
    params = {"0.weight": torch.arange(6.0).reshape(1, 3, 2), "0.bias": torch.tensor([[1.0, 2.0, 3.0]])}
    params["2.weight"] = torch.tensor([[[4.0, 5.0, 6.0]]])
    moved = Permutations(LAYER).act(torch.tensor([[2, 0, 1]]), params, torch.zeros(1, 1, 2))
    assert moved["0.bias"].tolist() == [[3.0, 1.0, 2.0]]
    assert moved["0.weight"].tolist() == [[[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]]
    assert moved["2.weight"].tolist() == [[[6.0, 4.0, 5.0]]]


def found(*modules: nn.Module) -> list[type]:
    return [type(s) for s in discrete_symmetries_of(nn.Sequential(*modules))]


@pytest.mark.parametrize(
    "activation",
    [nn.Tanh(), nn.Softsign(), nn.Hardtanh(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.Identity()],
    ids=str,
)
def test_odd_activations_have_sign_flips(activation):
    z = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(activation(-z), -activation(z))
    assert found(nn.Linear(2, 3), activation, nn.Linear(3, 1)) == [SignFlips, Permutations]


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.Softplus(), nn.Hardtanh(-1, 2), nn.ReLU6()], ids=str
)
def test_other_elementwise_activations_have_permutations_only(activation):
    assert found(nn.Linear(2, 3), activation, nn.Linear(3, 1)) == [Permutations]


def test_odd_after_odd_is_odd():
    assert found(nn.Linear(2, 3), nn.Tanh(), nn.Softsign(), nn.Linear(3, 1)) == [SignFlips, Permutations]
    assert found(nn.Linear(2, 3), nn.Tanh(), nn.ReLU(), nn.Linear(3, 1)) == [Permutations]


class Even(nn.Tanh):
    def forward(self, x):
        return super().forward(x).square()


@pytest.mark.parametrize("module", [nn.Softmax(-1), nn.PReLU(3), nn.LayerNorm(3), nn.Dropout(0.5), Even()], ids=str)
def test_what_is_not_elementwise_is_refused_with_what_is(module):
    with pytest.raises(SymmetryError, match=r"no discrete symmetry.*Sequential\(Linear, .*permutations.*sign flips"):
        found(nn.Linear(3, 3), module, nn.Linear(3, 1))


class Declared(nn.Linear):
    def discrete_symmetries(self):
        return [SignFlips(LAYER)]


def test_a_module_may_declare_its_own_discrete_symmetries():
    assert [s.name for s in discrete_symmetries_of(Declared(2, 2))] == ["the hidden layer after '0'"]


class Stacked(SignFlips):
    """Draws all tasks from the first generator."""

    __module__ = "tests"

    def sample(self, generators, like):
        shape = (len(generators), self.layer.width)
        return 2 * torch.randint(2, shape, generator=generators[0]).to(like) - 1


class Stuck(SignFlips):
    __module__ = "tests"

    def sample(self, generators, like):
        return self.identity(like)


class Forgets(SignFlips):
    __module__ = "tests"

    def act(self, g, params, inputs):
        return self.scale(g, torch.ones_like(g), params)


@pytest.mark.parametrize(
    ("group", "law"),
    [(Stacked, "generator only"), (Stuck, "more than the identity"), (Forgets, "the loss is unchanged")],
)
def test_a_broken_discrete_group_is_caught_by_name(make_batch, group, law):
    batch = make_batch(activations=(nn.Tanh(), nn.Tanh()))
    layer = discrete_symmetries_of(batch.network)[0].layer
    with pytest.raises(AssertionError, match=law) as caught:
        check_discrete_symmetry(group(layer), batch.params, batch.inputs["inner"], loss_of(batch))
    assert group.__name__ in str(caught.value)
