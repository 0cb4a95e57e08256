"""Recordings of teleports, and the two controls made from one: the mean schedule, and random elements of its size."""

import copy
import json
import pickle

import pytest
import torch

from metatele import (
    Balance,
    ConfigError,
    DenseTeleport,
    GradientDescent,
    InnerOptimizer,
    LevelSetTeleport,
    NeuronTeleport,
    OptimisedTeleport,
    RandomTeleport,
    Stay,
    SymmetryError,
    Unroll,
    load_checkpoint,
    save_checkpoint,
)
from metatele.symmetry import group_of
from metatele.task.params import flatten
from metatele.teleports import AlgebraTeleport, MeanSchedule, OrbitTeleport, Recording, SizedRandom
from metatele.testing import check_teleport

SHAPES = [(4,), (3, 3)]  # of the Lie algebra of the example network, 'auto'


def draw(steps, shapes=SHAPES, seed=0, dtype=torch.float64):
    stream = torch.Generator().manual_seed(seed)
    return [[0.2 * torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes] for _ in range(steps)]


def play(inner, batch, steps):
    """The positions after every step."""
    inner.bind(batch.network, batch.params)  # dense parts have their weights only then
    unroll = Unroll(inner.double(), batch, steps)
    positions = [unroll.start()]
    for _ in range(steps):
        positions.append(unroll.window(positions[-1], 1, differentiable=False).end)
    return positions


def record(inner, *batches, steps=6):
    with Recording(inner.teleport) as recording:
        for batch in batches:
            play(inner, batch, steps)
    return recording


def elements_of(inner, batch, steps):
    """{step: (sizes, elements)} as an observer sees them."""
    seen = {}
    inner.teleport.observer = lambda step, group, element: seen.update({step: (group.sizes(element), element)})
    play(inner, batch, steps)
    inner.teleport.observer = None
    return seen


@pytest.mark.parametrize("kind", ["auto", "scaling", "general_linear", "data_dependent"])
def test_both_obey_the_laws(make_batch, kind):
    batch = make_batch()
    shapes = group_of(batch.network, kind).algebra_shapes
    check_teleport(MeanSchedule.of(draw(3, shapes), kind, first=1), batch)
    check_teleport(SizedRandom([[0.2] * len(shapes)] * 3, kind, first=1), batch)


def test_the_mean_schedule_of_a_schedule_is_that_schedule(make_batch):
    schedule = draw(4)
    inner = InnerOptimizer(GradientDescent(0.05), MeanSchedule.of(schedule, first=1, every=2))
    recording = record(inner, make_batch(tasks=3), make_batch(tasks=2, seed=1), steps=9)
    found = recording.mean_schedule()
    assert found.arguments() == inner.teleport.arguments()
    for i, elements in enumerate(zip(*schedule, strict=True)):
        torch.testing.assert_close(found.get_buffer(f"factor_{i}"), torch.stack(elements), rtol=1e-12, atol=1e-15)
    ends = [play(InnerOptimizer(GradientDescent(0.05), t), make_batch(), 9)[-1] for t in (inner.teleport, found)]
    torch.testing.assert_close(flatten(ends[0].params), flatten(ends[1].params), rtol=1e-12, atol=1e-14)
    norms = [[float(t.norm()) for t in step] for step in schedule]
    torch.testing.assert_close(torch.tensor(recording.sized_random().norms), torch.tensor(norms), rtol=1e-12, atol=0)


def test_the_schedule_is_the_mean_over_the_tasks(make_batch):
    """Of two tasks that push in opposite directions nothing remains but their size."""

    class Opposite(AlgebraTeleport):
        __module__ = "tests"

        def choose(self, point, group, state):
            sign = torch.tensor([1.0, -1.0]).to(point.inputs)
            return [sign.reshape(2, *[1] * len(s)) * torch.ones(2, *s).to(sign) for s in group.algebra_shapes], state

    recording = record(InnerOptimizer(GradientDescent(0.01), Opposite("scaling")), make_batch(tasks=2), steps=2)
    mean = recording.mean_schedule()
    assert mean.shapes == [[4], [3]]
    assert not bool(torch.cat([b.flatten() for b in mean.buffers()]).any())
    expected = torch.tensor([[2.0, 3.0**0.5]] * 2)
    torch.testing.assert_close(torch.tensor(recording.sized_random().norms), expected)


