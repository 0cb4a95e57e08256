"""Updates, teleports, and what an inner optimizer makes of the two."""

import itertools
from dataclasses import replace

import pytest
import torch
from metatele.tasks import TeacherStudent
from torch import nn

from metatele import (
    Adam,
    Balance,
    CheckpointError,
    ConfigError,
    CoordinateUpdate,
    DenseStepSize,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    Momentum,
    NeuronTeleport,
    RandomTeleport,
    Stay,
    SymmetryError,
    Teleport,
    TorchUpdate,
    Unroll,
    Update,
    sample_meta_batch,
)
from metatele.parts.point import Point, State
from metatele.symmetry import PositiveScaling, group_of
from metatele.task.params import Params, flatten, map_params
from metatele.task.stack import stacked_forward
from metatele.testing import ExampleFamily, gradient_of

ORDERS = ["before", "after"]


def point_of(batch, params: Params | None = None, step: int = 0) -> Point:
    params = batch.params if params is None else params
    x, y = batch.rows("inner")
    gradient = gradient_of(lambda p: batch.losses(stacked_forward(batch.network, p, x), y), params)
    return Point(params, gradient, x, step)


def bound(inner: InnerOptimizer, batch, seed: int = 0):
    """The inner optimizer in float64 with reproducible weights, and its group."""
    group = inner.bind(batch.network, batch.params)
    inner.double()
    inner.initialise(seed)
    return inner, group


@pytest.mark.parametrize("kind", ["auto", "scaling", "general_linear", "data_dependent"])
def test_teleporting_before_sees_the_gradient_at_the_new_point(make_batch, kind):
    batch = make_batch()
    inner, group = bound(InnerOptimizer(GradientDescent(0.1), RandomTeleport(0.1, kind), "before"), batch)
    state = inner.start(batch.params, group, batch.seeds)
    new, _ = inner.step(point_of(batch), group, state)
    element, _ = inner.teleport.element(point_of(batch), group, state.teleport)
    there = point_of(batch, group.act(element, batch.params, batch.inputs["inner"]))
    expected = map_params(lambda p, g: p - 0.1 * g, there.params, there.gradient)
    torch.testing.assert_close(flatten(new), flatten(expected), rtol=1e-8, atol=1e-10)
    assert (flatten(there.gradient) - flatten(point_of(batch).gradient)).norm() > 1e-3


