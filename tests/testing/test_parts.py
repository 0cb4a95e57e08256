"""The laws of updates and teleports: every one obeys them, and a broken one is caught by name."""

import metatele.tasks  # noqa: F401 - so that all subclasses are known
import pytest
import torch

from metatele import (
    CeloUpdate,
    CoordinateUpdate,
    DenseStepSize,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    RandomTeleport,
    SmallMLPUpdate,
    Teleport,
    TensorUpdate,
    Update,
)
from metatele.task.params import map_params
from metatele.testing import check_teleport, check_update
from tests.conftest import concrete_subclasses, need_learn2learn

UPDATES = sorted(concrete_subclasses(Update), key=lambda c: c.__name__)
TELEPORTS = sorted(concrete_subclasses(Teleport), key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", UPDATES)
def test_every_update_obeys_the_laws(cls):
    need_learn2learn(cls.__name__)
    check_update(cls())


@pytest.mark.parametrize("cls", TELEPORTS)
def test_every_teleport_obeys_the_laws(cls, make_batch):
    # Wout needs at least as many outputs as neurons.
    check_teleport(cls(), make_batch(tasks=3, widths=(4, 4, 3, 3)))


@pytest.mark.parametrize(
    "update",
    [
        GradientDescent(0.05, learn=True),
        DenseUpdate(4, layers=1, inputs="raw"),
        DenseStepSize(4, bound="clamp"),
        CoordinateUpdate(4, layers=2),
        GlobalStepSize(4, layers=2),
        TensorUpdate(4, decay="absolute", per_coordinate=3),
        TensorUpdate(4, decay="relative", secant=False),
        TensorUpdate(4, decay="none", relative=False, horizon=False),
        SmallMLPUpdate(4, step=0.1, exponent=0.1),
        CeloUpdate(4, units=3, horizon=False),
    ],
    ids=lambda u: type(u).__name__,
)
def test_updates_with_other_settings(update, make_batch):
    check_update(update, make_batch(tasks=2, bias=False, rows=7))


@pytest.mark.parametrize("kind", ["auto", "scaling", "general_linear", "data_dependent"])
@pytest.mark.parametrize(("size", "inputs"), [("fixed", "raw"), ("learned", "normalised")])
def test_dense_teleports_with_other_settings(kind, size, inputs, make_batch):
    check_teleport(DenseTeleport(4, size=size, inputs=inputs, symmetry=kind, first=2, last=9), make_batch(bias=False))


def test_random_teleports_in_every_group(make_batch):
    for kind in ("auto", "scaling", "general_linear", "data_dependent"):
        check_teleport(RandomTeleport(0.05, symmetry=kind), make_batch())


class Impure(GradientDescent):
    """Adds noise from the global generator."""

    __module__ = "tests"

    def propose(self, point, state):
        f, state = super().propose(point, state)
        return map_params(lambda x: x + 0.01 * torch.randn_like(x), f), state


class Mixing(GradientDescent):
    """Steps along the mean gradient of all tasks."""

    __module__ = "tests"

    def propose(self, point, state):
        return map_params(lambda g: -self.lr * g.mean(0, keepdim=True).expand_as(g), point.gradient), state


class Forgetful(GradientDescent):
    """Does not keep its argument under its name."""

    __module__ = "tests"

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__(rate)


class Writing(GradientDescent):
    """Clips the gradient in place."""

    __module__ = "tests"

    def propose(self, point, state):
        for g in point.gradient.values():
            g.clamp_(-0.01, 0.01)
        return super().propose(point, state)


@pytest.mark.parametrize(
    ("update", "law"),
    [
        (Impure, "equal arguments give equal steps"),
        (Mixing, "steps on a stack = steps on each task"),
        (Forgetful, "keeps every constructor argument"),
        (Writing, "leaves its arguments unchanged"),
    ],
)
def test_a_broken_update_is_caught_by_name(update, law):
    with pytest.raises(AssertionError, match=law):
        check_update(update())


class Lazy(RandomTeleport):
    """Says that it moves, and does not."""

    __module__ = "tests"

    def element(self, point, group, state):
        return [f.identity(point.inputs) for f in group.factors], state


class Shared(RandomTeleport):
    """Takes all tasks where the first one goes."""

    __module__ = "tests"

    def choose(self, point, group, state):
        algebra, state = super().choose(point, group, state)
        return [t[:1].expand_as(t) for t in algebra], state


class Stale(RandomTeleport):
    """Gives the gradient at the old point."""

    __module__ = "tests"

    def move(self, point, group, state, moments, alive=None, onto=None):
        there, state, moments = super().move(point, group, state, moments, alive, onto)
        return there.at(there.params, point.gradient), state, moments


class Drifting(RandomTeleport):
    """Scales what it should leave alone."""

    __module__ = "tests"

    def move(self, point, group, state, moments, alive=None, onto=None):
        there, state, moments = super().move(point, group, state, moments, alive, onto)
        return there.at(map_params(lambda p: 1.001 * p, there.params), there.gradient), state, moments


class Restless(RandomTeleport):
    """Moves tasks that have diverged, too."""

    __module__ = "tests"

    def move(self, point, group, state, moments, alive=None, onto=None):
        return super().move(point, group, state, moments, None, onto)


class Noisy(RandomTeleport):
    """Draws from the global generator."""

    __module__ = "tests"

    def element(self, point, group, state):
        like = next(iter(point.params.values()))
        return group.exp([0.1 * torch.randn(len(like), *s).to(like) for s in group.algebra_shapes]), state


@pytest.mark.parametrize(
    ("teleport", "law"),
    [
        (Lazy, "the gradient changes"),
        (Shared, "moves of a stack"),
        (Stale, "the gradient it gives is that of the loss at the new point"),
        (Drifting, "the loss is unchanged"),
        (Restless, "tasks that are not alive stay"),
        (Noisy, "equal arguments give equal moves, whatever torch's global generator"),
    ],
)
def test_a_broken_teleport_is_caught_by_name(teleport, law):
    with pytest.raises(AssertionError, match=law):
        check_teleport(teleport())
