"""Networks run as one, with and without vmap: the same numbers and derivatives, whatever the network."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations, parametrize, prune

import metatele.task.stack
from metatele.task.stack import ELEMENTWISE, StackedNetwork, stacked_forward

TASKS, ROWS, INPUTS, HIDDEN = 3, 5, 4, 6


def mlp(*activations, bias=True):
    """Linear layers with activations in between."""
    sizes = [INPUTS, *[HIDDEN] * len(activations), 2]
    layers = [nn.Linear(sizes[0], sizes[1], bias)]
    for activation, size in zip(activations, sizes[2:], strict=True):
        layers += [activation, nn.Linear(HIDDEN, size, bias)]
    return nn.Sequential(*layers)


def activation(kind, **options):
    return kind(0.1, 20.0, **options) if kind is nn.Threshold else kind(**options)


def stacked(network, seed=0):
    """Parameters of TASKS copies of a network, unlike its own, that want gradients."""
    stream = torch.Generator().manual_seed(seed)
    shapes = {k: p.shape for k, p in network.named_parameters()}
    return {
        k: torch.randn(TASKS, *s, generator=stream, dtype=torch.float64).requires_grad_() for k, s in shapes.items()
    }


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def by_vmap(network, params, inputs):
    return vmap(lambda p, x: functional_call(network, p, (x,)))(dict(params), inputs)


@pytest.fixture
def mapped(monkeypatch):
    """Lists the calls of vmap."""
    calls = []

    def spy(*args, **kwargs):
        calls.append(args)
        return vmap(*args, **kwargs)

    monkeypatch.setattr(metatele.task.stack, "vmap", spy)
    return calls


def derivatives(outputs, of, twice=True):
    """First and second derivatives of something that is not linear in the outputs."""
    options = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(outputs.square().sum(), of, create_graph=twice, **options)
    return *first, *(torch.autograd.grad(sum(g.square().sum() for g in first), of, **options) if twice else ())


def check(network, params=None, inputs=None):
    """The same outputs, first and second derivatives as by vmap."""
    network = network.double()
    params = stacked(network) if params is None else params
    inputs = data(TASKS, ROWS, INPUTS) if inputs is None else inputs
    found, expected = stacked_forward(network, params, inputs), by_vmap(network, params, inputs)
    of = [t for t in (*params.values(), inputs) if t.requires_grad]
    twice = not any(isinstance(m, nn.Hardsigmoid) for m in network.modules())  # torch has no second derivative of it
    both = ((out, *derivatives(out, of, twice)) for out in (found, expected))
    for a, e in zip(*both, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12 * float(e.detach().abs().max()) if e.numel() else 0.0)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda k: k.__name__)
def test_every_elementwise_activation_goes_without_vmap(mapped, kind, bias):
    check(mlp(activation(kind), activation(kind), bias=bias))
    assert not mapped


class Doubled(nn.Linear):
    """Has a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(nn.ReLU):
    """Likewise."""

    def forward(self, x):
        return super().forward(x) + 1


class Called(nn.Linear):
    """Has a call of its own."""

    def __call__(self, x):
        return super().__call__(x) + 1


class Backwards(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x):
        return super().forward(x).flip(-1)


class Residual(nn.Module):
    """No Sequential at all."""

    def __init__(self):
        super().__init__()
        self.inner = mlp(nn.Tanh())
        self.outer = nn.Linear(INPUTS, 2)

    def forward(self, x):
        return self.outer(x) + self.inner(x)


