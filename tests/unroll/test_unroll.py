"""The unroll against torch's own optimizers, its windows, and tasks that diverge."""

import gc
from dataclasses import replace

import pytest
import torch
from metatele.tasks import PaperRegression, TeacherStudent
from torch import nn

from metatele import (
    Adam,
    ConfigError,
    CoordinateUpdate,
    DenseStepSize,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaBatch,
    Momentum,
    NeuronTeleport,
    OrbitTeleport,
    Outcome,
    RandomTeleport,
    Stay,
    TaskFamily,
    Unroll,
    sample_meta_batch,
)
from metatele.task.params import flatten, map_params
from metatele.task.stack import stacked_forward
from metatele.unroll.higher.inner_step import DifferentiableInnerStep
from tests.unroll.replay import recorded, replayed

STEPS = 12
LEARNED = {
    "dense": lambda: InnerOptimizer(DenseUpdate(4), DenseTeleport(4), "before"),
    "dense lr": lambda: InnerOptimizer(DenseStepSize(4), DenseTeleport(4, size="fixed"), "after"),
    "size-free": lambda: InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4), "before"),
    "size-free, after": lambda: InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4), "after"),
    "global lr": lambda: InnerOptimizer(GlobalStepSize(4), RandomTeleport(), "before"),
}


def ready(inner: InnerOptimizer, batch: MetaBatch, seed: int = 0) -> InnerOptimizer:
    """Bind in float64 with reproducible weights."""
    inner.bind(batch.network, batch.params)
    inner.double()
    inner.initialise(seed)
    return inner


def play_torch(optimizer, batch: MetaBatch, task: int, steps: int) -> tuple[torch.Tensor, list[float]]:
    """Displacement of one task's parameters, and its losses, by an ordinary training loop."""
    network = batch.family.network().double()
    network.load_state_dict({k: p[task] for k, p in batch.params.items()})
    x, y = batch.inputs["inner"][task], batch.targets["inner"][task]
    index = batch.minibatches("inner")
    start = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    opt, losses = optimizer(network.parameters()), []
    for k in range(steps):
        rows = slice(None) if index is None else index[k][task]
        loss = batch.family.loss(network(x[rows]), y[rows])
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        opt.step()
    return nn.utils.parameters_to_vector(network.parameters()).detach() - start, losses


@pytest.mark.parametrize("data", [{}, {"rows": 10, "batch_size": 3}], ids=["full batch", "minibatches"])
@pytest.mark.parametrize(
    ("update", "reference"),
    [
        (GradientDescent(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (Momentum(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8)),
        (Adam(0.02, (0.8, 0.95)), lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.95))),
    ],
    ids=["gd", "momentum", "adam"],
)
def test_hand_designed_updates_are_torchs(make_batch, update, reference, data):
    batch = make_batch(tasks=3, **data)
    unroll = Unroll(ready(InnerOptimizer(update), batch), batch, STEPS)
    window = unroll.window(unroll.start(), STEPS)
    moved = flatten(window.end.params) - flatten(batch.params)
    for task in range(3):
        displacement, losses = play_torch(reference, batch, task, STEPS)
        assert displacement.norm() > 0.01
        torch.testing.assert_close(moved[task], displacement, rtol=1e-9, atol=1e-12)
        assert window.inner_losses[:, task].tolist() == pytest.approx(losses, rel=1e-10)


def test_an_unroll_of_one_task_is_a_loop_written_by_hand(make_batch):
    batch = make_batch(tasks=1)
    unroll = Unroll(ready(InnerOptimizer(GradientDescent(0.1)), batch), batch, 3)
    window = unroll.window(unroll.start(), 3)
    network = batch.network
    network.load_state_dict({k: p[0] for k, p in batch.params.items()})
    losses, norms = [], []
    for _ in range(4):
        loss = batch.family.loss(network(batch.inputs["inner"][0]), batch.targets["inner"][0])
        grads = torch.autograd.grad(loss, list(network.parameters()))
        losses.append(loss.item())
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
        with torch.no_grad():
            for p, g in zip(network.parameters(), grads, strict=True):
                p -= 0.1 * g
    assert window.inner_losses[:, 0].tolist() == pytest.approx(losses[:3], rel=1e-12)
    assert window.meta_losses[:, 0].tolist() == pytest.approx(losses[1:], rel=1e-12)
    assert window.gradient_norms[:, 0].tolist() == pytest.approx(norms[:3], rel=1e-12)


