"""The engine 'compiled' gives what 'higher' gives.

Most tests run what it traces operation by operation: compiling takes half a minute, and is tested apart (`slow`).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from metatele.tasks import PaperRegression
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
    TorchUpdate,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training import trainer
from metatele.meta_training.meta_loss import meta_loss
from metatele.parts.point import Point, State
from metatele.recurrent import cells
from metatele.task.params import Params, flatten, map_params
from metatele.testing import ExampleFamily
from metatele.unroll.compiled import CompiledUnroll, Programs, chunks, program, programs
from metatele.unroll.compiled import unroll as compiled_engine
from metatele.unroll.trajectory import Outcome, Position, Window
from tests.unroll.test_fast_paths import CASES, assert_same

# All cases but random teleports, which Python draws; the one that stands for the rest is tested each time.
FOLLOWED = [
    pytest.param(case, marks=[] if case == "dense, paper" else [pytest.mark.slow])
    for case in CASES
    if case != "no biases"
]
BOTH_ORDERS = pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced is run by torch, operation by operation."""
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: lambda values: graph(*values))
    monkeypatch.setattr(
        programs, "compiling", nullcontext
    )  # takes a sixth of the time, which long runs alone give back


@pytest.fixture(autouse=True)
def surprises() -> Iterator[None]:
    """Falling back on 'higher' is to be noticed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="unroll.engine")
        yield


def score(window: Window) -> Tensor:
    return meta_loss(window, MetaSettings(loss="log"), 1)


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
        window, loss = play.gradient(position, length, score, piece)
        position = window.end
        out += [*numbers(window), torch.tensor(loss)]
        out.append(torch.tensor([p.grad is None for p in inner.parameters()]))
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
    return plain, compiled_twin(plain)


def compiled_twin(plain: Unroll, programs: Programs | None = None) -> CompiledUnroll:
    """The same tasks and inner optimizer by compiled steps."""
    settings = plain.steps, plain.second_order, plain.adjoint_clip
    return CompiledUnroll(programs or Programs(), plain.inner, plain.batch, *settings)


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
    training.enter()
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
@pytest.mark.parametrize("case", ["dense, paper", "size-free, after, minibatches", "tensors"])
def test_meta_training_is_the_same_when_it_is_compiled(
    case: str, second_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    assert_same(meta_trained(case, second_order, "compiled"), meta_trained(case, second_order, "higher"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH_ORDERS
@pytest.mark.parametrize(
    "case", ["dense, paper", "size-free, after, minibatches", "tensors", "small MLP", "Celo, after, minibatches"]
)
def test_windows_recorded_on_a_gpu_are_the_same(case: str, second_order: bool) -> None:
    make, family = CASES[case]
    inner = make().double()
    batch = sample_meta_batch(family, "train", range(3)).to(torch.float64, "cuda")
    plain = Unroll(inner, batch, 6, second_order)
    inner.double().initialise(3)
    assert_agree(plain, compiled_twin(plain), windows=2)


@pytest.mark.slow
def test_results_lie_as_they_were_traced() -> None:
    """The compiler makes a result a view of another, if it can: here of what it was joined into."""
    x, y = torch.randn(3, 4), torch.randn(3, 2)

    def joined(values: Sequence[Tensor]) -> list[Tensor]:
        doubled = values[0] * 2
        both = torch.cat([doubled, values[1]], 1)
        return [program.in_layout(doubled, (4, 1)), both]

    (doubled, both), _ = program.Program(joined, [x, y]).forward([x, y])
    assert doubled.stride() == (4, 1)
    torch.testing.assert_close((doubled, both), (2 * x, torch.cat([2 * x, y], 1)))


@pytest.mark.slow
def test_float32_is_as_precise() -> None:
    """The polynomials in place of tanh are single precision's only."""
    inner = InnerOptimizer(DenseUpdate(50), DenseTeleport(50, symmetry="data_dependent"), "after")
    batch, wide = (
        sample_meta_batch(PaperRegression(), "train", range(8)).to(t) for t in (torch.float32, torch.float64)
    )
    plain = Unroll(inner, batch, 3)
    inner.initialise(3)
    by_higher, by_compiled = (played(play, windows=1) for play in (plain, compiled_twin(plain)))
    inner.double()
    for exact, a, b in zip(played(Unroll(inner, wide, 3), windows=1), by_higher, by_compiled, strict=True):
        size = float(exact.double().abs().max())
        of_higher, of_compiled = (float((t.double() - exact.double()).abs().max()) for t in (a, b))
        assert of_compiled <= 3 * of_higher + 1e-6 * size