class Scale(nn.Module):
    """A parameter of the network's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * x


class ToWeight(nn.Module):
    """A parametrisation."""

    def forward(self, x):
        return x.sinh()


def changed(change, network=None):
    """A network after `change` has had its way with it."""
    network = mlp(nn.Tanh()) if network is None else network
    change(network)
    return network


def set_forward(network):
    network[0].forward = lambda x: 3 * nn.functional.linear(x, network[0].weight)


def set_whole_forward(network):
    network.forward = lambda x: 3 * network[0](x)


def fix_weight(network):
    weight = network[0].weight.detach().double()
    del network[0].weight
    network[0].weight = weight


def twice(module, *rest):
    """A hook that doubles what comes last."""
    last = rest[-1]
    return tuple(2 * t for t in last) if isinstance(last, tuple) else 2 * last


PLAIN = {
    "two layers": lambda: mlp(nn.ReLU()),
    "one layer": lambda: mlp(),
    "linear layers in a row": lambda: nn.Sequential(nn.Linear(INPUTS, 3), nn.Linear(3, 2)),
    "activations in a row": lambda: nn.Sequential(nn.Linear(INPUTS, 3), nn.Tanh(), nn.Sigmoid(), nn.Linear(3, 2)),
    "an activation first": lambda: nn.Sequential(nn.Tanh(), *mlp(nn.ReLU())),
    "an activation last": lambda: nn.Sequential(*mlp(nn.ReLU()), nn.Tanh()),
    "biases in some": lambda: nn.Sequential(nn.Linear(INPUTS, 3, False), nn.GELU(), nn.Linear(3, 2)),
    "named layers": lambda: nn.Sequential(OrderedDict(a=nn.Linear(INPUTS, 3), b=nn.Tanh(), c=nn.Linear(3, 2))),
    "settings": lambda: mlp(nn.LeakyReLU(0.3), nn.GELU("tanh"), nn.Softplus(2.0, 0.5), nn.Hardtanh(-0.2, 0.7)),
    "a shared activation": lambda: mlp(*[nn.Tanh()] * 2),
    "inplace": lambda: mlp(nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True), nn.ELU(inplace=True)),
    "frozen": lambda: mlp(nn.ReLU()).requires_grad_(False),
    "evaluating": lambda: mlp(nn.ReLU()).eval(),
    "no columns": lambda: nn.Sequential(nn.Linear(INPUTS, 2), nn.ReLU(), nn.Linear(2, 0)),
}
OTHERS = {
    "nested": lambda: nn.Sequential(mlp(nn.Tanh()), nn.Linear(2, 2)),
    "no sequential": Residual,
    "a linear layer alone": lambda: nn.Linear(INPUTS, 2),
    "identity": lambda: mlp(nn.Identity()),
    "softmax": lambda: mlp(nn.Softmax(-1)),
    "flatten": lambda: mlp(nn.Flatten(1)),
    "layer norm": lambda: mlp(nn.LayerNorm(HIDDEN)),
    "batch norm": lambda: mlp(nn.BatchNorm1d(HIDDEN, track_running_stats=False)),
    "prelu": lambda: mlp(nn.PReLU(HIDDEN)),
    "dropout": lambda: mlp(nn.Dropout()).eval(),
    "a parameter of its own": lambda: mlp(Scale()),
    "another linear layer": lambda: nn.Sequential(Doubled(INPUTS, 3), nn.ReLU(), nn.Linear(3, 2)),
    "another call": lambda: nn.Sequential(Called(INPUTS, 3), nn.ReLU(), nn.Linear(3, 2)),
    "another activation": lambda: mlp(Shifted()),
    "another sequential": lambda: Backwards(*mlp(nn.ReLU())),
    "a forward of one layer": lambda: changed(set_forward),
    "a forward of one network": lambda: changed(set_whole_forward),
    "a weight that is no parameter": lambda: changed(fix_weight),
    "hook on the network": lambda: changed(lambda n: n.register_forward_hook(twice)),
    "hook on a linear layer": lambda: changed(lambda n: n[0].register_forward_hook(twice)),
    "hook on an activation": lambda: changed(lambda n: n[1].register_forward_hook(twice)),
    "hook with keywords": lambda: changed(
        lambda n: n[1].register_forward_hook(lambda m, a, k, o: 2 * o, with_kwargs=True)
    ),
    "hook before": lambda: changed(lambda n: n[2].register_forward_pre_hook(twice)),
    "weight norm": lambda: changed(lambda n: parametrizations.weight_norm(n[0])),
    "old weight norm": lambda: changed(lambda n: nn.utils.weight_norm(n[0])),
    "orthogonal": lambda: changed(lambda n: parametrizations.orthogonal(n[0], orthogonal_map="cayley")),
    "parametrised": lambda: changed(lambda n: parametrize.register_parametrization(n[2], "weight", ToWeight())),
    "parametrised bias": lambda: changed(lambda n: parametrize.register_parametrization(n[0], "bias", ToWeight())),
    "pruned": lambda: changed(lambda n: prune.random_unstructured(n[0], "weight", 0.5)),
    "pruned bias": lambda: changed(lambda n: prune.random_unstructured(n[0], "bias", 0.5)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_go_without_vmap(mapped, name):
    check(PLAIN[name]())
    assert not mapped


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_all_others_go_by_vmap(mapped, name):
    check(OTHERS[name]())
    assert mapped


@pytest.mark.parametrize("layer", [0, 1, None])
def test_backward_hooks_are_called(mapped, layer):
    network, counts = mlp(nn.Tanh()).double(), []
    module = network if layer is None else network[layer]
    module.register_full_backward_hook(lambda *_: counts.append(1))
    params, inputs = stacked(network), data(TASKS, ROWS, INPUTS)
    by_vmap(network, params, inputs).sum().backward()
    expected = len(counts)
    stacked_forward(network, params, inputs).sum().backward()
    assert mapped
    assert len(counts) == 2 * expected


@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hooks_on_all_modules(kind):
    everywhere = nn.modules.module
    register = {"forward": everywhere.register_module_forward_hook, "pre": everywhere.register_module_forward_pre_hook}
    handle = register[kind](lambda module, *rest: twice(module, *rest) if isinstance(module, nn.Linear) else None)
    try:
        check(mlp(nn.Tanh()))
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "shape", [(TASKS, INPUTS), (TASKS, 2, ROWS, INPUTS), (TASKS, 0, INPUTS), (TASKS, 1, INPUTS)], ids=str
)
def test_inputs_of_any_shape(mapped, shape):
    check(mlp(nn.Tanh()), inputs=data(*shape))
    assert bool(mapped) == (len(shape) != 3)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_views_of_any_layout(mapped, bias):
    network = mlp(nn.Tanh(), bias=bias).double()
    params = {k: p.detach()[:1].expand_as(p).requires_grad_() for k, p in stacked(network).items()}
    for inputs in (data(1, ROWS, INPUTS).expand(TASKS, -1, -1), data(INPUTS, ROWS, TASKS).permute(2, 1, 0)):
        check(network, params, inputs)
    assert not mapped


def test_a_shared_linear_layer():
    shared = nn.Linear(INPUTS, INPUTS)
    network = nn.Sequential(shared, nn.Tanh(), shared)
    check(network)


def test_shared_weights():
    network = nn.Sequential(nn.Linear(INPUTS, INPUTS), nn.Tanh(), nn.Linear(INPUTS, INPUTS))
    network[2].weight = network[0].weight
    check(network)


@pytest.mark.parametrize("missing", ["0.weight", "0.bias", "2.bias"])
def test_parameters_that_are_not_given_are_the_networks_own(missing):
    network = mlp(nn.Tanh()).double()
    params = stacked(network)
    del params[missing]
    check(network, params)


def test_parameters_of_layers_that_are_not_there_are_an_error():
    network = mlp(nn.Tanh()).double()
    with pytest.raises((AttributeError, KeyError)):
        stacked_forward(network, {**stacked(network), "5.weight": data(TASKS, 2)}, data(TASKS, ROWS, INPUTS))


def test_a_bias_for_a_layer_that_has_none():
    network = mlp(nn.Tanh(), bias=False).double()
    check(network, {**stacked(network), "0.bias": data(TASKS, HIDDEN)})


def test_inputs_without_a_gradient_and_parameters_without():
    network = mlp(nn.Tanh()).double()
    check(network, inputs=data(TASKS, ROWS, INPUTS).detach())
    check(network, {k: p.detach() for k, p in stacked(network).items()})


def test_an_inplace_activation_first_does_to_the_inputs_what_it_did():
    network = nn.Sequential(nn.ReLU(inplace=True), *mlp(nn.Tanh())).double()
    params, inputs = stacked(network), data(TASKS, ROWS, INPUTS).detach()
    other = inputs.clone()
    torch.testing.assert_close(
        stacked_forward(network, params, inputs), by_vmap(network, params, other), rtol=1e-12, atol=0
    )
    assert torch.equal(inputs, other)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("tasks", [1, TASKS + 1])
def test_another_number_of_tasks_is_an_error(tasks, bias):
    network = mlp(nn.Tanh(), bias=bias).double()
    with pytest.raises((RuntimeError, ValueError)):
        stacked_forward(network, stacked(network), data(tasks, ROWS, INPUTS))


def test_a_network_of_no_layers():
    assert torch.equal(stacked_forward(nn.Sequential(), {}, inputs := data(TASKS, ROWS, INPUTS)), inputs)


def test_inside_other_transforms():
    network = mlp(nn.Tanh()).double()
    params, inputs = {k: p.detach() for k, p in stacked(network).items()}, data(TASKS, ROWS, INPUTS).detach()
    for forward in (stacked_forward, by_vmap):
        found = torch.func.grad(lambda p, forward=forward: forward(network, p, inputs).square().sum())(params)
        many = vmap(lambda x, forward=forward: forward(network, params, x))(torch.stack([inputs, 2 * inputs]))
        if forward is stacked_forward:
            expected = found, many
    for name, gradient in expected[0].items():
        torch.testing.assert_close(gradient, found[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(expected[1], many, rtol=1e-12, atol=1e-12)


def test_the_network_is_left_as_it_is():
    network = mlp(nn.ReLU()).double()
    before = copy.deepcopy(network.state_dict())
    check(network)
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["named layers", "biases in some"])
def test_a_stacked_network_runs_the_same(name):
    network = PLAIN[name]().double()
    params, inputs = stacked(network), data(TASKS, ROWS, INPUTS)
    found = StackedNetwork(network, params)(inputs)
    torch.testing.assert_close(found, by_vmap(network, params, inputs), rtol=1e-12, atol=1e-12)
