"""The laws of the two parts of an inner optimizer: updates and teleports."""

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from metatele.landscape import Landscape
from metatele.optimizer import FREE, InnerOptimizer, Moments, Order
from metatele.parts.base import OptimizerPart
from metatele.parts.point import Point, State
from metatele.support.seeding import seeded
from metatele.symmetry import ProductGroup
from metatele.task.batch import MetaBatch
from metatele.task.params import Params, flatten, map_params
from metatele.task.sampling import sample_meta_batch
from metatele.teleports import AlgebraTeleport, OrbitTeleport, Teleport
from metatele.testing.families import ExampleFamily
from metatele.testing.laws import assert_law, one_task, same, same_shapes, untouched
from metatele.unroll.higher.unroll import Unroll
from metatele.update import Adam, Update

AnyPart = TypeVar("AnyPart", bound=OptimizerPart)
COMPOSITIONS: tuple[tuple[Order, Moments], ...] = (
    ("before", "transform"),
    ("before", "reset"),
    ("after", "transform"),
    ("after", "keep"),
)


def check_update(update: Update, batch: MetaBatch | None = None) -> None:
    """Check the contract of an update: pure, stacked, rebuilt from its arguments, runs in an unroll.

    Args:
        update: the update; a copy is used.
        batch: tasks to run on, at least 2; a few of `ExampleFamily` by default.
    Raises: AssertionError that names the broken law.
    """
    name, batch, group = type(update).__name__, _in_float64(batch), ProductGroup()
    update = _bound(update, batch, group)
    point, state = _point(batch, 0), update.start(batch.params)
    with untouched(f"{name}.propose leaves its arguments unchanged", point.params, point.gradient, point.inputs, state):
        with seeded(1):
            step, after = update.propose(point, state)
        with seeded(2):
            again, _ = update.propose(point, state)
    same(step, again, 0, f"{name}: equal arguments give equal steps, whatever torch's global generator")
    assert_law(list(step) == list(batch.params), f"{name}: the step has the parameters' names, in their order")
    for key, p in batch.params.items():
        ok = step[key].shape == p.shape and step[key].dtype == p.dtype and bool(step[key].isfinite().all())
        assert_law(ok, f"{name}: the step of {key!r} has the shape and type of the parameter, and is finite")
    same_shapes(state, after, name)

    def play(part: Update, tasks: MetaBatch) -> Params:
        state = part.start(tasks.params)
        for k in range(3):
            f, state = part.propose(_point(tasks, k), state)
            tasks = replace(tasks, params=map_params(lambda p, q: (p + q).detach(), tasks.params, f))
        return tasks.params

    end = play(update, batch)
    same(play(_rebuilt(update, batch, group), batch), end, 0, f"{name}: arguments() and the weights rebuild the part")
    for i in range(batch.tasks):
        same(play(update, _one(batch, i)), one_task(end, i), 1e-9, f"{name}: steps on a stack = steps on each task")
    _runs_in_unroll(InnerOptimizer(update), batch, 0)


def check_teleport(teleport: Teleport, batch: MetaBatch | None = None) -> None:
    """Check the contract of a teleport: that of an update (see `check_update`), and that it leaves
    the loss unchanged up to its own tolerance, gives the gradient at the new point and, if it moves
    at all, changes the gradient.

    Args:
        teleport: the teleport; a copy is used.
        batch: tasks to run on, at least 2; a few of `ExampleFamily` by default.
    Raises: AssertionError that names the broken law.
    """
    name, batch = type(teleport).__name__, _in_float64(batch)
    group = teleport.group(batch.network)
    teleport = _bound(teleport, batch, group)
    point, state = _point(batch, teleport.first), teleport.start(batch.params, group, batch.seeds)
    with untouched(f"{name} leaves its arguments unchanged", point.params, point.gradient, point.inputs, state):
        with seeded(1):
            there, after, _ = teleport.move(point, group, state, State())
        with seeded(2):
            again, _, _ = teleport.move(point, group, state, State())
    law = f"{name}: equal arguments give equal moves, whatever torch's global generator"
    same([there.params, there.gradient], [again.params, again.gradient], 0, law)
    same_shapes(state, after, name)
    landscape = _landscape(batch)
    losses = landscape.loss(there.params).detach()
    same(losses, landscape.loss(batch.params), max(teleport.tolerance, 1e-9), f"{name}: the loss is unchanged")
    true = landscape.gradient(map_params(torch.detach, there.params))
    same(there.gradient, true, 1e-7, f"{name}: the gradient it gives is that of the loss at the new point")
    if teleport.moves:
        change = (flatten(there.gradient) - flatten(point.gradient)).norm()
        assert_law(bool(change > 1e-6 * flatten(point.gradient).norm()), f"{name}: the gradient changes")
    nobody = torch.zeros(batch.tasks, dtype=torch.bool)
    stay = teleport.move(point, group, state, State(), nobody)[0].params
    same(stay, batch.params, 1e-12, f"{name}: tasks that are not alive stay where they are")
    if isinstance(teleport, OrbitTeleport):
        _check_elements(teleport, point, group, state)

    def play(part: Teleport, tasks: MetaBatch) -> Params:
        state = part.start(tasks.params, group, tasks.seeds)
        for k in range(part.first, part.first + 3):
            there, state, _ = part.move(_point(tasks, k), group, state, State())
            step = map_params(lambda p, q: (p - 0.01 * q).detach(), there.params, there.gradient)
            tasks = replace(tasks, params=step)
        return tasks.params

    end = play(teleport, batch)
    same(play(_rebuilt(teleport, batch, group), batch), end, 0, f"{name}: arguments() and the weights rebuild it")
    for i in range(batch.tasks):
        same(play(teleport, _one(batch, i)), one_task(end, i), 1e-8, f"{name}: moves of a stack = moves of each task")
    for order, moments in COMPOSITIONS if isinstance(teleport, OrbitTeleport) or not teleport.moves else FREE:
        inner = InnerOptimizer(Adam(0.01), teleport, order, moments)
        _runs_in_unroll(inner, batch, teleport.first)