@pytest.mark.parametrize("rows", [3, 8, 9])
def test_turned_weights(rows: int, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large cells, on few rows, on more, and on enough for their weights to be turned."""
    monkeypatch.setattr(cells, "SMALL_CELL", 0)
    inner = InnerOptimizer(DenseUpdate(5), DenseTeleport(4, layers=1, symmetry="data_dependent"), "after")
    assert_agree(*pair(inner, PaperRegression(size=3), tasks=rows))


def test_frozen_weights_and_weights_of_other_parts(traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "SMALL_CELL", 0)
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


@pytest.mark.slow
@pytest.mark.parametrize("data", [{}, {"rows": 24, "batch_size": 4, "parts": (0.5, 0.5, 0.0)}])
@pytest.mark.parametrize("last", [0, 4])
def test_large_cells_at_some_steps(
    data: dict[str, Any], last: int, traced_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that no step of a window plays have no gradient there; Adam leaves them alone."""
    monkeypatch.setattr(cells, "SMALL_CELL", 0)
    teleport = DenseTeleport(4, last=last)
    teleport.every = 2
    assert_agree(*pair(InnerOptimizer(DenseUpdate(5), teleport), ExampleFamily(**data)), piece=2)


FEW_STEPS = {
    "first window": (lambda: InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(3, last=1)), ExampleFamily()),
    "nothing later": (lambda: InnerOptimizer(GradientDescent(0.01), NeuronTeleport(3, last=1)), ExampleFamily()),
}


@pytest.mark.parametrize("case", FEW_STEPS)
@pytest.mark.parametrize(
    ("engine", "piece"),
    [("higher", 1), *(pytest.param("compiled", piece, marks=pytest.mark.slow) for piece in (None, 1))],
)
def test_weights_that_no_step_uses_stay(
    case: str, engine: str, piece: int | None, traced_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's momentum does not move them, whatever plays the windows."""
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)
    monkeypatch.setitem(CASES, case, FEW_STEPS[case])
    assert_same(meta_trained(case, True, engine, piece), meta_trained(case, True, "higher"))


