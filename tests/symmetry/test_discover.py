"""Which symmetries are found in which network."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from metatele import ConfigError, DenseTeleport, GradientDescent, InnerOptimizer, Symmetry, SymmetryError, symmetries_of
from metatele.symmetry import (
    BijectiveGL,
    GeneralLinear,
    LogitTranslation,
    PositiveScaling,
    ProductGroup,
    PseudoInverseGL,
    group_of,
)
from metatele.task.stack import stacked_forward

ALL = ["auto", "scaling", "general_linear", "data_dependent", "pseudo_inverse", "softmax"]


def mlp(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def kinds(network: nn.Module, kind: str = "auto") -> list[type]:
    return [type(s) for s in symmetries_of(network, kind)]


def assert_outputs_stay(network: nn.Module, inputs: torch.Tensor, kind: str = "auto") -> ProductGroup:
    """The found group moves parameters of the network and leaves its outputs as they are."""
    network = network.double()
    params = {k: torch.stack([p, 2 * p]).detach() for k, p in network.named_parameters()}
    group, inputs = group_of(network, kind), torch.stack([inputs, inputs]).double()
    stream = torch.Generator().manual_seed(0)
    algebra = [0.3 * torch.randn(2, *s, generator=stream, dtype=torch.float64) for s in group.algebra_shapes]
    moved = group.act(group.exp(algebra), params, inputs)
    before, after = (stacked_forward(network, p, inputs) for p in (params, moved))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert any(not torch.equal(params[k], moved[k]) for k in params)
    return group


@pytest.mark.parametrize(
    ("activation", "found"),
    [
        (nn.ReLU(), [PositiveScaling, PositiveScaling, None, None, PseudoInverseGL]),
        (nn.LeakyReLU(0.1), [PositiveScaling, PositiveScaling, None, BijectiveGL, PseudoInverseGL]),
        (nn.LeakyReLU(0.0), [PositiveScaling, PositiveScaling, None, None, PseudoInverseGL]),
        (nn.Identity(), [GeneralLinear, PositiveScaling, GeneralLinear, GeneralLinear, GeneralLinear]),
        (None, [GeneralLinear, PositiveScaling, GeneralLinear, GeneralLinear, GeneralLinear]),
        (nn.Tanh(), [None, None, None, None, PseudoInverseGL]),
        (nn.Softplus(), [None, None, None, None, PseudoInverseGL]),
        (nn.PReLU(), [None] * 5),
        (nn.RReLU(), [None] * 5),
        (nn.Softmax(-1), [None] * 5),
    ],
    ids=str,
)
def test_each_kind_at_each_activation(activation, found):
    network = mlp(nn.Linear(3, 3), *([] if activation is None else [activation]), nn.Linear(3, 2))
    for kind, expected in zip(ALL, [*found, LogitTranslation], strict=True):
        if expected is not None:
            assert kinds(network, kind) == [expected]
        elif kind != "auto" or not any(list(Symmetry.kinds[k].find(network)) for k in Symmetry.kinds.keys() - set(ALL)):
            with pytest.raises(SymmetryError, match=repr(kind)):
                symmetries_of(network, kind)


def test_every_hidden_layer_of_a_deep_network_has_its_group_on_the_data():
    network = mlp(
        nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 1)
    )
    inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert [f.exact_rows for f in assert_outputs_stay(network, inputs, "pseudo_inverse").factors] == [4, 5, 4]


@pytest.mark.parametrize("behind", [(), (nn.Identity(),), (nn.LogSoftmax(-1),), (nn.Softmax(1),)], ids=str)
def test_the_logits_are_those_of_the_last_linear_layer(behind):
    network = mlp(nn.Linear(2, 3), nn.Tanh(), mlp(nn.Linear(3, 4, bias=not behind)), *behind)
    (found,) = symmetries_of(network, "softmax")
    assert found.name == "the logits of '2.0.weight'"
    assert found.algebra_shape == ((3,) if behind else (4,))
    assert_outputs_stay(mlp(network, nn.Softmax(-1)), torch.randn(5, 2), "softmax")


@pytest.mark.parametrize("behind", [nn.ReLU(), nn.Sigmoid(), nn.Softmax(0), nn.Dropout(0.5)], ids=str)
def test_logits_that_something_else_sees_are_not_translated(behind):
    with pytest.raises(SymmetryError, match="'softmax'"):
        symmetries_of(mlp(nn.Linear(2, 3), behind), "softmax")


def test_a_last_layer_that_is_used_twice_is_not_translated():
    last = nn.Linear(3, 3)
    with pytest.raises(SymmetryError, match="'softmax'"):
        symmetries_of(mlp(last, nn.Tanh(), last), "softmax")


def test_a_single_linear_layer_has_translations():
    assert kinds(mlp(nn.Linear(2, 3)), "softmax") == [LogitTranslation]


class Square(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) ** 2


@pytest.mark.parametrize("kind", ["auto", "pseudo_inverse"])
def test_an_activation_with_another_forward_is_not_taken_for_its_base(kind):
    with pytest.raises(SymmetryError):
        symmetries_of(mlp(nn.Linear(2, 3), Square(), nn.Linear(3, 1)), kind)


def test_properties_pass_on_to_compositions():
    network = mlp(nn.Linear(2, 4), nn.ReLU(), nn.LeakyReLU(0.1), nn.Linear(4, 1))
    assert kinds(network) == [PositiveScaling]
    assert_outputs_stay(network, torch.randn(5, 2))
    network = mlp(nn.Linear(2, 4), nn.Tanh(), nn.LeakyReLU(0.1), nn.Linear(4, 1))
    assert kinds(network, "pseudo_inverse") == [PseudoInverseGL]
    assert_outputs_stay(network, torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), "pseudo_inverse")


def test_nested_sequentials_are_read_through():
    inner = mlp(nn.Linear(4, 3), nn.ReLU(), mlp(nn.Linear(3, 3)))
    network = mlp(mlp(nn.Linear(2, 4), nn.LeakyReLU(0.1)), inner, nn.Linear(3, 1))
    found = symmetries_of(network)
    assert [type(s) for s in found] == [PositiveScaling, PositiveScaling, GeneralLinear]
    assert [s.layer.weight_in for s in found] == ["0.0.weight", "1.0.weight", "1.2.0.weight"]
    assert_outputs_stay(network, torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", ["auto", "data_dependent"])
def test_an_activation_module_may_stand_in_two_places(kind):
    act = nn.LeakyReLU(0.2)
    network = mlp(nn.Linear(3, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1))
    assert len(symmetries_of(network, kind)) == 2
    inputs = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    assert_outputs_stay(network, inputs, kind)


def test_a_weight_used_twice_is_not_moved():
    tied = nn.Linear(3, 3)
    network = mlp(
        nn.Linear(2, 3), nn.ReLU(), tied, nn.ReLU(), tied, nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)
    )
    found = symmetries_of(network)
    assert [s.layer.weight_in for s in found] == ["6.weight"]
    assert_outputs_stay(network, torch.randn(5, 2))


def test_two_layers_that_share_a_weight_tensor_are_not_moved():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(SymmetryError):
        symmetries_of(mlp(first, nn.ReLU(), second))


def test_two_layers_that_share_a_bias_are_not_moved():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.bias = first.bias
    network = mlp(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(SymmetryError):
        symmetries_of(network)


def test_a_layer_without_parameters_may_come_first():
    network = mlp(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    assert kinds(network) == [PositiveScaling]
    assert_outputs_stay(network, torch.randn(5, 2, 3))


def test_the_input_of_a_later_layer_passes_through_what_is_before():
    network = mlp(nn.Tanh(), nn.Linear(3, 3), nn.LeakyReLU(0.1), nn.Linear(3, 3), nn.LeakyReLU(0.1), nn.Linear(3, 1))
    inputs = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    group = assert_outputs_stay(network, inputs, "data_dependent")
    assert [type(f) for f in group.factors] == [BijectiveGL, BijectiveGL]


def test_some_layers_may_have_no_symmetry():
    network = mlp(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    assert [s.layer.weight_in for s in symmetries_of(network)] == ["2.weight"]
    assert_outputs_stay(network, torch.randn(5, 2))


def test_a_module_that_is_no_activation_is_not_understood():
    with pytest.raises(SymmetryError):
        symmetries_of(mlp(nn.Linear(2, 3), nn.ReLU(), nn.LayerNorm(3), nn.Linear(3, 1)))
    with_dropout = mlp(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 1))
    assert kinds(with_dropout) == [PositiveScaling]  # whatever it drops
    with pytest.raises(SymmetryError):
        symmetries_of(with_dropout, "pseudo_inverse")
    assert kinds(mlp(nn.Linear(2, 3), nn.Identity(), nn.ReLU(), nn.Linear(3, 1))) == [PositiveScaling]


def test_the_error_lists_the_layers_and_what_is_supported():
    with pytest.raises(SymmetryError) as caught:
        symmetries_of(mlp(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    message = str(caught.value)
    assert "Sequential(Linear, Tanh, Linear)" in message
    for word in (*ALL, "ReLU", "LeakyReLU", "symmetries(self)"):
        assert word in message


def test_one_linear_layer_has_no_hidden_layer():
    with pytest.raises(SymmetryError, match=r"Sequential\(Linear\)"):
        symmetries_of(mlp(nn.Linear(2, 3)))


def test_a_module_of_another_kind_is_named():
    with pytest.raises(SymmetryError, match="Bilinear"):
        symmetries_of(nn.Bilinear(2, 2, 1))


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"must be one of auto, .*scaling.* got 'rotation'"):
        symmetries_of(mlp(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), "rotation")


class Shifted(nn.Module):
    """softmax(W x + b): adding c to all of b leaves the output as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).softmax(-1)

    def symmetries(self) -> list[Symmetry]:
        return [Shift()]