@pytest.mark.parametrize("kind", ["auto", "data_dependent"])
def test_teleporting_after_is_the_papers_order(make_batch, kind):
    batch = make_batch()
    inner, group = bound(InnerOptimizer(GradientDescent(0.1), RandomTeleport(0.1, kind), "after"), batch)
    state, here = inner.start(batch.params, group, batch.seeds), point_of(batch)
    new, _ = inner.step(here, group, state)
    element, _ = inner.teleport.element(here, group, state.teleport)
    stepped = map_params(lambda p, g: p - 0.1 * g, here.params, here.gradient)
    expected = group.act(element, stepped, here.inputs)
    torch.testing.assert_close(flatten(new), flatten(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("update", [Momentum(0.01), Adam(0.01)], ids=["momentum", "adam"])
def test_scaling_carries_the_moments_exactly(make_batch, update, order):
    """Moments of gradients at theta, carried, are the moments of the gradients at g theta."""
    batch = make_batch()
    inner, group = bound(InnerOptimizer(update, RandomTeleport(0.3, "scaling"), order), batch)
    state, here = inner.start(batch.params, group, batch.seeds), point_of(batch)
    element, _ = inner.teleport.element(here, group, state.teleport)
    start = here.params
    if order == "after":  # the teleport acts on the point after the step, the moment is from before it
        f, _ = update.propose(here, state.update)
        start = map_params(torch.add, start, f)
    _, after = inner.step(here, group, state)
    there = group.act(element, start, here.inputs)
    # The action is diagonal, so one gradient at g theta per gradient at theta, factor by factor.
    _, (carried,), _ = group.carry(element, start, here.inputs, [here.gradient])
    twin = update.propose(Point(there, carried, here.inputs, 0), update.start(there))[1]
    for found, expected in zip(
        (*after.update.covectors, *after.update.squares), (*twin.covectors, *twin.squares), strict=True
    ):
        torch.testing.assert_close(flatten(found), flatten(expected), rtol=1e-12, atol=1e-15)
    if order == "before":
        true = point_of(batch, there).gradient
        torch.testing.assert_close(flatten(carried), flatten(true), rtol=1e-9, atol=1e-12)


def test_one_teleport_before_the_first_step_is_another_starting_point(make_batch):
    batch = make_batch()
    inner, group = bound(InnerOptimizer(Momentum(0.02), RandomTeleport(0.3, "scaling", last=0), "before"), batch)
    unroll = Unroll(inner, batch, 5)
    found = unroll.window(unroll.start(), 5).end.params
    state = inner.start(batch.params, group, batch.seeds)
    element, _ = inner.teleport.element(point_of(batch), group, state.teleport)
    moved = replace(batch, params=group.act(element, batch.params, batch.inputs["inner"]))
    plain = Unroll(InnerOptimizer(Momentum(0.02)), moved, 5)
    expected = plain.window(plain.start(), 5).end.params
    torch.testing.assert_close(flatten(found), flatten(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "last", "moving"), [(0, None, range(6)), (2, 3, [2, 3]), (4, None, [4, 5]), (0, 0, [0])]
)
@pytest.mark.parametrize("order", ORDERS)
def test_teleports_act_in_their_range_of_steps_only(make_batch, order, first, last, moving):
    batch = make_batch()
    teleported, group = bound(
        InnerOptimizer(GradientDescent(0.1), RandomTeleport(0.3, first=first, last=last), order), batch
    )
    plain, nothing = bound(InnerOptimizer(GradientDescent(0.1)), batch)
    for step in range(6):
        point = point_of(batch, step=step)
        ends = []
        for inner, g in ((teleported, group), (plain, nothing)):
            ends.append(inner.step(point, g, inner.start(batch.params, g, batch.seeds))[0])
        assert torch.equal(flatten(ends[0]), flatten(ends[1])) == (step not in moving)


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [(-1, None, "first must be .* got -1"), (3, 2, "first=3, last=2"), (0.5, None, "got 0.5")],
)
def test_an_impossible_range_is_refused(first, last, message):
    with pytest.raises(ConfigError, match=message):
        RandomTeleport(first=first, last=last)


def test_balance_equalises_the_norms_of_every_neuron(make_batch):
    batch = make_batch(widths=(4, 5, 2), activations=(nn.ReLU(),))
    inner, group = bound(InnerOptimizer(GradientDescent(), Balance()), batch)
    element, _ = inner.teleport.element(point_of(batch), group, State())
    moved = group.act(element, batch.params, batch.inputs["inner"])
    (factor,) = group.factors
    incoming, outgoing = factor.norms(moved)
    torch.testing.assert_close(incoming, outgoing, rtol=1e-10, atol=0)
    before = factor.norms(batch.params)
    assert (before[0] / before[1]).log().abs().max() > 0.1
    torch.testing.assert_close(incoming * outgoing, before[0] * before[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("dead", ["0.weight", "2.weight", "both"])
@pytest.mark.parametrize("teleport", [Balance(last=None), NeuronTeleport(4)], ids=["balance", "neuron"])
def test_a_dead_neuron_gives_no_nan(make_batch, dead, teleport):
    batch = make_batch(widths=(4, 5, 2), activations=(nn.ReLU(),))
    for name in ("0.weight", "2.weight") if dead == "both" else (dead,):
        side = batch.params[name][:, 1] if name == "0.weight" else batch.params[name][:, :, 1]
        side.zero_()
    batch.params["0.bias"][:, 1] = 0
    for order in ORDERS:
        inner, group = bound(InnerOptimizer(GradientDescent(0.1, learn=True), teleport, order), batch)
        element, _ = inner.teleport.element(
            point_of(batch), group, inner.start(batch.params, group, batch.seeds).teleport
        )
        assert bool(element[0].isfinite().all())
        if isinstance(teleport, Balance):
            assert element[0][:, 1].tolist() == [1.0, 1.0]
        unroll = Unroll(inner, batch, 4, second_order=True)
        window = unroll.window(unroll.start(), 4)
        assert bool(window.meta_losses.isfinite().all())
        learned = [p for p in inner.parameters() if p.requires_grad]
        for gradient in torch.autograd.grad(window.meta_losses.sum(), learned):
            assert bool(gradient.isfinite().all())


def test_teleports_of_neurons_need_scalings(make_batch):
    batch = make_batch()
    with pytest.raises(SymmetryError, match=r"NeuronTeleport needs positive scaling.*GeneralLinear"):
        NeuronTeleport(4).element(point_of(batch), group_of(batch.network, "auto"), State())


class Own(Teleport):
    """A teleport without a group that stays where it is."""

    __module__ = "tests"

    def move(self, point, group, state, moments, alive=None, onto=None):
        return point, state, moments


# What becomes of the update's state at a teleport


UPDATES_WITH_STATE = {
    "momentum": lambda: Momentum(0.02),
    "adam": lambda: Adam(0.02),
    "adamw": lambda: TorchUpdate("AdamW", {"lr": 0.02}),
    "adagrad": lambda: TorchUpdate("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.2}),
    "coordinate": lambda: CoordinateUpdate(4),
    "global": lambda: GlobalStepSize(4),
}


def trajectory(inner, batch, steps, start=None):
    """The positions after each step, from the start on."""
    inner, _ = bound(inner, batch)
    unroll = Unroll(inner, batch, 12)
    positions = [unroll.start() if start is None else start]
    for _ in range(steps):
        positions.append(unroll.window(positions[-1], 1, differentiable=False).end)
    return positions


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", UPDATES_WITH_STATE)
def test_after_a_reset_the_update_goes_on_as_a_new_one(make_batch, name, order):
    """Also as to Adam's correction for its zero start, and what an LSTM knows of the time."""
    batch, make = make_batch(), UPDATES_WITH_STATE[name]
    inner = InnerOptimizer(make(), RandomTeleport(0.2, first=3, last=3), order, "reset")
    positions = trajectory(inner, batch, 7)
    assert positions[3].state.since == 0
    assert positions[7].state.since == (3 if order == "before" else 4)
    if order == "before":
        group = inner.bind(batch.network, batch.params)
        point = point_of(batch, positions[3].params, 3)
        element, _ = inner.teleport.element(point, group, positions[3].state.teleport)
        begin, steps = group.act(element, point.params, point.inputs), 4
    else:
        begin, steps = positions[4].params, 3
    expected = trajectory(InnerOptimizer(make()), replace(batch, params=begin), steps)[-1]
    torch.testing.assert_close(flatten(positions[7].params), flatten(expected.params), rtol=1e-9, atol=1e-11)
    kept = trajectory(InnerOptimizer(make(), RandomTeleport(0.2, first=3, last=3), order, "keep"), batch, 7)
    assert (flatten(kept[-1].params) - flatten(expected.params)).norm() > 1e-6


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "adagrad"])
def test_the_state_after_a_teleport(make_batch, name, moments, order):
    batch = make_batch()
    inner = InnerOptimizer(UPDATES_WITH_STATE[name](), RandomTeleport(0.2, "scaling", first=3), order, moments)
    position = trajectory(inner, batch, 3)[-1]
    group, point, state = inner.bind(batch.network, batch.params), point_of(batch, position.params, 3), position.state
    element, _ = inner.teleport.element(point, group, state.teleport)
    after, start = inner.step(point, group, state)[1].update, point.params
    if order == "after":
        f, state_after = inner.update.propose(point, state.update)
        old, start = state_after, map_params(torch.add, start, f)
    else:
        old = state.update
    there, covectors, squares = group.carry(element, start, point.inputs, old.covectors, old.squares)
    expected = {
        "transform": State(tuple(covectors), tuple(squares), old.memory),
        "keep": old,
        "reset": inner.update.start(there),
    }[moments]
    if order == "before":
        gradient = point_of(batch, there).gradient
        step = 0 if moments == "reset" else 3
        expected = inner.update.propose(Point(there, gradient, point.inputs, step), expected)[1]
    pairs = list(zip((*after.covectors, *after.squares), (*expected.covectors, *expected.squares), strict=True))
    assert pairs
    for found, wanted in pairs:
        torch.testing.assert_close(flatten(found), flatten(wanted), rtol=1e-8, atol=1e-12)


def test_all_choices_agree_where_there_is_no_state(make_batch):
    batch, ends = make_batch(), []
    for moments in ("transform", "keep", "reset"):
        inner = InnerOptimizer(GradientDescent(0.1), RandomTeleport(0.2), "before", moments)
        ends.append(flatten(trajectory(inner, batch, 5)[-1].params))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
def test_windows_chain_across_a_reset(make_batch, moments):
    batch = make_batch()
    inner, _ = bound(InnerOptimizer(Adam(0.02), RandomTeleport(0.2, every=3), "after", moments), batch)
    unroll = Unroll(inner, batch, 7)
    whole = unroll.window(unroll.start(), 7)
    first = unroll.window(unroll.start(), 4)
    assert torch.equal(unroll.window(first.end, 3).meta_losses, whole.meta_losses[4:])


def test_a_teleport_without_a_group_cannot_transform(make_batch):
    for order, moments in (("before", "transform"), ("after", "keep"), ("after", "reset")):
        with pytest.raises(ConfigError, match=f"Own uses no group.*order='{order}', moments='{moments}'; set"):
            InnerOptimizer(Adam(), Own(), order, moments)
    batch, plain = make_batch(), trajectory(InnerOptimizer(Adam(0.02)), make_batch(), 4)[-1]
    kept = trajectory(InnerOptimizer(Adam(0.02), Own(), "before", "keep"), batch, 4)[-1]
    assert torch.equal(flatten(kept.params), flatten(plain.params))
    anew = trajectory(InnerOptimizer(Adam(0.02), Own(), "before", "reset"), batch, 4)[-1]
    assert not torch.equal(flatten(anew.params), flatten(plain.params))
    InnerOptimizer(Adam(), Stay(), "after", "transform")


def test_random_teleports_are_the_tasks_own():
    whole = sample_meta_batch(ExampleFamily(), "train", [4, 1, 9]).to(torch.float64)
    inner, group = bound(InnerOptimizer(GradientDescent(), RandomTeleport()), whole)
    elements = []
    for step in range(3):
        element, _ = inner.teleport.element(point_of(whole, step=step), group, State(memory=(whole.seeds,)))
        elements.append(element)
        for i, index in enumerate([4, 1, 9]):
            alone = sample_meta_batch(ExampleFamily(), "train", [index]).to(torch.float64)
            one, _ = inner.teleport.element(point_of(alone, step=step), group, State(memory=(alone.seeds,)))
            for g, h in zip(element, one, strict=True):
                torch.testing.assert_close(g[i], h[0], rtol=1e-13, atol=1e-15)
    for a, b in itertools.combinations([e[0] for e in elements], 2):
        assert not torch.equal(a, b), "steps draw anew"
    assert not torch.equal(elements[0][0][0], elements[0][0][1]), "tasks draw apart"


@pytest.mark.parametrize("make", [lambda: DenseUpdate(4), lambda: DenseStepSize(4), lambda: DenseTeleport(4)])
def test_a_dense_part_is_tied_to_its_size(make_batch, make):
    part = make()
    inner = InnerOptimizer(part) if isinstance(part, Update) else InnerOptimizer(GradientDescent(), part)
    inner.bind((small := make_batch()).network, small.params)
    assert part.shapes["0.weight"] == [4, 4]
    inner.bind(small.network, small.params)
    other = make_batch(widths=(4, 5, 3, 2))
    with pytest.raises(CheckpointError, match=r"'0\.weight': \[4, 4\].*'0\.weight': \[5, 4\].*size-free"):
        inner.bind(other.network, other.params)


def test_a_dense_teleport_is_tied_to_its_group(make_batch):
    teleport, batch = DenseTeleport(4), make_batch()
    teleport.bind(batch.params, group_of(batch.network, "auto"))
    with pytest.raises(CheckpointError, match=r"\[\[4\], \[3, 3\]\] and cannot run on \[\[4\], \[3\]\]"):
        teleport.bind(batch.params, group_of(batch.network, "scaling"))


@pytest.mark.parametrize("update", [CoordinateUpdate(4), GlobalStepSize(4)], ids=["coordinate", "global"])
def test_size_free_parts_run_on_other_widths_and_depths(make_batch, update):
    inner = InnerOptimizer(update, NeuronTeleport(4))
    for widths in ((4, 4, 2), (3, 7, 2, 5, 1), (6, 2, 3, 3)):
        batch = make_batch(widths=widths, activations=(nn.ReLU(),) * (len(widths) - 2))
        unroll = Unroll(bound(inner, batch)[0], batch, 4)
        window = unroll.window(unroll.start(), 4)
        assert bool(window.meta_losses.isfinite().all())
        assert not torch.equal(window.meta_losses[0], window.meta_losses[-1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias", [True, False])
def test_size_free_parts_do_not_see_the_numbering_of_neurons(make_batch, order, bias):
    widths = (4, 6, 5, 2)
    batch = make_batch(tasks=3, widths=widths, activations=(nn.ReLU(), nn.LeakyReLU(0.1)), bias=bias)
    stream = torch.Generator().manual_seed(3)
    first, second = (torch.randperm(n, generator=stream) for n in (6, 5))

    def renumber(params: Params) -> Params:
        new = dict(params)
        for inward, outward, order_ in (("0", "2", first), ("2", "4", second)):
            new[f"{inward}.weight"] = new[f"{inward}.weight"][:, order_]
            if bias:
                new[f"{inward}.bias"] = new[f"{inward}.bias"][:, order_]
            new[f"{outward}.weight"] = new[f"{outward}.weight"][:, :, order_]
        return new

    inner, _ = bound(InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4), order), batch)
    renumbered = replace(batch, params=renumber(batch.params))
    windows = []
    for tasks in (batch, renumbered):
        unroll = Unroll(inner, tasks, 5)
        windows.append(unroll.window(unroll.start(), 5))
    torch.testing.assert_close(windows[1].meta_losses, windows[0].meta_losses, rtol=1e-9, atol=0)
    expected = renumber(windows[0].end.params)
    torch.testing.assert_close(flatten(windows[1].end.params), flatten(expected), rtol=1e-8, atol=1e-10)
    assert not torch.allclose(flatten(expected), flatten(windows[0].end.params))


PAIRS = [
    lambda: InnerOptimizer(DenseUpdate(4), DenseTeleport(4)),
    lambda: InnerOptimizer(DenseStepSize(4), DenseTeleport(4, size="fixed")),
    lambda: InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4)),
    lambda: InnerOptimizer(GlobalStepSize(4), NeuronTeleport(4)),
    lambda: InnerOptimizer(GradientDescent(0.3, learn=True), Stay()),
]


