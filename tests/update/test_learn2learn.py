"""Updates made of learn2learn's classes: equal to learn2learn on one task, differentiable, saved and loaded."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.conftest import ROOT

pytest.importorskip("learn2learn", reason="these updates are made of learn2learn")

import learn2learn
from metatele.tasks import TeacherStudent

from metatele import (
    CheckpointError,
    ConfigError,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    load_checkpoint,
    meta_train,
    save_checkpoint,
)
from metatele.parts.point import Point, State
from metatele.task.params import flatten, map_params
from metatele.testing import check_update
from metatele.update import GradientDescent, LearnableTransform, MetaSGD
from tests.unroll.replay import recorded, replayed

MAKE = {
    "meta_sgd": lambda **a: MetaSGD(**a),
    "kronecker": lambda **a: LearnableTransform("kronecker", **a),
    "meta_curvature": lambda **a: LearnableTransform("meta_curvature", **a),
    "linear": lambda **a: LearnableTransform("linear", **a),
}
TRANSFORMS = ["kronecker", "meta_curvature", "linear"]


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


def strong(inner, batch, seed=0):
    """Bind in float64, with weights away from the identity."""
    inner.bind(batch.network, batch.params)
    inner.double()
    stream = torch.Generator().manual_seed(seed)
    for p in inner.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=stream, dtype=p.dtype)
    return inner


def one_network(batch, i):
    """The network of task i as a module of its own, and its inner loss."""
    network = copy.deepcopy(batch.network)
    network.load_state_dict({k: p[i] for k, p in batch.params.items()})
    x, y = batch.inputs["inner"][i], batch.targets["inner"][i]
    return network, lambda module: batch.family.loss(module(x), y)


def test_the_laws(make, make_batch):
    check_update(make())
    check_update(make(lr=0.3), make_batch(tasks=2, bias=False, rows=7))


@pytest.mark.parametrize("second_order", [True, False])
def test_meta_sgd_is_that_of_learn2learn_on_one_task(make_batch, second_order):
    batch, steps = make_batch(tasks=3), 4
    inner = strong(InnerOptimizer(MetaSGD(0.2)), batch)
    unroll = Unroll(inner, batch, steps, second_order)
    window = unroll.window(unroll.start(), steps)
    lrs = list(inner.update.learned_parts)
    for i in range(3):
        network, loss = one_network(batch, i)
        learner = learn2learn.algorithms.MetaSGD(network, lrs=nn.ParameterList(lrs), first_order=not second_order)
        clone, losses = learner.clone(), []
        for _ in range(steps):
            clone.adapt(loss(clone))
            losses.append(loss(clone))
        for (name, found), expected in zip(window.end.params.items(), clone.module.parameters(), strict=True):
            torch.testing.assert_close(found[i], expected.detach(), rtol=1e-11, atol=1e-13, msg=name)
        ours = torch.autograd.grad(window.meta_losses[:, i].sum(), lrs, retain_graph=True)
        torch.testing.assert_close(ours, torch.autograd.grad(sum(losses), lrs), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_those_of_learn2learn_on_one_task(make_batch, transform):
    batch, steps = make_batch(tasks=3), 4
    inner = strong(InnerOptimizer(LearnableTransform(transform, lr=0.05)), batch)
    unroll = Unroll(inner, batch, steps, second_order=False)  # learn2learn detaches its gradients
    end = unroll.window(unroll.start(), steps, differentiable=False).end.params
    theirs = {
        "kronecker": learn2learn.optim.KroneckerTransform(learn2learn.nn.KroneckerLinear),
        "meta_curvature": learn2learn.optim.MetaCurvatureTransform,
        "linear": learn2learn.optim.ModuleTransform(nn.Linear),
    }[transform]
    for i in range(3):
        network, loss = one_network(batch, i)
        optimizer = learn2learn.optim.LearnableOptimizer(network, theirs, lr=0.05).double()
        optimizer.transforms.load_state_dict(inner.update.learned_parts.state_dict())
        for _ in range(steps):
            optimizer.zero_grad()
            loss(network).backward()
            optimizer.step()
        for (name, found), expected in zip(end.items(), network.parameters(), strict=True):
            torch.testing.assert_close(found[i], expected.detach(), rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_gradient_of_a_transforms_weights_is_learn2learns(make_batch, transform):
    batch = make_batch(tasks=1)
    inner = strong(InnerOptimizer(LearnableTransform(transform, lr=0.05)), batch)
    network, loss = one_network(batch, 0)
    gradient = torch.autograd.grad(loss(network), list(network.parameters()))
    step, _ = inner.update.propose(
        Point(
            batch.params, {k: g[None] for k, g in zip(batch.params, gradient, strict=True)}, batch.inputs["inner"], 0
        ),
        State(),
    )
    learned = list(inner.parameters())
    ours = torch.autograd.grad(sum(f.sin().sum() for f in step.values()), learned)
    pairs = zip(inner.update.learned_parts, gradient, strict=True)
    theirs = torch.autograd.grad(sum((-0.05 * part(g)).sin().sum() for part, g in pairs), learned)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("second_order", [True, False])
def test_the_meta_gradient_is_that_of_finite_differences(make, make_batch, second_order):
    batch, steps, eps = make_batch(tasks=2), 3, 1e-6
    inner = strong(InnerOptimizer(make(lr=0.1)), batch)
    unroll, learned = Unroll(inner, batch, steps, second_order), list(inner.parameters())
    with recorded() as seen:
        window = unroll.window(unroll.start(), steps)
    gradient = torch.autograd.grad(window.meta_losses.sum(), learned)
    direction = [g / torch.stack([h.norm() for h in gradient]).norm() for g in gradient]
    found = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    sides = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(learned, direction, strict=True):
                p.add_(d, alpha=sign * eps)
        with replayed(None if second_order else seen):
            moved = unroll.window(unroll.start(), steps, differentiable=False)
        sides.append(float(moved.meta_losses.sum()))
    assert abs(found) > 1e-3
    assert found == pytest.approx((sides[0] - sides[1]) / (2 * eps), rel=1e-5)


def test_a_fresh_one_is_gradient_descent(make, make_batch):
    batch = make_batch()
    ends = []
    for update in (make(lr=0.07), GradientDescent(0.07)):
        inner = InnerOptimizer(update)
        inner.bind(batch.network, batch.params)
        inner.initialise(3)
        unroll = Unroll(inner.double(), batch, 5)
        ends.append(flatten(unroll.window(unroll.start(), 5).end.params))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-8)  # 0.07 of float32 is another number


def test_the_kronecker_transform_never_steps_uphill(make_batch):
    batch = make_batch(tasks=4)
    for seed in range(5):
        inner = strong(InnerOptimizer(LearnableTransform()), batch, seed)
        gradient = map_params(torch.randn_like, batch.params)
        step, _ = inner.update.propose(Point(batch.params, gradient, batch.inputs["inner"], 0), State())
        assert all(bool(((step[k] * gradient[k]).flatten(1).sum(1) < 0).all()) for k in step)


def test_a_gradient_with_its_dimensions_swapped(make, make_batch):
    """A teleport may hand on gradients that do not lie in memory row by row."""
    batch = make_batch()
    update = strong(InnerOptimizer(make()), batch).update
    gradient = map_params(torch.randn_like, batch.params)
    swapped = {k: g.transpose(1, -1).contiguous().transpose(1, -1) for k, g in gradient.items()}
    steps = [update.propose(Point(batch.params, g, batch.inputs["inner"], 0), State())[0] for g in (gradient, swapped)]
    assert all(torch.equal(steps[0][k], steps[1][k]) for k in gradient)


def test_saved_and_loaded_bit_for_bit(make, make_batch, tmp_path):
    batch = make_batch().to(torch.float32)
    inner = strong(InnerOptimizer(make(), NeuronTeleport(4)), batch).float()
    again = load_checkpoint(save_checkpoint(inner, tmp_path / "it"))
    assert type(again.update) is type(inner.update)
    assert again.update.arguments() == inner.update.arguments()
    assert list(again.state_dict()) == list(inner.state_dict())
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in inner.state_dict().items())
    assert again.learned
    ends = []
    for it in (inner, again):
        unroll = Unroll(it, batch, 3)
        ends.append(flatten(unroll.window(unroll.start(), 3, differentiable=False).end.params))
    assert torch.equal(*ends)


def test_another_network_is_refused(make, make_batch, tmp_path):
    batch, other = make_batch(), make_batch(widths=(4, 5, 3, 2))
    inner = strong(InnerOptimizer(make()), batch)
    with pytest.raises(CheckpointError, match=rf"this {type(inner.update).__name__} was made for .*\[4, 4\].*\[5, 4\]"):
        inner.bind(other.network, other.params)


def test_initialise_forgets_what_was_learned(make, make_batch):
    batch = make_batch()
    fresh = InnerOptimizer(make())
    fresh.initialise(0)  # before the network is known there is nothing to draw
    fresh.bind(batch.network, batch.params)
    learned = strong(copy.deepcopy(fresh), batch)
    parameters = list(learned.parameters())
    learned.initialise(1)
    assert all(a is b for a, b in zip(parameters, learned.parameters(), strict=True)), "Adam holds these"
    for (name, a), b in zip(fresh.named_parameters(), learned.parameters(), strict=True):
        assert torch.equal(a.double(), b), name


@pytest.mark.parametrize(
    ("make_update", "message"),
    [
        (lambda: MetaSGD(lr=0.0), "lr must be above 0"),
        (lambda: LearnableTransform("newton"), "transform must be one of kronecker, meta_curvature, linear"),
        (lambda: LearnableTransform(shapes={"w": [3, 4, 5]}), r"1, 2 or 4 dimensions.*\(3, 4, 5\); use 'linear'"),
        (lambda: LearnableTransform("meta_curvature", shapes={"w": []}), r"one of \(\); use 'linear'"),
        (lambda: LearnableTransform("linear", shapes={"w": [300, 300]}), r"at most 10000.*\(300, 300\); use 'kron"),
        (lambda: MetaSGD(shapes={"w": [-3]}), "shapes of w must be .* got -3"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(make_update, message):
    with pytest.raises(ConfigError, match=message):
        make_update()


@pytest.mark.parametrize("transform", ["kronecker", "meta_curvature"])
def test_convolutions(transform):
    network = nn.Conv2d(2, 3, 3)
    params = {k: torch.randn(4, *p.shape) for k, p in network.named_parameters()}
    inner = InnerOptimizer(LearnableTransform(transform, lr=0.5))
    inner.bind(network, params)
    step, _ = inner.update.propose(Point(params, params, torch.zeros(4, 1), 0), State())
    for name, p in params.items():
        torch.testing.assert_close(step[name], -0.5 * p)


def test_meta_training_improves_it(make):
    settings = {"unroll": UnrollSettings(steps=10, window=5), "meta": MetaSettings(iterations=20, tasks=8, lr=3e-3)}
    family = TeacherStudent(inputs=4, hidden=6, outputs=2, rows=24)
    validation = ValidationSettings(tasks=16, every=20)
    inner = InnerOptimizer(make())
    history = meta_train(inner, family, validation=validation, **settings).history
    fresh = InnerOptimizer(make())
    settings["meta"] = MetaSettings(iterations=1, tasks=8, lr=1e-12)
    before = meta_train(fresh, family, validation=validation, **settings).history
    assert history[-1].validation < 0.97 * before[-1].validation


def test_the_configs_have_the_budget_of_the_quickstart():
    import yaml

    root = ROOT / "configs"
    quickstart = yaml.safe_load((root / "quickstart.yaml").read_text())
    for path in (root / "learn2learn").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        for key in ("family", "unroll", "validation", "seed"):
            assert config[key] == quickstart[key], path
        assert config["meta"] == quickstart["meta"] | {"lr": config["meta"]["lr"]}
        assert set(config["optimizer"]) == {"update"}


PROGRAM = """
import sys
import metatele
assert "learn2learn" not in sys.modules, "imported only when it is used"
metatele.load_checkpoint({folder!r})
assert "learn2learn" in sys.modules
"""


def test_learn2learn_is_imported_quietly_and_when_it_is_used(make_batch, tmp_path):
    folder = save_checkpoint(strong(InnerOptimizer(MetaSGD()), make_batch()), tmp_path / "it")
    program = [sys.executable, "-c", PROGRAM.format(folder=str(folder))]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_learn2learn_one_line_names_the_way_out(make, make_batch, tmp_path, monkeypatch):
    folder = save_checkpoint(strong(InnerOptimizer(make()), make_batch()), tmp_path / "it")
    # With None in sys.modules, Python says that there is no such module.
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    for run in (make, lambda: load_checkpoint(folder)):
        with pytest.raises(
            (ConfigError, CheckpointError), match=r"needs learn2learn.*halted.*pip install -r"
        ) as caught:
            run()
        assert "\n" not in str(caught.value)