def _check_elements(teleport: OrbitTeleport, point: Point, group: ProductGroup, state: State) -> None:
    """What an orbit teleport chooses are elements of the group, and its observer is told of those that act."""
    name = type(teleport).__name__
    element, _ = teleport.element(teleport.look(point, state), group, state)
    assert_law(len(element) == len(group.factors), f"{name}: one group element for each factor of the group")
    for g, factor in zip(element, group.factors, strict=True):
        unit = factor.identity(point.inputs)
        same(factor.compose(unit, g), g, 1e-12, f"{name}: its elements are those of the group, which has 1 g = g")
    if isinstance(teleport, AlgebraTeleport):
        algebra, _ = teleport.choose(teleport.look(point, state), group, state)
        same(group.exp(algebra), element, 0, f"{name}: its elements are exp of what it chooses")
    seen: list[tuple[int, ProductGroup, list[Tensor]]] = []
    told, one = copy.deepcopy(teleport), torch.arange(len(point.inputs)) == 0
    told.observer = lambda *what: seen.append(what)
    there = told.move(point, group, state, State(), one)[0]
    assert_law([s for s, *_ in seen] == [point.step], f"{name}: its observer is told of every move, once")
    law = f"{name}: what its observer is told is the element that acts"
    same(group.act(seen[0][2], point.params, teleport.look(point, state).inputs), there.params, 1e-12, law)


def _in_float64(batch: MetaBatch | None) -> MetaBatch:
    batch = sample_meta_batch(ExampleFamily(), "train", range(3)) if batch is None else batch
    return replace(batch, network=copy.deepcopy(batch.network)).to(torch.float64)


def _bound(part: AnyPart, batch: MetaBatch, group: ProductGroup) -> AnyPart:
    """A copy of the part in float64, fitted to the network."""
    part = copy.deepcopy(part)
    with seeded(0):  # a part may draw its weights only now
        part.bind(batch.params, group)
    return part.double()


def _rebuilt(part: AnyPart, batch: MetaBatch, group: ProductGroup) -> AnyPart:
    """The part made again from its arguments and weights, as a checkpoint would."""
    name = type(part).__name__
    try:
        arguments = part.arguments()
    except AttributeError as error:
        raise AssertionError(f"broken law: {name} keeps every constructor argument as an attribute: {error}") from error
    with seeded(3):
        twin = _bound(type(part)(**arguments), batch, group)
    twin.load_state_dict(part.state_dict())
    return twin


def _landscape(batch: MetaBatch) -> Landscape:
    return Landscape(batch.network, batch.family.loss, *batch.rows("inner"))


def _point(batch: MetaBatch, step: int) -> Point:
    here = _landscape(batch)
    gradient = map_params(torch.detach, here.gradient(map_params(torch.detach, batch.params)))
    return Point(batch.params, gradient, here.inputs, step, here, here)


def _one(batch: MetaBatch, i: int) -> MetaBatch:
    inputs, targets = ({k: v[i : i + 1] for k, v in side.items()} for side in (batch.inputs, batch.targets))
    return replace(
        batch, params=one_task(batch.params, i), inputs=inputs, targets=targets, seeds=batch.seeds[i : i + 1]
    )


def _runs_in_unroll(inner: InnerOptimizer, batch: MetaBatch, first: int) -> None:
    """Two steps from step `first`, twice: finite, equal, and with a finite meta-gradient."""
    name = f"{type(inner.update).__name__} with {type(inner.teleport).__name__} ({inner.order}, {inner.moments})"
    unroll = Unroll(inner, batch, first + 2, second_order=True)
    begin = replace(unroll.start(), step=first)
    losses = [unroll.window(begin, 2, differentiable).meta_losses for differentiable in (True, False)]
    assert_law(bool(losses[0].isfinite().all()), f"{name}: runs in an unroll with finite losses")
    same(losses[1], losses[0], 1e-10, f"{name}: an unroll gives equal losses with and without its graph")
    learned = [p for p in inner.parameters() if p.requires_grad]
    if learned:
        grads = torch.autograd.grad(losses[0].sum(), learned, allow_unused=True)
        assert_law(any(g is not None for g in grads), f"{name}: the meta-loss depends on the learned weights")
        finite = all(bool(g.isfinite().all()) for g in grads if g is not None)
        assert_law(finite, f"{name}: the meta-gradient is finite")
