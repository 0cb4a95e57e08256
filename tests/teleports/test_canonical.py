"""Closed-form teleports: the equation that defines each rule, and what must not matter to it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import (
    Balance,
    GradientDescent,
    InnerOptimizer,
    MetaBatch,
    Point,
    State,
    Svd,
    SymmetryError,
    Unroll,
    White,
    Wout,
    sample_meta_batch,
)
from metatele.experiments.functions import Booth
from metatele.symmetry import BijectiveGL, GeneralLinear, PositiveScaling, ProductGroup, group_of
from metatele.task.params import Params, flatten, map_params
from metatele.teleports import CanonicalTeleport
from metatele.teleports.rules.spd import gram_root, spd_root
from metatele.testing import ExampleFamily, check_teleport
from tests.symmetry.cases import draw_batch, loss_of
from tests.unroll.replay import recorded

DOUBLE = torch.float64
RULES = {"balance": Balance, "svd": Svd, "white": White, "wout": Wout}


def apply(rule: CanonicalTeleport, batch: MetaBatch, group: ProductGroup | None = None) -> Params:
    """Where the rule takes the parameters of a batch."""
    group = rule.group(batch.network) if group is None else group
    x, zeros = batch.inputs["inner"], map_params(torch.zeros_like, batch.params)
    element, _ = rule.element(Point(batch.params, zeros, x, 0), group, State())
    return group.act(element, batch.params, x)


def linear(widths: tuple[int, ...], seed: int = 0, tasks: int = 2, bias: bool = True, rows: int = 12) -> MetaBatch:
    """Deep linear regression."""
    return draw_batch(ExampleFamily(widths, (None,) * (len(widths) - 2), bias, rows), tasks, seed)


def homogeneous(widths: tuple[int, ...], seed: int = 0, tasks: int = 2, bias: bool = True) -> MetaBatch:
    activations = [nn.ReLU(), nn.LeakyReLU(0.2)] * len(widths)
    return draw_batch(ExampleFamily(widths, activations[: len(widths) - 2], bias, 20), tasks, seed)


def elsewhere(batch: MetaBatch, kind: str, size: float = 0.4) -> MetaBatch:
    """The same tasks, started at another point of their orbits."""
    group, stream = group_of(batch.network, kind), torch.Generator().manual_seed(7)
    shapes = [(batch.tasks, *s) for s in group.algebra_shapes]
    element = group.exp([size * torch.randn(*s, generator=stream, dtype=DOUBLE) for s in shapes])
    return replace(batch, params=group.act(element, batch.params, batch.inputs["inner"]))


def sides(factor: GeneralLinear | PositiveScaling, params: Params) -> tuple[Tensor, Tensor]:
    """A = W_in W_in^T + b b^T and C = W_out^T W_out, written out."""
    layer = factor.layer
    rows = params[layer.weight_in]
    if layer.bias_in is not None:
        rows = torch.cat([rows, params[layer.bias_in].unsqueeze(2)], 2)
    return rows @ rows.mT, params[layer.weight_out].mT @ params[layer.weight_out]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    """Entries agree, up to a tolerance relative to the largest."""
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


class Counting(Svd):
    """Counts how often a layer is looked at."""

    __module__ = "tests"
    looks = 0

    def matrix(self, factor, params, inputs):
        Counting.looks += 1
        return super().matrix(factor, params, inputs)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("widths", [(5, 4, 3, 2), (6, 4, 4, 2), (5, 4, 3, 2, 1), (4, 4, 4, 4, 4)])
def test_the_sweeps_come_to_an_end(widths, dtype):
    """Also with fewer outputs than neurons, where a part of W_in shrinks to the regularisation."""
    Counting.looks, batch = 0, linear(widths).to(dtype)
    there = apply(Counting(), batch)
    assert bool(flatten(there).isfinite().all())
    assert Counting.looks <= 150 * (len(widths) - 2)


# For GL(h): widths whose hidden layers have no more neurons than inputs and, where they may, fewer outputs.
narrowing = st.lists(st.integers(1, 5), min_size=3, max_size=5).map(lambda w: tuple(sorted(w, reverse=True)))
bottlenecks = st.tuples(st.integers(3, 6), st.integers(1, 3), st.integers(3, 6))
constant = st.tuples(st.integers(2, 4), st.integers(3, 5)).map(lambda p: (p[0],) * p[1])
scaled = st.lists(st.integers(1, 6), min_size=3, max_size=5).map(tuple)


@settings(max_examples=15)
@given(bottlenecks | constant, st.integers(0, 500), st.booleans())
def test_balance_equalises_both_sides_of_every_linear_layer(widths, seed, bias):
    batch = linear(widths, seed, bias=bias)
    there = apply(Balance(symmetry="general_linear"), batch)
    for factor in group_of(batch.network).factors:
        incoming, outgoing = sides(factor, there)
        close(incoming, outgoing, 1e-5)
    loss = loss_of(batch)
    torch.testing.assert_close(loss(there), loss(batch.params), rtol=1e-7, atol=0)


@given(narrowing, st.integers(0, 500))
def test_balance_holds_to_the_regularisation_where_there_are_fewer_outputs_than_neurons(widths, seed):
    batch = linear(widths, seed)
    there = apply(Balance(symmetry="general_linear"), batch)
    for factor in group_of(batch.network).factors:
        incoming, outgoing = sides(factor, there)
        close(incoming, outgoing, 1e-4)
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-5, atol=0)


@pytest.mark.parametrize("widths", [(6, 4, 6), (4, 4, 4, 4), (5, 5, 5, 5, 5)])
def test_balance_is_the_point_of_the_orbit_with_the_smallest_weights(widths):
    batch = linear(widths, 3, tasks=3)
    group = group_of(batch.network)
    there = apply(Balance(symmetry="general_linear"), batch)
    moving = [f.layer.weight_in for f in group.factors] + [f.layer.bias_in for f in group.factors]
    moving.append(group.factors[-1].layer.weight_out)

    def size(params: Params) -> Tensor:
        return flatten({k: params[k] for k in moving}).square().sum(1)

    assert bool((size(there) < size(batch.params)).all())
    stream = torch.Generator().manual_seed(0)
    for length in (1e-3, 1e-2, 0.1):
        for _ in range(5):
            draws = [torch.randn(3, *s, generator=stream, dtype=DOUBLE) for s in group.algebra_shapes]
            near = group.act(group.exp([length * d for d in draws]), there, batch.inputs["inner"])
            assert bool((size(near) > size(there) * (1 - 1e-9)).all())


@settings(max_examples=15)
@given(bottlenecks | constant, st.integers(0, 500))
def test_svd_makes_both_sides_diagonal_and_equal_largest_first(widths, seed):
    batch = linear(widths, seed)
    there = apply(Svd(), batch)
    for factor in group_of(batch.network).factors:
        incoming, outgoing = sides(factor, there)
        diagonal = incoming.diagonal(dim1=1, dim2=2)
        close(incoming, torch.diag_embed(diagonal), 1e-5)
        close(outgoing, torch.diag_embed(diagonal), 1e-5)
        assert bool((diagonal.diff(dim=1) <= 1e-9 * diagonal[:, :1]).all())
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-7, atol=0)


@pytest.mark.parametrize("shape", [(6, 3, 5), (4, 4, 4), (5, 2, 2)])
def test_svd_of_two_layers_gives_the_halves_of_the_singular_value_decomposition(shape):
    batch = linear(shape, bias=False)
    there = apply(Svd(), batch)
    product = batch.params["1.weight"] @ batch.params["0.weight"]
    u, values, v = torch.linalg.svd(product)
    h = shape[1]
    roots = values[:, :h].sqrt().unsqueeze(1)
    close(there["1.weight"].abs(), (u[:, :, :h] * roots).abs())
    close(there["0.weight"].abs(), (v[:, :h] * roots.mT).abs())
    close(there["1.weight"] @ there["0.weight"], product, 1e-10)


@settings(max_examples=15)
@given(narrowing | constant, st.integers(0, 500), st.booleans())
def test_white_makes_the_pre_activations_white(widths, seed, bias):
    batch = linear(widths, seed, bias=bias)
    there = apply(White(), batch)
    for factor in group_of(batch.network).factors:
        z = factor.layer.pre_activations(there, batch.inputs["inner"])
        close(z @ z.mT / z.shape[2], torch.eye(z.shape[1], dtype=DOUBLE).expand(2, -1, -1), 1e-6)
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-7, atol=0)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=5).map(lambda w: tuple(sorted(w))), st.integers(0, 500))
def test_wout_makes_the_outgoing_columns_orthonormal(widths, seed):
    batch = linear(widths, seed)
    there = apply(Wout(), batch)
    for factor in group_of(batch.network).factors:
        _, outgoing = sides(factor, there)
        close(outgoing, torch.eye(outgoing.shape[1], dtype=DOUBLE).expand(2, -1, -1), 1e-7)
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", RULES)
@given(scaled, st.integers(0, 500), st.booleans())
def test_the_scaling_version_of_every_rule(name, widths, seed, bias):
    batch = homogeneous(widths, seed, bias=bias)
    there = apply(RULES[name](symmetry="scaling"), batch)
    for factor in group_of(batch.network, "scaling").factors:
        incoming, outgoing = (s.diagonal(dim1=1, dim2=2) for s in sides(factor, there))
        if name == "white":
            before, after = (
                factor.layer.pre_activations(p, batch.inputs["inner"]).square().mean(2) for p in (batch.params, there)
            )
            close(after, torch.where(before == 0, before, 1.0), 1e-7)
        elif name == "wout":
            torch.testing.assert_close(outgoing, torch.ones_like(outgoing), rtol=1e-9, atol=0)
        else:
            torch.testing.assert_close(incoming, outgoing, rtol=1e-8, atol=1e-20)
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-9, atol=0)


# (rule, kind, widths) that every size allows
SETTINGS = [
    ("balance", "general_linear", (5, 4, 4, 5)),
    ("balance", "scaling", (4, 5, 3, 2)),
    ("svd", "general_linear", (5, 4, 4, 5)),
    ("svd", "scaling", (4, 5, 3, 2)),
    ("white", "general_linear", (5, 4, 4, 2)),
    ("white", "scaling", (4, 5, 3, 2)),
    ("wout", "general_linear", (2, 4, 4, 5)),
    ("wout", "scaling", (4, 5, 3, 2)),
]
IDS = [f"{name}-{kind}" for name, kind, _ in SETTINGS]


def make(name: str, kind: str, widths: tuple[int, ...], tasks: int = 2) -> tuple[CanonicalTeleport, MetaBatch]:
    batch = linear(widths, 1, tasks) if kind == "general_linear" else homogeneous(widths, 1, tasks)
    return RULES[name](symmetry=kind), batch


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_a_rule_moves_and_moves_once_only(setting):
    rule, batch = make(*setting)
    there = apply(rule, batch)
    assert (flatten(there) - flatten(batch.params)).norm() > 0.1
    again = apply(rule, replace(batch, params=there))
    close(flatten(again), flatten(there), 1e-7)


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_it_does_not_matter_where_on_the_orbit_one_starts(setting):
    """Up to a rotation for GL(h), which leaves the eigenvalues of A; svd fixes that too, up to signs."""
    name, kind, _ = setting
    rule, batch = make(*setting)
    first, second = (apply(rule, b) for b in (batch, elsewhere(batch, kind)))
    for factor in rule.group(batch.network).factors:
        if kind == "general_linear":
            pair = [torch.linalg.eigvalsh(sides(factor, p)[0]) for p in (first, second)]
        else:
            pair = [sides(factor, p)[0].diagonal(dim1=1, dim2=2) for p in (first, second)]
        close(*pair, 1e-6)
    if name == "svd" or kind == "scaling":
        close(flatten(second).abs(), flatten(first).abs(), 1e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_a_stack_goes_where_each_task_goes(setting):
    rule, batch = make(*setting, tasks=3)
    whole = apply(rule, batch)
    for i in range(3):
        alone = replace(
            batch,
            params={k: p[i : i + 1] for k, p in batch.params.items()},
            inputs={k: x[i : i + 1] for k, x in batch.inputs.items()},
        )
        close(flatten(apply(rule, alone))[0], flatten(whole)[i], 1e-7)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_one_bad_task_harms_no_other(setting, value):
    rule, batch = make(*setting, tasks=3)
    spoiled = map_params(torch.clone, batch.params)
    for name in ("0.weight", "0.bias"):
        spoiled[name][1] = value
    spoiled = {k: p.requires_grad_() for k, p in spoiled.items()}
    good = {k: p.clone().requires_grad_() for k, p in batch.params.items()}
    keep, grads = torch.tensor([0, 2]), []
    for params in (spoiled, good):
        there = apply(rule, replace(batch, params=params))
        grads.append(torch.autograd.grad(flatten(there)[keep].square().sum(), list(params.values())))
        if params is spoiled:
            found = flatten(there)[keep].detach()
        else:
            close(found, flatten(there)[keep].detach(), 1e-9)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a[keep], b[keep], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_the_gradient_through_each_rule(setting):
    name, kind, _ = setting
    widths = (3, 2, 2, 3) if kind == "general_linear" else (2, 2, 2, 2)
    rule, batch = make(name, kind, widths, tasks=1)
    group, names = rule.group(batch.network), list(batch.params)
    leaves = tuple(p.clone().requires_grad_() for p in batch.params.values())
    torch.manual_seed(0)
    weights = torch.randn_like(flatten(batch.params))

    def end(*values: Tensor) -> Tensor:
        return (
            weights * flatten(apply(rule, replace(batch, params=dict(zip(names, values, strict=True))), group))
        ).sum()

    assert torch.autograd.gradcheck(end, leaves, atol=1e-6, rtol=1e-4)


# Roots


@given(st.integers(1, 5), st.integers(0, 500), st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_root_squares_to_its_matrix(n, seed, scale):
    root = torch.randn(2, n, n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    matrix = scale * (root @ root.mT + 0.1 * torch.eye(n))
    found = spd_root(matrix)
    close(found @ found, matrix, 1e-12)
    assert torch.equal(found, found.mT) or float((found - found.mT).abs().max()) < 1e-12 * float(found.max())
    assert bool((torch.linalg.eigvalsh(found) > 0).all())


@pytest.mark.parametrize("values", [[1.0, 2.0, 5.0], [2.0, 2.0, 2.0], [1.0, 3.0, 3.0]])
def test_a_root_has_derivatives_also_where_eigenvalues_coincide(values):
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    matrix = (basis @ torch.diag(torch.tensor(values, dtype=DOUBLE)) @ basis.mT).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(spd_root, (matrix,))
    assert torch.autograd.gradgradcheck(spd_root, (matrix,))


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 4)])
def test_a_root_of_a_gram_matrix(shape):
    factor = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()
    delta = torch.tensor([0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    eye = torch.eye(shape[1], dtype=DOUBLE)
    close(gram_root(factor, delta), spd_root(factor.mT @ factor + delta.reshape(-1, 1, 1) * eye), 1e-12)
    assert torch.autograd.gradcheck(gram_root, (factor, delta))
    assert torch.autograd.gradgradcheck(gram_root, (factor, delta))
    with torch.no_grad():
        factor[1] = torch.nan
    root = gram_root(factor, delta)
    assert bool(root[1].isnan().all())
    (slope,) = torch.autograd.grad(root[0].sum(), factor)
    assert bool(slope.isfinite().all())


def test_a_root_of_a_gram_matrix_keeps_what_the_matrix_has_lost():
    """Of singular values 1 and 1e-12 the squares do not fit into one matrix of 16 digits."""
    factor, delta = torch.diag(torch.tensor([1.0, 1e-12], dtype=DOUBLE)), torch.tensor([1e-30], dtype=DOUBLE)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    root = gram_root((turn @ factor).unsqueeze(0), delta)
    torch.testing.assert_close(root[0].diagonal(), torch.tensor([1.0, 1e-12], dtype=DOUBLE), rtol=1e-3, atol=0)


def test_a_matrix_without_a_root_gives_nan_and_no_gradient():
    eye = torch.eye(2, dtype=DOUBLE)
    bad = [-eye, torch.diag(torch.tensor([1.0, -1.0])).double(), eye * torch.nan, eye * torch.inf, 0 * eye]
    matrix = torch.stack([eye * 4, *bad]).requires_grad_()
    root = spd_root(matrix)
    close(root[0].detach(), 2 * eye)
    assert bool(root[1:].isnan().all())
    (slope,) = torch.autograd.grad(root[0].sum(), matrix)
    assert bool(slope.isfinite().all())
    assert not slope[1:].any()


# Sizes that forbid a rule, dead neurons, other groups


@pytest.mark.parametrize(
    ("rule", "widths", "rows", "message"),
    [
        (Balance(symmetry="auto"), (2, 4, 2), 9, r"after '0': Balance of GL\(h\) .* 3 inputs and 4 neurons.*'scaling'"),
        (Svd(), (4, 4, 6, 2), 9, r"after '1': Svd of GL\(h\) .* 5 inputs and 6 neurons; set its symmetry to 'scaling'"),
        (White(), (4, 4, 2), 3, r"after '0': White .* 3 rows, 5 inputs \(with the bias\) and 4 neurons; use more rows"),
        (White(), (2, 4, 2), 9, r"White .* 9 rows, 3 inputs .* and 4 neurons"),
        (Wout(), (4, 4, 3, 5), 9, r"after '0': Wout .* 3 outputs and 4 neurons; use Balance"),
    ],
)
def test_sizes_that_forbid_a_rule_are_named(rule, widths, rows, message):
    with pytest.raises(SymmetryError, match=message):
        apply(rule, linear(widths, rows=rows))


@pytest.mark.parametrize("name", RULES)
def test_a_dead_neuron_of_a_scaling_layer_stays(name):
    batch = homogeneous((4, 5, 2))
    for key, entries in (("0.weight", [(0, 1)]), ("0.bias", [(0, 1)])):
        for task, neuron in entries:
            batch.params[key][task, neuron] = 0
    batch.params["2.weight"][1, :, 3] = 0
    leaves = {k: p.requires_grad_() for k, p in batch.params.items()}
    there = apply(RULES[name](symmetry="scaling"), replace(batch, params=leaves))
    assert bool(flatten(there).isfinite().all())
    if name != "wout":  # which looks at the outgoing side only
        assert torch.equal(there["2.weight"][0, :, 1], batch.params["2.weight"][0, :, 1])
    if name != "white":
        assert torch.equal(there["0.weight"][1, 3], batch.params["0.weight"][1, 3])
    torch.testing.assert_close(loss_of(batch)(there), loss_of(batch)(batch.params), rtol=1e-10, atol=0)
    for slope in torch.autograd.grad(flatten(there).sum(), list(leaves.values())):
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize(("name", "kind"), [("balance", "general_linear"), ("white", "general_linear")])
def test_a_task_with_a_dead_neuron_of_a_linear_layer_stays(name, kind):
    batch = linear((4, 3, 3), tasks=3)
    batch.params["0.weight"][1, 2] = 0
    batch.params["0.bias"][1, 2] = 0
    inner = InnerOptimizer(GradientDescent(0.01), RULES[name](symmetry=kind)).double()
    unroll, plain = (Unroll(i, batch, 2) for i in (inner, InnerOptimizer(GradientDescent(0.01)).double()))
    end, without = (u.window(u.start(), 2).end for u in (unroll, plain))
    assert end.alive.tolist() == [True, True, True]
    for key, p in end.params.items():
        assert torch.equal(p[1], without.params[key][1])
        assert not torch.equal(p[0], without.params[key][0])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("activation", [nn.ReLU(), None], ids=str)
def test_outgoing_weights_of_zero_are_survived(name, activation):
    """Low-rank adapters begin so."""
    batch = sample_meta_batch(ExampleFamily((3, 4, 5), (activation,), rows=8), "train", range(2)).to(torch.float64)
    batch.params["2.weight" if activation else "1.weight"].zero_()
    inner = InnerOptimizer(GradientDescent(0.1, learn=True), RULES[name](last=None)).double()
    unroll = Unroll(inner, batch, 3)
    window = unroll.window(unroll.start(), 3)
    assert window.end.alive.all()
    (slope,) = torch.autograd.grad(window.meta_losses[-1].sum(), list(inner.parameters()))
    assert bool(slope.isfinite())


@pytest.mark.parametrize("name", RULES)
def test_groups_without_a_closed_form_are_named(name):
    batch = draw_batch(ExampleFamily((3, 3, 2), (nn.LeakyReLU(0.2),)), 2, 0)
    rule = RULES[name](symmetry="data_dependent")
    assert isinstance(rule.group(batch.network).factors[0], BijectiveGL)
    with pytest.raises(
        SymmetryError, match=rf"after '0': {type(rule).__name__} has no closed form for BijectiveGL; set"
    ):
        apply(rule, batch)
    point = Point({"w": torch.ones(1, 2)}, {"w": torch.ones(1, 2)}, torch.zeros(1, 1, 0), 0)
    with pytest.raises(SymmetryError, match="has no closed form for PlaneRotation"):
        rule.element(point, group_of(Booth([0.0, 0.0])), State())


def test_a_mixed_network_gets_each_rule_in_the_form_of_each_layer():
    batch = draw_batch(ExampleFamily((4, 4, 3, 5), (nn.ReLU(), None), rows=20), 2, 0)
    scaling, matrices = group_of(batch.network).factors
    assert isinstance(scaling, PositiveScaling)
    assert isinstance(matrices, GeneralLinear)
    there = apply(Balance(symmetry="auto"), batch)
    incoming, outgoing = (s.diagonal(dim1=1, dim2=2) for s in sides(scaling, there))
    close(incoming, outgoing, 1e-6)
    close(*sides(matrices, there), 1e-6)


# Schedules


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [0]),
        ({"last": None}, [0, 1, 2, 3, 4, 5]),
        ({"last": None, "every": 3}, [0, 3]),
        ({"first": 2, "last": 2}, [2]),
    ],
)
@pytest.mark.parametrize("rule", [Balance, Svd, White, Wout])
def test_rules_act_at_step_0_by_default_or_at_every_kth_step(rule, arguments, steps):
    teleport = rule(**arguments)
    assert [k for k in range(6) if teleport.active(k)] == steps
    batch = homogeneous((4, 5, 3))
    inner = InnerOptimizer(GradientDescent(0.02), teleport).double()
    unroll, lr = Unroll(inner, batch, 6), float(inner.update.log_lr.detach().exp())
    position, moved = unroll.start(), []
    for k in range(6):
        with recorded() as seen:
            end = unroll.window(position, 1).end
        plain = map_params(lambda p, g: p - lr * g, position.params, seen[0][0])
        if (flatten(end.params) - flatten(plain)).norm() > 1e-10:
            moved.append(k)
        position = end
    assert moved == steps


@pytest.mark.parametrize(("rule", "widths"), [(Balance, (4, 4, 3, 2)), (Svd, (4, 4, 3, 2)), (White, (4, 4, 3, 2))])
def test_rules_at_every_step_obey_the_laws(rule, widths):
    check_teleport(rule(last=None), draw_batch(ExampleFamily(widths, rows=8), 2, 0))


@pytest.mark.parametrize("rule", [Balance(symmetry="auto"), Svd()], ids=["balance", "svd"])
def test_a_task_sweeps_as_often_as_alone(rule):
    batch = draw_batch(ExampleFamily((5, 6, 7, 4, 3), (nn.ReLU(), None, None), True, 12), 6, 1)
    whole = apply(rule, batch)
    for i in range(batch.tasks):
        same = torch.full((batch.tasks,), i)  # among its likes: a batch of another size is rounded otherwise
        one = replace(
            batch,
            params={k: p[same] for k, p in batch.params.items()},
            inputs={k: v[same] for k, v in batch.inputs.items()},
        )
        torch.testing.assert_close(flatten(apply(rule, one))[i], flatten(whole)[i], rtol=1e-11, atol=1e-12)