def test_only_tasks_in_order_are_counted(make_batch):
    recording, algebra = Recording(RandomTeleport()), [torch.tensor([[1.0], [3.0], [torch.nan], [100.0]])]
    recording.note(0, algebra, torch.tensor([True, True, True, False]))
    recording.note(2, algebra, torch.tensor([True, False, False, False]))
    recording.note(3, algebra, torch.zeros(4, dtype=torch.bool))
    assert recording.mean_schedule().get_buffer("factor_0").flatten().tolist() == [2.0, 0.0, 1.0, 0.0]
    assert recording.sized_random().norms == [[2.0], [0.0], [1.0], [0.0]]


def test_tasks_that_diverge_leave_the_recording(make_batch):
    batch = make_batch(tasks=3)
    batch.params["0.weight"][1] *= 1e4  # gradient descent diverges here at once
    inner = InnerOptimizer(GradientDescent(0.1), NeuronTeleport(4, bound=0.2))
    assert play(inner, batch, 6)[-1].alive.tolist() == [True, False, True]
    recording = record(inner, batch, steps=6)
    assert recording._tasks[0] == 3
    assert recording._tasks[5] == 2
    assert all(bool(b.isfinite().all()) for b in recording.mean_schedule().buffers())


def test_random_teleports_have_the_recorded_norms_at_every_step(make_batch):
    norms = [[0.3, 0.1], [0.0, 2.0], [1e-3, 0.5]]
    teleport, batch = SizedRandom(norms, first=1, every=2), make_batch(tasks=3)
    inner, seen = InnerOptimizer(GradientDescent(0.05), teleport), []
    teleport.recorder = lambda step, algebra, alive: seen.append((step, algebra))
    play(inner, batch, 8)
    assert [step for step, _ in seen] == [1, 3, 5], "and none after the end"
    for (_, algebra), row in zip(seen, norms, strict=True):
        for t, norm in zip(algebra, row, strict=True):
            expected = torch.full((3,), norm, dtype=torch.float64)
            torch.testing.assert_close(t.flatten(1).norm(dim=1), expected, rtol=1e-13, atol=0)
    first = seen[0][1][0]
    assert not torch.allclose(first[0], first[1]), "tasks draw apart"
    assert not torch.allclose(first / 0.3, seen[2][1][0] / 1e-3), "steps draw anew"
    again, seen[:] = list(seen), []
    play(inner, batch, 8)
    assert all(torch.equal(a, b) for (_, s), (_, t) in zip(again, seen, strict=True) for a, b in zip(s, t, strict=True))


@pytest.mark.parametrize(
    "teleport",
    [NeuronTeleport(4), DenseTeleport(4), DenseTeleport(4, symmetry="data_dependent"), OptimisedTeleport(last=3)],
    ids=["neuron", "dense", "dense-data", "optimised"],
)
def test_what_a_recording_gives_keeps_the_loss(make_batch, teleport):
    batch = make_batch(tasks=3)
    recording = record(InnerOptimizer(GradientDescent(0.05), teleport), batch, steps=4)
    for made in (recording.mean_schedule(), recording.sized_random()):
        played = InnerOptimizer(GradientDescent(0.05), made)
        seen = elements_of(played, batch, 6)
        assert list(seen) == [0, 1, 2, 3]
        assert all(bool((sizes > 0).all()) and sizes.shape == (2, 3) for sizes, _ in seen.values())
        unroll, positions = Unroll(played, batch, 4), play(played, batch, 4)
        for step, (_, element) in seen.items():
            params = positions[step].params
            moved = unroll.group.act(element, params, batch.inputs["inner"])
            loss = [unroll.evaluate(p, "inner") for p in (params, moved)]
            torch.testing.assert_close(loss[1], loss[0], rtol=1e-10, atol=0)


def test_recording_does_not_change_what_happens(make_batch):
    batch = make_batch()
    inner = InnerOptimizer(GradientDescent(0.05), OptimisedTeleport(rows=2, last=None))
    plain = play(inner, batch, 4)[-1].params
    with Recording(inner.teleport):
        recorded = play(inner, batch, 4)[-1].params
    assert torch.equal(flatten(plain), flatten(recorded))
    assert inner.teleport.recorder is None


