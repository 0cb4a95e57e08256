"""Meta-gradients against central finite differences, in float64, for every pair of parts.

Second order: of the unrolled meta-loss. First order: of the same unroll with the inner gradients
held at their recorded values.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metatele import (
    Balance,
    CeloUpdate,
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
    RandomTeleport,
    SmallMLPUpdate,
    Stay,
    Teleport,
    TensorUpdate,
    Unroll,
    Update,
)
from metatele.unroll.trajectory import Position
from tests.conftest import concrete_subclasses
from tests.unroll.replay import recorded, replayed

STEPS, MID, EPS, RTOL = 3, 2, 1e-6, 1e-5

UPDATES = {
    "dense": lambda: DenseUpdate(hidden=4, layers=2, scale=0.02),
    "dense raw": lambda: DenseUpdate(hidden=4, layers=1, inputs="raw", scale=0.02),
    "dense lr": lambda: DenseStepSize(hidden=4, layers=1, smallest=1e-3, largest=0.5),
    "dense lr clamped": lambda: DenseStepSize(hidden=4, layers=2, smallest=1e-3, largest=0.5, bound="clamp"),
    "gd": lambda: GradientDescent(lr=0.05, learn=True),
    "coordinate": lambda: CoordinateUpdate(hidden=4, lr=0.02),
    "tensor": lambda: TensorUpdate(hidden=4, lr=0.02, per_coordinate=2),
    "small MLP": lambda: SmallMLPUpdate(hidden=3, step=0.02, exponent=0.1),
    "Celo": lambda: CeloUpdate(hidden=4, units=3, lr=0.02, exponent=0.1),
    "global lr": lambda: GlobalStepSize(hidden=4, layers=2, lr=0.05),
}
TELEPORTS = {
    "stay": lambda: Stay(),
    "auto": lambda: DenseTeleport(hidden=4, layers=2, norm=0.2, symmetry="auto"),
    "auto, fixed size": lambda: DenseTeleport(hidden=4, layers=1, norm=0.1, size="fixed", inputs="raw"),
    "scaling": lambda: DenseTeleport(hidden=4, layers=1, norm=0.3, symmetry="scaling"),
    "general linear": lambda: DenseTeleport(hidden=4, layers=1, norm=0.2, symmetry="general_linear"),
    "data dependent": lambda: DenseTeleport(hidden=4, layers=1, norm=0.05, symmetry="data_dependent"),
    "neuron": lambda: NeuronTeleport(hidden=4, bound=0.5),
}


def enrol(parts: dict[str, Callable[[], Any]], base: type) -> None:
    """Add the learned classes of metatele that are not there yet, with their default arguments."""
    there = {type(make()) for make in parts.values()}
    for cls in sorted(concrete_subclasses(base) - there, key=lambda cls: cls.__name__):
        own = cls.__module__.startswith("metatele.") and not cls.__module__.endswith("learn2learn")  # tested elsewhere
        if own and cls().learned:
            parts[cls.__name__] = cls


enrol(UPDATES, Update)
enrol(TELEPORTS, Teleport)
DATA = {
    "one part": {},
    "minibatches": {"rows": 24, "batch_size": 4},  # as many as inputs: for the data-dependent group
    "own meta rows": {"rows": 8, "parts": (0.5, 0.5, 0.0)},
    "own meta rows, minibatches": {"rows": 48, "parts": (0.5, 0.5, 0.0), "batch_size": 4},
}


def strong(inner: InnerOptimizer, batch: MetaBatch) -> InnerOptimizer:
    """Bind and draw weights large enough that the meta-gradient is not small: fresh heads are."""
    inner.bind(batch.network, batch.params)
    inner.double()
    stream = torch.Generator().manual_seed(0)
    for name, p in inner.named_parameters():
        if "head" in name and p.dim() > 1:
            p.data = 0.5 * torch.randn(p.shape, generator=stream, dtype=p.dtype)
        elif "log_lr" not in name:
            p.data = 0.3 * torch.randn(p.shape, generator=stream, dtype=p.dtype)
    if isinstance(inner.update, DenseStepSize) and inner.update.bound == "clamp":
        # Well inside the bounds, where the output has a gradient.
        inner.update.rule.core.head.weight.data.mul_(0.2)
        inner.update.rule.core.head.bias.data.fill_(0.2)
    return inner


def check_meta_gradient(inner: InnerOptimizer, batch: MetaBatch, second_order: bool, middle: bool) -> None:
    unroll = Unroll(strong(inner, batch), batch, MID + STEPS, second_order)
    learned = [p for p in inner.parameters() if p.requires_grad]
    begin: Position = unroll.start()
    if middle:
        begin = unroll.window(begin, MID).end
        assert begin.step == MID
    weights = torch.linspace(0.5, 1.5, STEPS * batch.tasks, dtype=torch.float64).reshape(STEPS, -1)
    with recorded() as seen:
        window = unroll.window(begin, STEPS)
    assert bool(window.end.alive.all())
    loss = (weights * window.meta_losses).sum()
    gradient = torch.autograd.grad(loss, learned)
    assert all(g.isfinite().all() for g in gradient)
    norm = torch.stack([g.norm() for g in gradient]).norm()
    assert norm > 1e-4, f"the check would be vacuous: the meta-gradient's norm is {norm}"

    # A difference should not reach across the kinks of rectified units, which lie close together.
    eps = EPS / 4 if isinstance(inner.update, (SmallMLPUpdate, CeloUpdate)) else EPS
    stream = torch.Generator().manual_seed(1)
    for trial in range(2):
        # One random direction and one close to the gradient: the latter has a large derivative.
        direction = [torch.randn(p.shape, generator=stream, dtype=p.dtype) for p in learned]
        if trial:
            direction = [g / norm + 0.1 * d / d.norm() for g, d in zip(gradient, direction, strict=True)]
        found = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(learned, direction, strict=True):
                    p.add_(d, alpha=sign * eps)
            with replayed(None if second_order else seen):
                moved = unroll.window(begin, STEPS, differentiable=False)
            with torch.no_grad():
                for p, d in zip(learned, direction, strict=True):
                    p.add_(d, alpha=-sign * eps)
            sides.append(float((weights * moved.meta_losses).sum()))
        expected = (sides[0] - sides[1]) / (2 * eps)
        # Rounding of the two losses is divided by eps; the rest is the truncation of the difference.
        assert found == pytest.approx(expected, rel=RTOL, abs=2e-8 * EPS / eps * float(loss.detach())), (
            f"direction {trial}"
        )


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("teleport", TELEPORTS)
@pytest.mark.parametrize("update", UPDATES)
def test_every_pair(make_batch, update, teleport, order):
    batch = make_batch()
    for second_order in (True, False):
        check_meta_gradient(
            InnerOptimizer(UPDATES[update](), TELEPORTS[teleport](), order), batch, second_order, middle=second_order
        )


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("update", "teleport"),
    [
        ("dense", "stay"),
        ("dense", "auto"),
        ("coordinate", "neuron"),
        ("tensor", "neuron"),
        ("small MLP", "neuron"),
        ("Celo", "stay"),
        ("gd", "data dependent"),
        ("global lr", "scaling"),
    ],
)
def test_every_kind_of_data(make_batch, update, teleport, data):
    batch = make_batch(**DATA[data])
    for order, second_order, middle in itertools.product(("before", "after"), (True, False), (True, False)):
        check_meta_gradient(
            InnerOptimizer(UPDATES[update](), TELEPORTS[teleport](), order), batch, second_order, middle
        )


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    "pair",
    [
        (Momentum(0.05), NeuronTeleport(hidden=4)),
        (CoordinateUpdate(hidden=4), RandomTeleport(0.2)),
        (CoordinateUpdate(hidden=4), Balance(last=None)),
        (CoordinateUpdate(hidden=4), NeuronTeleport(hidden=4, first=1, last=3)),
    ],
    ids=lambda pair: "-".join(type(p).__name__ for p in pair),
)
def test_learned_beside_fixed_parts(make_batch, pair, order):
    for second_order in (True, False):
        check_meta_gradient(InnerOptimizer(*pair, order), make_batch(), second_order, middle=True)


@pytest.mark.parametrize("second_order", [True, False])
def test_two_nonlinear_layers_on_the_data(make_batch, second_order):
    # The second layer's input, and so its action, depends on the parameters of the first.
    batch = make_batch(widths=(3, 3, 3, 2), activations=(torch.nn.LeakyReLU(0.2),) * 2)
    for order in ("before", "after"):
        inner = InnerOptimizer(GradientDescent(0.05, learn=True), TELEPORTS["data dependent"](), order)
        check_meta_gradient(inner, batch, second_order, middle=True)


def test_first_and_second_order_differ(make_batch):
    gradients = []
    for second_order in (True, False):
        inner = strong(InnerOptimizer(UPDATES["dense"](), TELEPORTS["neuron"]()), batch := make_batch())
        unroll = Unroll(inner, batch, STEPS, second_order)
        loss = unroll.window(unroll.start(), STEPS).meta_losses.sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(inner.parameters()))]))
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()