class Shift(Symmetry):
    __module__ = "tests"

    @property
    def algebra_shape(self):
        return (1,)

    def exp(self, algebra):
        return algebra

    def compose(self, g, h):
        return g + h

    def inverse(self, g):
        return -g

    def act(self, g, params, inputs):
        return {**params, "linear.bias": params["linear.bias"] + g}


def test_a_module_may_declare_its_own_symmetries():
    for kind in ALL:
        assert kinds(Shifted(), kind) == [Shift]
    assert_outputs_stay(Shifted(), torch.randn(5, 3))
    params = {k: p.detach().unsqueeze(0) for k, p in Shifted().named_parameters()}
    assert InnerOptimizer(GradientDescent(), DenseTeleport(4)).bind(Shifted(), params).algebra_shapes == ((1,),)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x) ** 2


@pytest.mark.parametrize(
    "network",
    [
        mlp(nn.Linear(3, 3), Residual(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))),
        Residual(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)),
        mlp(nn.Linear(3, 3), nn.ReLU(), Doubled(3, 3)),
        mlp(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 3)),
    ],
    ids=["residual block", "residual network", "own linear", "weight norm"],
)
def test_modules_that_only_look_like_layers_are_left_alone(network):
    try:
        assert_outputs_stay(network, torch.randn(5, 3))
    except SymmetryError as error:
        assert "no symmetry" in str(error)  # noqa: PT017 - both answers are right, a wrong group is not


@pytest.mark.parametrize(
    "computed", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_have_no_symmetry_of_their_own(computed):
    with pytest.raises(SymmetryError, match="no symmetry"):
        symmetries_of(mlp(computed(nn.Linear(2, 3)), nn.ReLU(), nn.Linear(3, 1)))
    pruned = nn.Linear(2, 3)
    prune.random_unstructured(pruned, "weight", 1)
    with pytest.raises(SymmetryError, match="no symmetry"):
        symmetries_of(mlp(pruned, nn.ReLU(), nn.Linear(3, 1)))