@pytest.mark.parametrize("make", PAIRS)
def test_initialise_depends_on_its_seed_only(make_batch, make):
    batch = make_batch()
    weights = []
    for seed in (1, 1, 2):
        torch.rand(7)
        inner = make()
        inner.bind(batch.network, batch.params)
        before = torch.get_rng_state()
        inner.initialise(seed)
        assert torch.equal(before, torch.get_rng_state())
        weights.append(torch.cat([p.detach().flatten() for p in inner.parameters()]))
    assert torch.equal(weights[0], weights[1])
    if len(weights[0]) > 1:
        assert not torch.equal(weights[0], weights[2])
    else:
        assert weights[0].exp().tolist() == pytest.approx([0.3])


def test_whether_there_is_something_to_learn():
    assert not InnerOptimizer(GradientDescent(), Stay()).learned
    assert not InnerOptimizer(Adam(), RandomTeleport()).learned
    assert InnerOptimizer(GradientDescent(learn=True)).learned
    assert InnerOptimizer(GradientDescent(), NeuronTeleport()).learned
    assert InnerOptimizer(CoordinateUpdate()).learned


def test_a_teleport_on_a_network_without_symmetry_is_an_error(make_batch):
    batch = make_batch(widths=(4, 3, 2), activations=(nn.Tanh(),))
    with pytest.raises(SymmetryError, match="Tanh"):
        InnerOptimizer(GradientDescent(), NeuronTeleport()).bind(batch.network, batch.params)
    assert InnerOptimizer(GradientDescent(), Stay()).bind(batch.network, batch.params).factors == ()