class Twice(CoordinateUpdate):
    """Asks its LSTM twice in a step."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        first, _ = super().propose(point, state)
        second, state = super().propose(point, state)
        return {k: first[k] + second[k] for k in first}, state


@pytest.mark.parametrize("small", [True, False])
def test_cells_that_are_asked_twice(small: bool, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = pair(InnerOptimizer(Twice(3)), ExampleFamily())
    if small:
        assert_agree(plain, compiled)
        return
    monkeypatch.setattr(cells, "SMALL_CELL", 0)
    plain, compiled = pair(InnerOptimizer(Twice(3)), ExampleFamily())
    with pytest.warns(UserWarning, match="used more than once"):
        found = played(compiled)
    for a, e in zip(found, played(plain), strict=True):
        torch.testing.assert_close(a, e)


class RandomFeatures(ExampleFamily):
    """Its networks have random buffers, and a frozen layer."""

    def network(self) -> nn.Module:
        class Features(nn.Sequential):
            def __init__(self, layers: nn.Sequential) -> None:
                super().__init__(*layers)
                self.register_buffer("projection", torch.randn(4, 4))

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x @ self.projection)

        features = Features(super().network())
        features[0].requires_grad_(False)
        return features


def test_buffers_and_frozen_parameters_are_each_tasks_own(traced_only: None) -> None:
    inner, programs = InnerOptimizer(CoordinateUpdate(3)), Programs()
    inner.double()
    for seed in (0, 1):
        batch = sample_meta_batch(RandomFeatures(), "train", range(3), seed).to(torch.float64)
        plain = Unroll(inner, batch, 6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_agree(plain, compiled_twin(plain, programs), windows=2)


@pytest.mark.slow
def test_weights_that_are_frozen_on_the_way(traced_only: None) -> None:
    inner = InnerOptimizer(CoordinateUpdate(3), NeuronTeleport(3))
    plain, compiled = pair(inner, ExampleFamily())
    assert_agree(plain, compiled, windows=1)
    for p in list(inner.parameters())[:3]:
        p.requires_grad_(False)
    again = compiled_twin(plain, compiled.programs)
    assert_agree(plain, again, windows=1)


def test_somebody_who_listens_to_teleports(traced_only: None) -> None:
    plain, compiled = pair(InnerOptimizer(CoordinateUpdate(3), NeuronTeleport(3)), ExampleFamily())
    heard: list[int] = []
    plain.inner.teleport.observer = lambda step, *_: heard.append(step)  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="its teleports have an observer"):
        played(compiled, windows=1)
    assert heard == [0, 1, 2]


@pytest.mark.parametrize("tasks", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7))])
def test_chunks_of_tasks(tasks: int, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4))
    family = ExampleFamily(rows=12, batch_size=2, parts=(0.5, 0.5, 0.0))
    plain, compiled = pair(inner, family, tasks=tasks)
    tensors = [*plain.start().params.values(), *plain.start().state.tensors()]
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * sum(t.nbytes for t in tensors) // tasks + 1)
    assert [c.tasks for c in chunks.split(plain.start(), False)] == {1: [1], 4: [2, 2], 7: [1, 2, 2, 2]}[tasks]
    assert_agree(plain, compiled)


@pytest.mark.parametrize("checked", [2, 5, 50])
def test_a_window_without_a_gradient(checked: int, traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_engine, "CHECKED", checked)
    plain, compiled = pair(InnerOptimizer(CoordinateUpdate(4), NeuronTeleport(4)), ExampleFamily())
    expected = plain.window(plain.start(), 5, differentiable=False)
    for a, e in zip(
        numbers(compiled.window(compiled.start(), 5, differentiable=False)), numbers(expected), strict=True
    ):
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
def test_tasks_that_diverge(
    shared: bool, second_order: bool, traced_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window in which a task diverges is played by 'higher'; later ones are compiled, with the task at rest."""
    options: dict[str, Any] = {} if shared else {"parts": (0.5, 0.5, 0.0), "rows": 8}
    plain, compiled = pair(
        InnerOptimizer(GradientDescent(0.03, learn=True), NeuronTeleport(3)), Explosive(**options), second_order
    )
    assert_agree(plain, compiled, windows=3)
    longer = []
    monkeypatch.setattr(compiled_engine, "CHECKED", 3)
    own = compiled.plain
    monkeypatch.setattr(own, "window", lambda *a, w=own.window, **o: longer.append(a[1]) or w(*a, **o))
    early, late = (compiled.window(compiled.start(), n, differentiable=False).end for n in (6, 9))
    assert set(longer) == {3}  # only the steps around a divergence are played by `higher`
    assert 2 <= len(longer) < 5
    assert set(early.outcomes) == {Outcome.DIVERGED, Outcome.FINISHED}
    assert early.outcomes == late.outcomes
    longer.clear()
    found = compiled.gradient(early, 3, score)
    assert not longer  # by compiled steps
    torch.testing.assert_close(flatten(found.window.end.params), flatten(late.params))


def test_all_tasks_have_diverged(traced_only: None) -> None:
    plain, compiled = pair(
        InnerOptimizer(GradientDescent(0.1, learn=True), NeuronTeleport(3)), ExampleFamily(), tasks=2
    )
    begin = plain.start()
    nobody = Position(begin.params, begin.state, 0, begin.alive & False, begin.stopped_at, begin.initial_loss)
    found = compiled.gradient(nobody, 2, score)
    assert found.loss == pytest.approx(float(begin.bar.log().mean()))
    assert found.window.end.step == 2
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


