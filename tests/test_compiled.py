"""The engine 'compiled' gives what 'higher' gives.

Most tests run what it traces operation by operation: compiling takes half a minute, and is tested apart (`slow`).
"""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from metatele.tasks import PaperRegression
from test_fast_paths import CASES, assert_same
from torch import Tensor, nn

from metatele import (
    ConfigError,
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    NeuronTeleport,
    RandomTeleport,
    SymmetryError,
    TaskFamily,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.compiled import CompiledUnroll, Programs, chunks, program
from metatele.meta_training import trainer
from metatele.meta_training.meta_gradient import play_window
from metatele.meta_training.meta_loss import meta_loss
from metatele.params import Params, flatten, map_params
from metatele.point import Point, State
from metatele.recurrent import traced
from metatele.testing import ExampleFamily
from metatele.unroll import Outcome, Position, Window

# All cases but random teleports, which Python draws; those that stand for the rest are tested each time.
FOLLOWED = [
    pytest.param(case, marks=[] if case in ("dense, paper", "global step size") else [pytest.mark.slow])
    for case in CASES
    if case != "no biases"
]
BOTH_ORDERS = pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced is run by torch, operation by operation."""
    monkeypatch.setattr(program, "_compile", lambda graph, inputs: lambda values: graph(*values))


@pytest.fixture(autouse=True)
def surprises() -> Iterator[None]:
    """Falling back on 'higher' is to be noticed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="unroll.engine")
        yield


def score(window: Window) -> Tensor | None:
    return meta_loss(window, "log", True)


def numbers(window: Window) -> list[Tensor]:
    """All that a window tells."""
    end = window.end
    return [
        window.meta_losses.detach()[:, end.alive],
        window.inner_losses[:, end.alive],
        window.gradient_norms[:, end.alive],
        flatten(end.params),
        *end.state.tensors(),
        torch.tensor([end.state.since, end.step]),
        end.stopped_at,
    ]


def played(
    play: Unroll | CompiledUnroll,
    windows: int = 3,
    length: int = 3,
    piece: int | None = None,
    begin: Position | None = None,
) -> list[Any]:
    """All numbers of some windows one after the other, with their meta-gradients."""
    position, out = begin or play.start(), list[Any]()
    inner = play.inner if isinstance(play, Unroll) else play.plain.inner
    for _ in range(windows):
        for p in inner.parameters():
            p.grad = None
        window, loss = play_window(play, position, length, score, piece)
        position = window.end
        out += [*numbers(window), torch.tensor(float("nan") if loss is None else loss)]
        out += [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in inner.parameters()]
    return out


def pair(
    inner: InnerOptimizer, family: TaskFamily, second_order: bool = True, tasks: int = 4, steps: int = 9
) -> tuple[Unroll, CompiledUnroll]:
    """The same meta-batch by both engines, in float64."""
    batch = sample_meta_batch(family, "train", range(tasks)).to(torch.float64)
    plain = Unroll(inner, batch, steps, second_order)
    inner.double().initialise(3)
    inner.double()
    return plain, CompiledUnroll(plain, Programs())


def assert_agree(plain: Unroll, compiled: CompiledUnroll, **options: Any) -> None:
    expected = played(plain, **options)
    found = played(compiled, **options)
    assert len(found) == len(expected)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a, e, rtol=0, atol=1e-9 * max(float(e.double().abs().max()), 1e-3), check_dtype=False
        )


def meta_trained(case: str, second_order: bool, engine: str, checkpoint: int | None = None) -> list[Any]:
    """What a few iterations of meta-training tell, and the weights that they end with."""
    make, family = CASES[case]
    unroll = UnrollSettings(6, 4, second_order, checkpoint, engine)  # type: ignore[arg-type]
    meta = MetaSettings(iterations=3, tasks=3, lr=1e-2, teleport_lr=3e-3, clip=0.3)
    training = trainer.MetaTrainer(make(), [family], unroll, meta, ValidationSettings(tasks=2, every=1))
    training.inner.double()
    training.initialise()
    training.make_adam()
    told = [(i.meta_loss, i.gradient_norm, i.validation) for i in training.iterations()]
    learned = [p.detach() for p in training.inner.parameters()]
    return [*(n for row in told for n in row), *learned]