def test_the_norm_of_a_dense_teleport(make_batch):
    batch = make_batch()
    for size, norm in (("fixed", 0.01), ("learned", 0.2)):
        inner, group = bound(InnerOptimizer(GradientDescent(), DenseTeleport(4, norm=norm, size=size)), batch)
        state = inner.start(batch.params, group, batch.seeds).teleport
        element, _ = inner.teleport.element(point_of(batch), group, state)
        for g, factor in zip(element, group.factors, strict=True):
            if isinstance(factor, PositiveScaling):
                length = g.log().norm(dim=1)
                if size == "fixed":
                    torch.testing.assert_close(length, torch.full_like(length, norm), rtol=1e-9, atol=0)
                else:
                    assert bool((length < norm).all())
                    assert bool((length > 0).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(0.0), "lr must be above 0 and finite, got 0.0"),
        (lambda: GradientDescent(float("inf")), "got inf"),
        (lambda: Momentum(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: Adam(betas=(0.9, 1.5)), "second_beta must be in .* got 1.5"),
        (lambda: CoordinateUpdate(hidden=0), "hidden must be .* got 0"),
        (lambda: GlobalStepSize(layers=0), "layers must be .* got 0"),
        (lambda: NeuronTeleport(hidden=-1), "hidden must be .* got -1"),
        (lambda: DenseUpdate(hidden=0), "hidden must be .* got 0"),
        (lambda: DenseUpdate(inputs="log"), "raw, normalised, got 'log'"),
        (lambda: DenseStepSize(smallest=1.0, largest=0.1), "got 1.0 and 0.1"),
        (lambda: DenseStepSize(bound="tanh"), "got 'tanh'"),
        (lambda: DenseTeleport(norm=0.0), "got 0.0"),
        (lambda: DenseTeleport(size="free"), "got 'free'"),
        (lambda: NeuronTeleport(bound=-1.0), "got -1.0"),
        (lambda: InnerOptimizer(GradientDescent(), order="between"), "got 'between'"),
        (lambda: InnerOptimizer(GradientDescent(), moments="forget"), "transform, keep, reset, got 'forget'"),
    ],
)
def test_an_impossible_setting_is_refused_with_its_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_balance_rule_balances_every_layer_of_a_deep_network(depth):
    batch = sample_meta_batch(TeacherStudent(depth=depth, spread=10), "train", range(3)).to(torch.float64)
    inner = InnerOptimizer(GradientDescent(), Balance())
    group = inner.bind(batch.network, batch.params)
    point = point_of(batch)
    element, _ = inner.teleport.element(point, group, State())
    moved = group.act(element, batch.params, point.inputs)
    for factor in group.factors:
        incoming, outgoing = factor.norms(moved)
        torch.testing.assert_close(incoming, outgoing, rtol=1e-9, atol=0)


def test_a_random_teleport_does_not_repeat_the_draws_of_the_task():
    family = ExampleFamily()
    batch = sample_meta_batch(family, "train", range(2))
    inner = InnerOptimizer(GradientDescent(), RandomTeleport(1.0, "scaling"))
    group = inner.bind(batch.network, batch.params)
    element, _ = inner.teleport.element(point_of(batch), group, inner.start(batch.params, group, batch.seeds).teleport)
    for task, seed in enumerate(batch.seeds.tolist()):
        drawn = torch.randn(len(element[0][task]), generator=torch.Generator().manual_seed(seed))
        assert not torch.allclose(element[0][task].log(), drawn.to(element[0].dtype), atol=1e-3)


def test_parts_of_the_wrong_kind_are_refused():
    with pytest.raises(ConfigError, match=r"^expected an instance of Update, got NeuronTeleport\(\.\.\.\)$"):
        InnerOptimizer(NeuronTeleport(), CoordinateUpdate())
    with pytest.raises(ConfigError, match="expected an instance of Teleport, got <class"):
        InnerOptimizer(CoordinateUpdate(), NeuronTeleport)