class Growing(GradientDescent):
    """What it remembers changes its type."""

    def start(self, params: Params) -> State:
        return State(memory=(torch.zeros(len(next(iter(params.values())))),))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        return super().propose(point, State())[0], State(memory=(state.memory[0].double() + 1,))


class Noisy(GradientDescent):
    """Draws random numbers while it steps."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        stream = torch.Generator().manual_seed(point.step if isinstance(point.step, int) else 0)
        step, state = super().propose(point, state)
        return {k: f * torch.rand(f.shape, generator=stream, dtype=f.dtype) for k, f in step.items()}, state


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (InnerOptimizer(GlobalStepSize(4), RandomTeleport()), "GlobalStepSize and RandomTeleport on ExampleFamily"),
        (InnerOptimizer(Wayward(learn=True)), "Wayward on ExampleFamily"),
        (InnerOptimizer(Growing(learn=True)), "Growing on ExampleFamily"),
        (InnerOptimizer(Noisy(learn=True)), "Noisy on ExampleFamily.* random numbers are drawn"),
        (
            InnerOptimizer(TorchUpdate("AdamW", {"lr": 0.01}), NeuronTeleport(3)),
            "TorchUpdate and NeuronTeleport on ExampleFamily",
        ),
    ],
)
def test_what_cannot_be_followed_is_played_by_higher(inner: InnerOptimizer, name: str, traced_only: None) -> None:
    plain, compiled = pair(inner, ExampleFamily())
    with pytest.warns(UserWarning, match=f"cannot follow {name}"):
        found = played(compiled)
    assert compiled.programs.refused
    for a, e in zip(found, played(plain), strict=True):
        torch.testing.assert_close(a, e)
    compiled.window(compiled.start(), 2, differentiable=False)  # once said is enough


def test_a_window_that_cannot_be_recorded(traced_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps are launched one by one."""

    def fail(*arguments: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(compiled_engine, "_recordable", lambda begin: True)
    monkeypatch.setattr(compiled_engine, "GraphedWindow", fail)
    plain, compiled = pair(InnerOptimizer(CoordinateUpdate(3)), ExampleFamily())
    with pytest.warns(UserWarning, match="as CUDA graphs.* stream is capturing") as told:
        assert_agree(plain, compiled)
    assert len(told) == 1


@pytest.mark.parametrize("data", [{"rows": 9}, {"rows": 12, "batch_size": 4}])
def test_errors_of_a_user_stay_what_they_are(data: dict[str, Any], traced_only: None) -> None:
    """Other than three rows for a group of three inputs, which `higher` would say, too."""
    family = ExampleFamily((3, 3, 3, 2), (nn.LeakyReLU(0.2),) * 2, **data)
    inner = InnerOptimizer(GradientDescent(0.01, learn=True), DenseTeleport(4, symmetry="data_dependent"), "after")
    plain, compiled = pair(inner, family)
    for play in (plain, compiled):
        with pytest.raises(SymmetryError, match="as many data rows as the layer has inputs"):
            played(play)


@pytest.mark.slow
@BOTH_ORDERS
def test_a_group_of_drawn_data(second_order: bool, traced_only: None) -> None:
    family = ExampleFamily((3, 3, 3, 2), (nn.LeakyReLU(0.2),) * 2, rows=24, batch_size=3, parts=(0.5, 0.5, 0.0))
    inner = InnerOptimizer(CoordinateUpdate(3), DenseTeleport(4, symmetry="data_dependent"), "after")
    assert_agree(*pair(inner, family, second_order))


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
        play = CompiledUnroll(programs, inner, batch, 6, True)
        played(play, windows=2)
        play.window(play.start(), 3, differentiable=False)  # a program with a backward pass serves without one, too
    assert len(counted) == 1


@pytest.mark.parametrize("engine", ["lower", "", None])
def test_an_engine_that_there_is_not(engine: Any) -> None:
    with pytest.raises(ConfigError, match=r"unroll\.engine must be one of higher, compiled"):
        UnrollSettings(engine=engine)