@BOTH_ORDERS
@pytest.mark.parametrize("case", FOLLOWED)
def test_meta_training_is_the_same(
    case: str, second_order: bool, traced_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    expected = meta_trained(case, second_order, "higher")
    for checkpoint in (None, 2):
        assert_same(meta_trained(case, second_order, "compiled", checkpoint), expected)


@pytest.mark.slow
@BOTH_ORDERS
@pytest.mark.parametrize("case", ["dense, paper", "size-free, after, minibatches"])
def test_meta_training_is_the_same_when_it_is_compiled(
    case: str, second_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    assert_same(meta_trained(case, second_order, "compiled"), meta_trained(case, second_order, "higher"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH_ORDERS
@pytest.mark.parametrize("case", ["dense, paper", "size-free, after, minibatches"])
def test_windows_recorded_on_a_gpu_are_the_same(case: str, second_order: bool) -> None:
    make, family = CASES[case]
    inner = make().double()
    batch = sample_meta_batch(family, "train", range(3)).to(torch.float64, "cuda")
    plain = Unroll(inner, batch, 6, second_order)
    inner.double().initialise(3)
    assert_agree(plain, CompiledUnroll(plain, Programs()), windows=2)


@pytest.mark.slow
def test_float32_is_as_precise() -> None:
    """The polynomials in place of tanh are single precision's only."""
    inner = InnerOptimizer(DenseUpdate(50), DenseTeleport(50, symmetry="data_dependent"), "after")
    batch, wide = (
        sample_meta_batch(PaperRegression(), "train", range(8)).to(t) for t in (torch.float32, torch.float64)
    )
    plain = Unroll(inner, batch, 3)
    inner.initialise(3)
    by_higher, by_compiled = (played(play, windows=1) for play in (plain, CompiledUnroll(plain, Programs())))
    inner.double()
    for exact, a, b in zip(played(Unroll(inner, wide, 3), windows=1), by_higher, by_compiled, strict=True):
        size = float(exact.double().abs().max())
        of_higher, of_compiled = (float((t.double() - exact.double()).abs().max()) for t in (a, b))
        assert of_compiled <= 3 * of_higher + 1e-6 * size


@pytest.mark.parametrize("rows", [3, 8])
def test_turned_weights(rows: int, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large cells, on few rows and on enough for their weights to be turned."""
    monkeypatch.setattr(traced, "SMALL", 0)
    inner = InnerOptimizer(DenseUpdate(5), DenseTeleport(4, layers=1, symmetry="data_dependent"), "after")
    assert_agree(*pair(inner, PaperRegression(size=3), tasks=rows))


def test_frozen_weights_and_weights_of_other_parts(traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "SMALL", 0)
    inner = InnerOptimizer(GradientDescent(0.05, learn=True), NeuronTeleport(3))
    for name, p in inner.named_parameters():
        p.requires_grad_("head" not in name)
    plain, compiled = pair(inner, ExampleFamily())
    assert_agree(plain, compiled)
    assert inner.update.log_lr.grad is not None
    assert all(p.grad is None for p in inner.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("order", "moments"),
    [
        ("before", "transform"),
        ("after", "reset"),
        *(
            pytest.param(o, m, marks=pytest.mark.slow)
            for o in ("before", "after")
            for m in ("keep", "transform", "reset")
        ),
    ],
)
def test_teleports_at_some_steps(order: Any, moments: Any, traced_only: None) -> None:
    """Steps with a teleport and steps without have programs of their own."""
    teleport = NeuronTeleport(4, first=1, last=6)
    teleport.every = 2
    inner = InnerOptimizer(CoordinateUpdate(4), teleport, order, moments)
    assert_agree(*pair(inner, ExampleFamily()), piece=2)


@pytest.mark.parametrize("tasks", [pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 7])
def test_chunks_of_tasks(tasks: int, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4))
    family = ExampleFamily(rows=12, batch_size=2, parts=(0.5, 0.5, 0.0))
    plain, compiled = pair(inner, family, tasks=tasks)
    tensors = [*plain.start().params.values(), *plain.start().state.tensors()]
    monkeypatch.setattr(chunks, "ENOUGH", 2 * sum(t.nbytes for t in tensors) // tasks + 1)
    assert [c.tasks for c in chunks.split(plain.start(), False)] == {1: [1], 4: [2, 2], 7: [1, 2, 2, 2]}[tasks]
    assert_agree(plain, compiled)


def test_a_window_without_a_gradient(traced_only: None) -> None:
    plain, compiled = pair(InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4)), ExampleFamily())
    expected = plain.window(plain.start(), 5, differentiable=False)
    for a, e in zip(numbers(compiled.window(compiled.start(), 5)), numbers(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


class Explosive(ExampleFamily):
    """Tasks of which the second and the third diverge."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drawn = 0

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = super().sample(generator)
        self.drawn += 1
        return x * (30.0 if self.drawn in (2, 3) else 1.0), y


@BOTH_ORDERS
@pytest.mark.parametrize("shared", [True, False])
def test_tasks_that_diverge(shared: bool, second_order: bool, traced_only: None) -> None:
    """A window in which a task diverges is played by 'higher'; later ones are compiled, with the task at rest."""
    options: dict[str, Any] = {} if shared else {"parts": (0.5, 0.5, 0.0), "rows": 8}
    plain, compiled = pair(
        InnerOptimizer(GradientDescent(0.03, learn=True), NeuronTeleport(3)), Explosive(**options), second_order
    )
    assert_agree(plain, compiled, windows=3)
    early, late = (compiled.window(compiled.start(), n).end for n in (6, 9))
    assert set(early.outcomes) == {Outcome.DIVERGED, Outcome.FINISHED}
    assert early.outcomes == late.outcomes
    found = compiled.gradient(early, 3, score)
    assert found is not None  # by compiled steps
    torch.testing.assert_close(flatten(found[0].end.params), flatten(late.params))


def test_all_tasks_have_diverged(traced_only: None) -> None:
    plain, compiled = pair(
        InnerOptimizer(GradientDescent(0.1, learn=True), NeuronTeleport(3)), ExampleFamily(), tasks=2
    )
    begin = plain.start()
    nobody = Position(begin.params, begin.state, 0, begin.alive & False, begin.stopped_at, begin.initial_loss)
    found = compiled.gradient(nobody, 2, score)
    assert found is not None
    assert found[1] is None
    assert all(p.grad is None for p in plain.inner.parameters())


def test_what_is_presumed_in_vain_is_said(traced_only: None) -> None:
    inner = InnerOptimizer(DenseUpdate(4), DenseTeleport(4, norm=0.9, size="fixed", symmetry="data_dependent"), "after")
    plain, compiled = pair(inner, PaperRegression(size=3))
    with pytest.warns(UserWarning, match=r"took for granted that no Lie algebra element .* above 0\.25"):
        found = played(compiled)
    for a, e in zip(found, played(plain), strict=True):
        torch.testing.assert_close(a, e)


class Wayward(GradientDescent):
    """Its step hangs on a number."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, state = super().propose(point, state)
        return (step if next(iter(step.values())).sum() > 0 else map_params(lambda f: 0.5 * f, step)), state


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (InnerOptimizer(GlobalStepSize(4), RandomTeleport()), "GlobalStepSize and RandomTeleport on ExampleFamily"),
        (InnerOptimizer(Wayward(learn=True)), "Wayward on ExampleFamily"),
    ],
)
def test_what_cannot_be_followed_is_played_by_higher(inner: InnerOptimizer, name: str, traced_only: None) -> None:
    plain, compiled = pair(inner, ExampleFamily())
    with pytest.warns(UserWarning, match=f"cannot follow {name}"):
        found = played(compiled)
    assert compiled.programs.refused
    for a, e in zip(found, played(plain), strict=True):
        torch.testing.assert_close(a, e)
    compiled.window(compiled.start(), 2)  # once said is enough


def test_errors_of_a_user_stay_what_they_are(traced_only: None) -> None:
    """Too many rows for the group, which `higher` would say, too."""
    family = ExampleFamily(activations=(nn.Tanh(), nn.Tanh()), rows=9)
    inner = InnerOptimizer(GradientDescent(0.01, learn=True), DenseTeleport(4, symmetry="data_dependent"), "after")
    with pytest.raises(SymmetryError):
        played(pair(inner, family)[1])


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no working C++ compiler\nand a long story")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", fail)
    with pytest.raises(ConfigError, match=r"could not compile: RuntimeError: no working C\+\+ compiler; .*g\+\+"):
        played(pair(InnerOptimizer(GradientDescent(0.01, learn=True)), ExampleFamily())[1])


def test_in_place_operations(traced_only: None) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1).add_(1.0).mul_(0.5)

    family = ExampleFamily(activations=(InPlace(), None))
    assert_agree(*pair(InnerOptimizer(CoordinateUpdate(3)), family))


@pytest.mark.slow
def test_several_families_share_an_optimizer(traced_only: None) -> None:
    families = [ExampleFamily(), ExampleFamily(widths=(3, 5, 2), activations=(nn.ReLU(),))]
    made = []
    for engine in ("higher", "compiled"):
        settings = {
            "unroll": UnrollSettings(steps=4, window=2, engine=engine),  # type: ignore[arg-type]
            "meta": MetaSettings(iterations=4, tasks=2),
            "validation": ValidationSettings(tasks=3, every=2),
        }
        made.append(meta_train(InnerOptimizer(CoordinateUpdate(3), NeuronTeleport(3)), families, **settings))  # type: ignore[arg-type]
    for a, b in zip(made[0].history, made[1].history, strict=True):
        assert a.meta_loss == pytest.approx(b.meta_loss, rel=1e-3)
        assert (a.validation is None) == (b.validation is None)
        if a.validation is not None:
            assert a.validation == pytest.approx(b.validation, rel=1e-3)


def test_programs_are_made_once(traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    original = program.Program.__init__

    def count(self: Any, *arguments: Any) -> None:
        counted.append(self)
        original(self, *arguments)

    monkeypatch.setattr(program.Program, "__init__", count)
    inner, programs = InnerOptimizer(CoordinateUpdate(3), NeuronTeleport(3)), Programs()
    inner.double()
    for first in (0, 4):
        batch = sample_meta_batch(ExampleFamily(), "train", range(first, first + 4)).to(torch.float64)
        play = CompiledUnroll(Unroll(inner, batch, 6, True), programs)
        played(play, windows=2)
        play.window(play.start(), 3)  # a program with a backward pass serves without one, too
    assert len(counted) == 1


@pytest.mark.parametrize("engine", ["lower", "", None])
def test_an_engine_that_there_is_not(engine: Any) -> None:
    with pytest.raises(ConfigError, match=r"unroll\.engine must be one of higher, compiled"):
        UnrollSettings(engine=engine)