@pytest.mark.parametrize("data", [{}, {"rows": 12, "batch_size": 4, "parts": (0.5, 0.25, 0.25)}], ids=["full", "mini"])
@pytest.mark.parametrize("name", LEARNED)
def test_chained_windows_are_one_long_window(make_batch, name, data):
    batch = make_batch(tasks=3, **data)
    unroll = Unroll(ready(LEARNED[name](), batch), batch, 7)
    whole = unroll.window(unroll.start(), 7)
    position, pieces = unroll.start(), []
    for length in (3, 1, 3):
        pieces.append(unroll.window(position, length))
        position = pieces[-1].end
    assert torch.equal(torch.cat([w.meta_losses for w in pieces]), whole.meta_losses)
    assert torch.equal(torch.cat([w.inner_losses for w in pieces]), whole.inner_losses)
    assert torch.equal(torch.cat([w.gradient_norms for w in pieces]), whole.gradient_norms)
    assert torch.equal(flatten(position.params), flatten(whole.end.params))
    assert position.step == whole.end.step == 7


@pytest.mark.parametrize("symmetry", ["auto", "scaling", "general_linear", "data_dependent"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_numbers_do_not_depend_on_the_graph(make_batch, symmetry, order):
    # Two layers on the data: what one factor passes on has entered what the next one moves.
    if symmetry == "data_dependent":
        batch = make_batch(widths=(3, 3, 3, 2), activations=(nn.LeakyReLU(0.2),) * 2)
    else:
        batch = make_batch()
    inner = ready(InnerOptimizer(Momentum(0.05), DenseTeleport(4, symmetry=symmetry), order), batch)
    windows = []
    for second_order, differentiable in ((True, True), (False, True), (True, False)):
        unroll = Unroll(inner, batch, 4, second_order)
        windows.append(unroll.window(unroll.start(), 4, differentiable))
    for window in windows[1:]:
        torch.testing.assert_close(window.meta_losses.detach(), windows[0].meta_losses.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(window.gradient_norms, windows[0].gradient_norms, rtol=1e-12, atol=0)


def test_the_inner_gradient_is_the_gradient_at_the_parameters(make_batch):
    batch = make_batch(widths=(3, 3, 3, 2), activations=(nn.LeakyReLU(0.2),) * 2)
    inner = ready(InnerOptimizer(GradientDescent(0.05), DenseTeleport(4, symmetry="data_dependent"), "after"), batch)
    unroll = Unroll(inner, batch, 3)
    with recorded() as seen:
        unroll.window(unroll.start(), 3)
    begin = unroll.start()
    for k in range(3):
        with recorded() as alone:
            begin = unroll.window(begin, 1).end
        torch.testing.assert_close(flatten(seen[k][0]), flatten(alone[0][0]), rtol=1e-10, atol=1e-14)


def test_a_position_is_detached_from_the_past(make_batch):
    batch = make_batch()
    inner = ready(LEARNED["size-free"](), batch)
    unroll = Unroll(inner, batch, 4, second_order=True)
    first = unroll.window(unroll.start(), 2)
    state = first.end.state
    tensors = [*first.end.params.values(), *state.update.memory, *state.teleport.memory]
    tensors += [t for p in (*state.update.covectors, *state.update.squares) for t in p.values()]
    assert first.meta_losses.requires_grad
    assert not any(t.requires_grad for t in (*tensors, first.inner_losses, first.gradient_norms))
    # The graph of the first window may be freed before the second is differentiated.
    torch.autograd.grad(first.meta_losses.sum(), list(inner.parameters()))
    second = unroll.window(first.end, 2)
    torch.autograd.grad(second.meta_losses.sum(), list(inner.parameters()))
    assert not unroll.window(first.end, 2, differentiable=False).meta_losses.requires_grad


def test_the_batch_is_left_as_it_is(make_batch):
    batch = make_batch()
    before = map_params(torch.clone, batch.params)
    unroll = Unroll(ready(LEARNED["size-free"](), batch), batch, 3)
    end = unroll.window(unroll.start(), 3).end
    assert all(torch.equal(before[k], p) and not p.requires_grad for k, p in batch.params.items())
    assert all(not torch.equal(before[k], p) for k, p in end.params.items())


def test_record_and_replay_give_the_same_window(make_batch):
    batch = make_batch()
    unroll = Unroll(ready(LEARNED["dense"](), batch), batch, 3)
    with recorded() as seen:
        window = unroll.window(unroll.start(), 3)
    assert len(seen) == 3
    with replayed(seen):
        assert torch.equal(unroll.window(unroll.start(), 3).meta_losses, window.meta_losses)
    with replayed([(map_params(torch.zeros_like, g), losses) for g, losses in seen]):
        assert not torch.equal(unroll.window(unroll.start(), 3).meta_losses, window.meta_losses)


def test_a_trajectory_needs_a_step(make_batch):
    with pytest.raises(ConfigError, match="got 0"):
        Unroll(InnerOptimizer(GradientDescent()), make_batch(), 0)


class Hill(TaskFamily):
    """Slides down sqrt(2 + flag - |w x|): flagged tasks reach the edge, where the loss is NaN."""

    def network(self):
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    def sample(self, generator):
        return torch.rand(4, 2, generator=generator), torch.full((4, 1), 1e5)

    def loss(self, prediction, target):
        return (target - prediction.square()).sqrt().mean() / target.mean().sqrt()

    def initialise(self, network, generator):
        for p in network.parameters():
            p.data.uniform_(0.5, 1, generator=generator)


def with_bad_task(make_batch, bad: str, moment: int = 2) -> tuple[MetaBatch, MetaBatch, int]:
    """A meta-batch in which task 1 diverges, the same without that task, and the task's number."""
    if bad == "explodes":
        batch = make_batch(tasks=3)
        inputs = batch.inputs["inner"].clone()
        inputs[1] *= 30
        inputs = dict.fromkeys(batch.inputs, inputs)
        batch = replace(batch, inputs=inputs)
    else:
        batch = sample_meta_batch(Hill(), "train", range(3)).to(torch.float64)
        targets = batch.targets["inner"].clone()
        x, _ = batch.rows("inner")
        reach = stacked_forward(batch.network, batch.params, x).square().amax((1, 2))
        targets[1] = 1.1 * reach[1]
        batch = replace(batch, targets=dict.fromkeys(batch.targets, targets))
    keep = torch.tensor([0, 2])
    inputs, targets = batch.inputs["inner"][keep], batch.targets["inner"][keep]
    good = replace(
        batch,
        params={k: p[keep] for k, p in batch.params.items()},
        inputs=dict.fromkeys(batch.inputs, inputs),
        targets=dict.fromkeys(batch.targets, targets),
        seeds=batch.seeds[keep],
    )
    return batch, good, 1


DIVERGING = {
    "gd": lambda: InnerOptimizer(GradientDescent(0.3, learn=True)),
    "gd, neuron": lambda: InnerOptimizer(GradientDescent(0.3, learn=True), NeuronTeleport(4), "after"),
    "gd, dense": lambda: InnerOptimizer(GradientDescent(0.3, learn=True), DenseTeleport(4, symmetry="scaling")),
    "global lr": lambda: InnerOptimizer(GlobalStepSize(4, lr=0.3), NeuronTeleport(4)),
    "coordinate": lambda: InnerOptimizer(CoordinateUpdate(4, lr=0.3), NeuronTeleport(4), "after"),
}


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize(
    ("name", "bad"),
    [(n, b) for n in DIVERGING for b in ("explodes", "nan") if (n, b) != ("coordinate", "explodes")],
)
def test_a_diverged_task_is_frozen_and_changes_no_other(make_batch, name, bad, second_order):
    batch, good, task = with_bad_task(make_batch, bad)
    results = []
    for tasks in (batch, good):
        inner = ready(DIVERGING[name](), tasks)
        unroll = Unroll(inner, tasks, STEPS, second_order)
        window = unroll.window(unroll.start(), STEPS)
        masked = torch.where(window.end.alive, window.meta_losses, torch.zeros_like(window.meta_losses))
        gradient = torch.autograd.grad(masked.sum(), [p for p in inner.parameters() if p.requires_grad])
        results.append((unroll, window, gradient))
    (unroll, window, gradient), (_, alone, expected) = results
    end = window.end
    assert end.outcomes == [Outcome.FINISHED, Outcome.DIVERGED, Outcome.FINISHED]
    assert alone.end.outcomes == [Outcome.FINISHED] * 2
    stopped = int(end.stopped_at[task])
    assert end.stopped_at.tolist() == [STEPS, stopped, STEPS]
    assert 0 <= stopped < STEPS - 1
    assert bool(window.inner_losses[: stopped + 1, task].isfinite().all())
    others = torch.tensor([0, 2])
    torch.testing.assert_close(window.inner_losses[:, others], alone.inner_losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(window.meta_losses[:, others], alone.meta_losses, rtol=1e-12, atol=0)
    for g, e in zip(gradient, expected, strict=True):
        assert bool(g.isfinite().all())
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)
    assert any(float(g.norm()) > 1e-8 for g in gradient)

    again = Unroll(unroll.inner, batch, STEPS + 3).window(replace(end, step=STEPS), 3)
    assert again.end.stopped_at[task] == stopped
    for key, p in again.end.params.items():
        assert torch.equal(p[task], end.params[key][task]), "a diverged task stays where it is"


def flagged(point) -> torch.Tensor:
    """Whether it is the third step and the task is the one with large inputs, [B]."""
    return (point.inputs.flatten(1).abs().amax(1) > 15) & (point.step == 2)


class PoisonedStep(GradientDescent):
    """The third step of the flagged task is NaN."""

    __module__ = "tests"

    def propose(self, point, state):
        f, state = super().propose(point, state)
        bad = flagged(point)
        return map_params(lambda x: x.masked_fill(bad.reshape(-1, *[1] * (x.dim() - 1)), float("nan")), f), state


class PoisonedTeleport(NeuronTeleport):
    """The third teleport takes the flagged task to where the squares of its weights overflow."""

    __module__ = "tests"

    def element(self, point, group, state):
        g, state = super().element(point, group, state)
        return [torch.where(flagged(point).unsqueeze(1), 1e160 * x, x) for x in g], state


@pytest.mark.parametrize(
    "make",
    [
        lambda: InnerOptimizer(PoisonedStep(1e-3, learn=True)),
        lambda: InnerOptimizer(PoisonedStep(1e-3, learn=True), NeuronTeleport(4)),
        lambda: InnerOptimizer(PoisonedStep(1e-3, learn=True), DenseTeleport(4, symmetry="scaling")),
        lambda: InnerOptimizer(GradientDescent(1e-3, learn=True), PoisonedTeleport(4), "before"),
        lambda: InnerOptimizer(GradientDescent(1e-3, learn=True), PoisonedTeleport(4), "after"),
        lambda: InnerOptimizer(GlobalStepSize(4, lr=1e-3), PoisonedTeleport(4), "after"),
    ],
)
@pytest.mark.parametrize("second_order", [True, False])
def test_parameters_that_overflow_do_not_reach_the_meta_gradient(make_batch, make, second_order):
    batch, good, task = with_bad_task(make_batch, "explodes")
    gradients = []
    for tasks in (batch, good):
        inner = ready(make(), tasks)
        unroll = Unroll(inner, tasks, 6, second_order)
        window = unroll.window(unroll.start(), 6)
        assert window.end.alive.tolist() == [s != batch.seeds[task] for s in tasks.seeds]
        assert all(bool(p.isfinite().all()) for p in window.end.params.values())
        masked = torch.where(window.end.alive, window.meta_losses, torch.zeros_like(window.meta_losses))
        gradients.append(torch.autograd.grad(masked.sum(), [p for p in inner.parameters() if p.requires_grad]))
        if tasks is batch:
            assert window.end.stopped_at.tolist() == [6, 2, 6]
    for g, e in zip(*gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)


def test_a_task_may_diverge_in_its_last_step(make_batch):
    batch, _, task = with_bad_task(make_batch, "explodes")
    inner = ready(InnerOptimizer(GradientDescent(0.3, learn=True)), batch)
    unroll = Unroll(inner, batch, STEPS)
    stopped = int(unroll.window(unroll.start(), STEPS).end.stopped_at[task])
    window = unroll.window(unroll.start(), stopped + 1)
    assert window.end.alive.tolist() == [True, False, True]
    assert window.end.stopped_at.tolist() == [stopped + 1, stopped, stopped + 1]
    before = unroll.window(unroll.start(), stopped)
    assert before.end.outcomes == [Outcome.FINISHED] * 3


def test_a_dead_task_never_poisons_the_meta_gradient_however_long_it_stands():
    """A teleport must not go on carrying the moments of a task that stands still: they would overflow."""
    batch = sample_meta_batch(TeacherStudent(spread=10), "train", range(3))
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), PushBalance())
    inner.initialise(0)
    play = Unroll(inner, batch, 400)
    position = play.window(play.start(), 1).end
    position = replace(position, alive=torch.tensor([False, True, True]))
    for _ in range(8):
        inner.zero_grad()
        window = play.window(position, 25)
        window.meta_losses[:, window.end.alive].log().mean().backward()
        assert all(p.grad.isfinite().all() for p in inner.parameters() if p.grad is not None)
        position = window.end
    assert position.alive.tolist() == [False, True, True]


class PushBalance(OrbitTeleport):
    """Pushes every neuron by a bounded step towards balance; on a frozen task it pushes for ever."""

    __module__ = "tests"

    def __init__(self) -> None:
        super().__init__("scaling")

    def element(self, point, group, state):
        return group.exp([f.balancing(point.params).clamp(-0.5, 0.5) for f in group.factors]), state


class Watch(Stay):
    """Keeps the points that the inner loop shows to a teleport."""

    __module__ = "tests"

    def __init__(self) -> None:
        super().__init__()
        self.points = []

    def active(self, step):
        return True

    def move(self, point, group, state, moments, alive=None, onto=None):
        self.points.append(point)
        return point, state, moments


@pytest.mark.parametrize("data", [{}, {"rows": 10, "batch_size": 3, "parts": (0.8, 0.2, 0.0)}], ids=["full", "mini"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_point_knows_the_losses_on_its_batch_and_on_all_rows(make_batch, tasks, data):
    batch, watch = make_batch(tasks=tasks, **data), Watch()
    unroll = Unroll(InnerOptimizer(GradientDescent(0.05), watch), batch, 4)
    begin = unroll.window(unroll.start(), 2).end
    window = unroll.window(begin, 2)
    x, y = batch.rows("inner")
    assert [p.step for p in watch.points] == [0, 1, 2, 3]
    index = batch.minibatches("inner")
    for k, point in enumerate(watch.points):
        assert point.whole.inputs is x
        assert point.whole.targets is y
        rows = (x, y) if index is None else batch.rows("inner", index[k])
        assert torch.equal(point.inputs, rows[0])
        assert torch.equal(point.landscape.inputs, rows[0])
        assert torch.equal(point.landscape.targets, rows[1])
        params = map_params(torch.detach, point.params)
        true = flatten(point.landscape.gradient(params))
        torch.testing.assert_close(flatten(point.gradient).detach(), true, rtol=1e-10, atol=1e-13)
        if k >= 2:
            loss = point.landscape.loss(params)
            torch.testing.assert_close(loss, window.inner_losses[k - 2], rtol=1e-12, atol=0)


def test_one_singular_task_is_an_outcome_of_its_own():
    batch = sample_meta_batch(PaperRegression(size=4), "train", range(3))
    batch.inputs["inner"][1] = 1.0  # all rows equal: the data-dependent action has no inverse to use
    inner = InnerOptimizer(GradientDescent(1e-3), DenseTeleport(hidden=5, symmetry="data_dependent"), "after")
    play = Unroll(inner, batch, 4)
    inner.initialise(0)
    window = play.window(play.start(), 4)
    assert window.end.alive.tolist() == [True, False, True]
    window.meta_losses[:, window.end.alive].sum().backward()
    assert all(p.grad.isfinite().all() for p in inner.teleport.parameters())


def test_a_window_is_freed_when_it_is_let_go():
    """Hooks must not make cycles through autograd's graph, which Python cannot collect."""
    batch = sample_meta_batch(TeacherStudent(), "train", range(2))
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=4))
    play = Unroll(inner, batch, 4, second_order=True)
    play.window(play.start(), 4).meta_losses.sum().backward()
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is DifferentiableInnerStep]
