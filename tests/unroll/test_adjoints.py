"""Adjoints are clipped task by task, and no more than is asked for."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from metatele.tasks import TeacherStudent
from torch import Tensor

from metatele import (
    ConfigError,
    CoordinateUpdate,
    GradientDescent,
    InnerOptimizer,
    MetaBatch,
    MetaSettings,
    NeuronTeleport,
    TensorUpdate,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.unroll import Engine, Window
from metatele.unroll.compiled import CompiledUnroll, Programs, chunks, program, programs
from metatele.unroll.trajectory import Position

OPTIMIZERS = {
    "gd": lambda: InnerOptimizer(GradientDescent(0.05, learn=True)),
    "tensors": lambda: InnerOptimizer(TensorUpdate(4)),
    "coordinates, teleports": lambda: InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(3)),
}
FAMILY = TeacherStudent(3, 5, 2, rows=12)


def batch_of(tasks: Sequence[int], family: TeacherStudent = FAMILY) -> MetaBatch:
    return sample_meta_batch(family, "train", tasks).to(torch.float64)


def score(window: Window) -> Tensor:
    return (window.meta_losses + 1e-6).log().mean()


def window_gradient(
    play: Engine, inner: InnerOptimizer, begin: Position, steps: int, piece: int | None = None
) -> Tensor:
    """The meta-gradient of a window, all learned weights as one vector."""
    inner.zero_grad()
    play.gradient(begin, steps, score, piece)
    return torch.cat([p.grad.flatten() for p in inner.parameters() if p.grad is not None])


def gradient(
    inner: InnerOptimizer, tasks: Sequence[int], clip: float | None, steps: int = 6, piece: int | None = None
) -> Tensor:
    """That of a window that begins after two steps."""
    play = Unroll(inner, batch_of(tasks), 20, True, clip)
    begin = play.window(play.start(), 2, differentiable=False).end
    return window_gradient(play, inner, begin, steps, piece)


@pytest.fixture(params=OPTIMIZERS)
def inner(request: pytest.FixtureRequest) -> InnerOptimizer:
    made = OPTIMIZERS[request.param]()
    Unroll(made, batch_of([0]), 1)  # binds it
    made.double().initialise(3)
    return made.double()


def test_what_is_small_stays_as_it_is(inner: InnerOptimizer) -> None:
    exact = gradient(inner, range(3), None)
    torch.testing.assert_close(gradient(inner, range(3), 1e6), exact, rtol=1e-12, atol=0)
    assert float((gradient(inner, range(3), 1e-3) - exact).norm()) > 1e-3 * float(exact.norm())


def test_each_task_is_clipped_by_itself(inner: InnerOptimizer) -> None:
    together = gradient(inner, range(3), 1e-2)
    alone = torch.stack([gradient(inner, [i], 1e-2) for i in range(3)]).mean(0)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12 * float(alone.abs().max()))


def test_pieces_of_a_window_give_the_same(inner: InnerOptimizer) -> None:
    whole = gradient(inner, range(2), 1e-2)
    torch.testing.assert_close(gradient(inner, range(2), 1e-2, piece=2), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
def test_the_compiled_engine_does_it_alike(
    inner: InnerOptimizer, second_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, too, and where tasks are played in chunks, whose meta-loss is not that of all."""
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: lambda values: graph(*values))
    monkeypatch.setattr(programs, "compiling", nullcontext)
    given = inner, batch_of(range(4)), 20, second_order
    plain, exact = Unroll(*given, 1e-2), Unroll(*given)
    begin = plain.start()

    def slopes(play: Engine, piece: int | None = None) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="unroll.engine")  # falling back on 'higher'
            return window_gradient(play, inner, begin, 5, piece)

    expected = slopes(plain)
    assert float((expected - slopes(exact)).norm()) > 1e-3 * float(expected.norm()), "nothing was clipped"
    for split in (False, True):
        if split:
            size = sum(t.nbytes for t in (*begin.params.values(), *begin.state.tensors()))
            monkeypatch.setattr(chunks, "CHUNK_BYTES", size // 2 + 1)
        assert len(chunks.split(begin, False)) == 1 + split
        for piece in (None, 2):
            found = slopes(CompiledUnroll(Programs(), *given, 1e-2), piece)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_of_one_step_the_effect_is_what_was_asked_for() -> None:
    """With f = -lr g the effect of a relative change of the step is lr times the derivative by lr, at most."""
    inner = InnerOptimizer(GradientDescent(0.05, learn=True)).double()
    play = Unroll(inner, batch_of([4]), 5, True)
    begin, batch = play.start(), play.batch
    x, y = batch.rows("inner")
    after = play.window(begin, 1, differentiable=False).end.params
    leaves = {k: p.clone().requires_grad_() for k, p in after.items()}
    (batch.losses(batch.predict(leaves, x), y) + 1e-6).log().mean().backward()
    effects = [
        float(p.grad.norm() * (p.detach() - begin.params[k]).norm()) for k, p in leaves.items() if p.grad is not None
    ]
    effect = float(torch.tensor(effects, dtype=torch.float64).norm())

    def slope(clip: float | None) -> float:
        play = Unroll(inner, batch, 5, True, clip)
        inner.zero_grad()
        play.gradient(begin, 1, score)
        return float(next(iter(inner.parameters())).grad)

    assert slope(effect * 1.001) == pytest.approx(slope(None), rel=1e-12)
    assert slope(effect / 4) == pytest.approx(slope(None) / 4, rel=1e-9)


def test_a_chaotic_task_does_not_drown_the_others() -> None:
    """Of a deep network, by gradient descent with a step size at which some tasks are chaotic."""
    lr, clip, steps = 0.8, 0.3, 30
    inner = InnerOptimizer(GradientDescent(lr, learn=True)).double()
    family = TeacherStudent(3, 5, 2, 3, rows=12, activation="tanh")

    def slope(tasks: Sequence[int], clip: float | None) -> float:
        play = Unroll(inner, batch_of(tasks, family), 40, True, clip)
        inner.zero_grad()
        play.gradient(play.start(), steps, score)
        return float(next(iter(inner.parameters())).grad)

    calm, wild = 5, 0
    assert abs(slope([calm], None)) < 2
    assert abs(slope([calm, wild], None)) > 1e6
    of_wild = 2 * slope([calm, wild], clip) - slope([calm], clip)
    assert abs(of_wild) <= steps * clip / lr, "each step of it counts as much as was asked for, or less"


def test_adjoints_that_overflow_are_left_out() -> None:
    inner = InnerOptimizer(GradientDescent(0.05, learn=True)).double()
    play = Unroll(inner, batch_of([0, 1]), 5, True, 0.5)

    def huge(window: Window) -> Tensor:
        return (window.meta_losses * torch.tensor([1.0, 1e308])).sum()

    play.gradient(play.start(), 3, huge)
    both = float(next(iter(inner.parameters())).grad)
    assert both == both, "no NaN"
    assert 0 < abs(both) < 100


def test_meta_training_takes_it_and_says_so(tmp_path) -> None:
    unroll = UnrollSettings(6, 3, adjoint_clip=0.3)
    meta = MetaSettings(2, 2, phases=[{"iterations": 1}, {"iterations": 1, "adjoint_clip": 0.2}])  # type: ignore[list-item]
    inner = InnerOptimizer(TensorUpdate(4))
    meta_train(inner, FAMILY, unroll, meta, ValidationSettings(2, 2), output=tmp_path / "run")
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "second order, adjoints clipped at 0.3" in card
    assert "adjoints clipped at 0.2" in card


@pytest.mark.parametrize("wrong", [0, -1.0, "much"])
def test_a_wrong_value_is_named(wrong) -> None:
    with pytest.raises(ConfigError, match=f"unroll.adjoint_clip.*{wrong}"):
        UnrollSettings(adjoint_clip=wrong)


def test_an_evolution_strategy_has_no_use_for_it() -> None:
    unroll = UnrollSettings(6, 3, second_order=False, adjoint_clip=0.3)
    with pytest.raises(ConfigError, match=r"unroll.adjoint_clip is of no use to estimator 'pes'.*null"):
        meta_train(InnerOptimizer(TensorUpdate(4)), FAMILY, unroll, MetaSettings(2, 2, estimator="pes"))