def test_the_random_control_takes_the_size_of_the_teleport(make_batch):
    batch = make_batch(tasks=3)
    inner = InnerOptimizer(GradientDescent(0.05), DenseTeleport(4, size="fixed", norm=0.25))
    assert record(inner, batch, steps=3).sized_random().norms == [[pytest.approx(0.25, rel=1e-6)] * 2] * 3


def test_an_empty_recording_plays_nothing(make_batch):
    batch, recording = make_batch(), Recording(RandomTeleport(first=9))
    for made in (recording.mean_schedule(), recording.sized_random(), MeanSchedule(), SizedRandom()):
        assert not made.moves
        assert not made.active(9)
        end = play(InnerOptimizer(GradientDescent(0.05), made), batch, 3)[-1].params
        stay = play(InnerOptimizer(GradientDescent(0.05), Stay()), batch, 3)[-1].params
        assert torch.equal(flatten(end), flatten(stay))


@pytest.mark.parametrize("teleport", [Balance(last=None), LevelSetTeleport(), Stay()], ids=lambda t: type(t).__name__)
def test_a_teleport_without_lie_algebra_elements_has_no_schedule(teleport):
    with pytest.raises(SymmetryError, match=f"{type(teleport).__name__} chooses no Lie algebra element"):
        Recording(teleport)


def test_both_belong_to_their_network(make_batch):
    other = make_batch(widths=(4, 5, 3, 2))
    with pytest.raises(SymmetryError, match=r"\[\[4\], \[3, 3\]\] and cannot be played on \[\[5\], \[3, 3\]\]; record"):
        InnerOptimizer(GradientDescent(), MeanSchedule.of(draw(2))).bind(other.network, other.params)
    with pytest.raises(SymmetryError, match="a size for 1 layers, and the network has 2"):
        InnerOptimizer(GradientDescent(), SizedRandom([[0.1]])).bind(other.network, other.params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanSchedule.of([*draw(2), draw(1, [(4,)])[0]]), r"step 0, got \[\(4,\)\] at 2"),
        (lambda: MeanSchedule.of([[torch.tensor([torch.nan])]]), "step 0 is not"),
        (lambda: MeanSchedule(-1), "length must be .* got -1"),
        (lambda: MeanSchedule(1, [[2, 0]]), r"shapes\[0\]\[1\] must be .* got 0"),
        (lambda: SizedRandom([[0.1], [0.1, 0.2]]), r"1 at every step, got \[0.1, 0.2\]"),
        (lambda: SizedRandom([[-0.1]]), "at least 0"),
        (lambda: SizedRandom([[float("nan")]]), "finite"),
    ],
)
def test_an_impossible_schedule_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("teleport", [MeanSchedule.of(draw(3)), SizedRandom([[0.2, 0.1]] * 3)], ids=["mean", "random"])
def test_both_are_saved_and_loaded(make_batch, tmp_path, teleport):
    inner = InnerOptimizer(GradientDescent(0.05), teleport)
    json.dumps(teleport.arguments())
    assert not inner.learned
    loaded = load_checkpoint(save_checkpoint(inner, tmp_path / "saved"))
    ends = [play(i, make_batch(), 4)[-1].params for i in (inner, loaded)]
    assert torch.equal(flatten(ends[0]), flatten(ends[1]))


def test_copies_have_no_listeners(make_batch):
    teleport = RandomTeleport(0.2)
    teleport.observer, teleport.recorder = (lambda *what: None), (lambda *what: None)
    for twin in (copy.deepcopy(teleport), copy.copy(teleport), pickle.loads(pickle.dumps(teleport))):
        assert twin.observer is None
        assert twin.recorder is None
        assert twin.arguments() == teleport.arguments()
    assert teleport.observer is not None


def test_an_observer_sees_the_elements_that_act(make_batch):
    batch = make_batch(tasks=3)
    batch.params["0.weight"][1] *= 1e4
    inner = InnerOptimizer(GradientDescent(0.1), Balance(last=None))
    seen = elements_of(inner, batch, 4)
    assert list(seen) == [0, 1, 2, 3]
    assert isinstance(inner.teleport, OrbitTeleport)
    assert seen[0][0].shape == (2, 3)
    assert bool((seen[0][0] > 0).all())
    still = InnerOptimizer(GradientDescent(0.1), RandomTeleport(0.1))
    sizes = elements_of(still, batch, 4)[3][0]
    assert bool((sizes[:, 1] == 0).all()), "a task that has diverged stands still"
    assert bool((sizes[:, [0, 2]] > 0.01).all())
