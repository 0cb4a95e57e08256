"""Estimators of the meta-gradient: what they estimate, how widely they scatter, and that nothing else changes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from metatele.tasks import GaussianMixture, TeacherStudent
from torch import Tensor, nn

import metatele.meta_training.trainer as trainer
from metatele import (
    Adam,
    CeloUpdate,
    ConfigError,
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    MetaSettings,
    MetaSGD,
    NeuronTeleport,
    SmallMLPUpdate,
    Stay,
    TaskFamily,
    TensorUpdate,
    TorchUpdate,
    UnrollSettings,
    Update,
    ValidationSettings,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training.estimators.particles import Particles
from metatele.meta_training.trainer import MetaTrainer
from metatele.parts.point import Point, State
from metatele.task.params import Params, flatten, map_params
from metatele.unroll import Unroll

ES = ("es", "pes", "nres")


class Line(TaskFamily):
    """One weight w that starts at 0, and the loss w: without curvature."""

    def network(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.ones(1, 1), torch.zeros(1, 1)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).sum()

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        for p in network.parameters():
            p.data.zero_()


class Bowl(Line):
    """One weight w that starts at 1, and the loss w^2 / 2."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum() / 2

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        for p in network.parameters():
            p.data.fill_(1)


class Drift(Update):
    """w <- w + a: after k steps w = k a, and sum_k w = a T (T + 1) / 2, of which truncation sees less."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))

    def initialise(self) -> None:
        self.a.data.fill_(0.3)

    def start(self, params: Params) -> State:
        return State()

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        return map_params(lambda p: self.a.expand_as(p), point.params), state


class Shrink(Drift):
    """w <- (1 - a) w."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        return map_params(lambda p: -self.a * p, point.params), state


STEPS, WINDOW, SIGMA = 6, 2, 0.1


def sums(case: str, a: float) -> float:
    """The mean over a trajectory's windows of the sum of each window's losses, by hand."""
    losses = [k * a if case == "line" else (1 - a) ** (2 * k) / 2 for k in range(1, STEPS + 1)]
    return sum(losses) * WINDOW / STEPS


def smoothed(case: str, estimator: str) -> float:
    """The gradient in a of the expectation of `sums` over the perturbations, by hand: by finite differences of Gaussian
    averages, which for these polynomials are exact up to their rounding."""
    if case == "line":
        return STEPS * (STEPS + 1) / 2 * WINDOW / STEPS
    shift, total = 1e-4, 0.0
    for sign in (1, -1):
        # With one perturbation for all steps, E (1-a-e)^2k; with one a window, the product over the windows so far.
        for k in range(1, STEPS + 1):
            before, own = divmod(k - 1, WINDOW)
            groups = [2 * k] if estimator == "nres" else [2 * WINDOW] * before + [2 * (own + 1)]
            total += sign * math.prod(moment(1 - 0.3 - sign * shift, n) for n in groups) / 2
    return total / (2 * shift) * WINDOW / STEPS


def moment(mean: float, n: int) -> float:
    """E (mean + SIGMA e)^n for a standard normal e."""
    return sum(
        math.comb(n, 2 * j) * mean ** (n - 2 * j) * SIGMA ** (2 * j) * math.prod(range(1, 2 * j, 2))
        for j in range(n // 2 + 1)
    )


def training(update: Update, family: TaskFamily, estimator: str, tasks: int, pairs: int | None = None) -> MetaTrainer:
    settings = UnrollSettings(STEPS, WINDOW, second_order=estimator == "bptt")
    meta = MetaSettings(1, tasks, "sum", False, lr=1e-30, clip=None, estimator=estimator, sigma=SIGMA, pairs=pairs)
    made = MetaTrainer(InnerOptimizer(update), [family], settings, meta, ValidationSettings(1, 1))
    made.initialise()
    made.enter()
    return made


def estimates(case: str, estimator: str, draws: int, number: int = 0) -> Tensor:
    """Estimates of the meta-gradient from one pair each, in the mean over the windows of a trajectory, [draws]. The
    pairs of one meta-batch are independent draws."""
    update, family = (Drift(), Line()) if case == "line" else (Shrink(), Bowl())
    made = training(update, family, estimator, draws)
    flight, found = made.begin(number), []
    wanted: dict[str, Tensor] = {}
    original = torch.Tensor.__matmul__

    def noted(slopes: Tensor, xi: Tensor) -> Tensor:
        wanted["each"] = slopes * xi[:, 0] * draws
        return original(slopes, xi)

    while not flight.done:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "__matmul__", noted)
            made.estimator.gradient(flight)
        (weight,) = made.inner.parameters()
        torch.testing.assert_close(weight.grad, wanted["each"].mean())
        found.append(wanted["each"])
    return torch.stack(found).mean(0)


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "DTYPE", torch.float64)


@pytest.mark.parametrize("estimator", ["pes", "nres"])
@pytest.mark.parametrize("case", ["line", "bowl"])
def test_they_are_unbiased(case: str, estimator: str) -> None:
    found = estimates(case, estimator, 20000)
    error = found.std() / len(found) ** 0.5
    assert abs(float(found.mean()) - smoothed(case, estimator)) < 4 * error
    assert float(error) < abs(smoothed(case, estimator)) / 20  # so that a bias could be seen


def test_without_persistence_it_is_biased_as_truncated_backpropagation_is() -> None:
    """Each window of 2 steps sees a + 2a of its sum, whatever came before."""
    found = estimates("line", "es", 20000)
    error = float(found.std() / len(found) ** 0.5)
    truncated = 1 + 2
    assert abs(float(found.mean()) - truncated) < 4 * error
    assert abs(float(found.mean()) - smoothed("line", "es")) > 40 * error
    made = training(Drift(), Line(), "bptt", 1)
    flight = made.begin(0)
    while not flight.done:
        made.meta_optimizer.adam.zero_grad()
        made.estimator.gradient(flight)
        (weight,) = made.inner.parameters()
        assert float(weight.grad) == pytest.approx(truncated)


@pytest.mark.parametrize("estimator", ES)
def test_the_variance_falls_with_the_number_of_pairs(estimator: str) -> None:
    """Means of 25 pairs scatter a fifth as widely as single ones; to 4 standard errors of a standard deviation."""
    single = estimates("bowl", estimator, 10000)
    means = single.reshape(400, 25).mean(1)
    ratio = float(means.std() / single.std())
    assert abs(ratio - 1 / 5) < 4 * 0.2 / (2 * 400) ** 0.5


PARTS: dict[str, Callable[[], InnerOptimizer]] = {
    "size-free": lambda: InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3, last=2)),
    "two layers, after": lambda: InnerOptimizer(GlobalStepSize(3, 2), NeuronTeleport(3, 2), order="after"),
    "dense": lambda: InnerOptimizer(DenseUpdate(3, 1), DenseTeleport(3, 1)),
    "torch": lambda: InnerOptimizer(TorchUpdate("AdamW", {"lr": 0.01}), NeuronTeleport(hidden=3)),
    "meta-sgd": lambda: InnerOptimizer(MetaSGD(0.05), Stay()),
    "tensors": lambda: InnerOptimizer(TensorUpdate(3, per_coordinate=2), NeuronTeleport(hidden=3)),
    "small MLP": lambda: InnerOptimizer(SmallMLPUpdate(3, step=0.05), NeuronTeleport(hidden=3)),
    "Celo": lambda: InnerOptimizer(CeloUpdate(3, units=3), NeuronTeleport(hidden=3)),
    "reset": lambda: InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3), moments="reset"),
}


@pytest.mark.parametrize("case", PARTS)
def test_particles_are_inner_optimizers_with_other_weights(case: str) -> None:
    """The batch of all particles' tasks gives what each particle gives by itself, in a loop."""
    inner, family = PARTS[case](), TeacherStudent(3, 4, 2, rows=8, batch_size=4)
    batch = sample_meta_batch(family, "train", range(3)).to(torch.float64)
    inner.bind(batch.network, batch.params)
    inner.double()
    names = [name for name, p in inner.named_parameters() if p.requires_grad]
    stream = torch.Generator().manual_seed(0)
    particles = Particles(inner, 4)
    particles.weights = {
        name: p.detach() + 0.1 * torch.randn(4, *p.shape, generator=stream, dtype=torch.float64)
        for name, p in inner.named_parameters()
        if name in names
    }
    each = batch.take([task for _ in range(4) for task in range(3)])
    play = Unroll(particles.optimizer, each, 6)
    position = play.start()
    for length in (2, 4):
        window = play.window(position, length, differentiable=False)
        position = window.end
    for k in range(4):
        alone = PARTS[case]()
        alone.bind(batch.network, batch.params)
        alone.double()
        alone.load_state_dict({**inner.state_dict(), **{n: w[k] for n, w in particles.weights.items()}})
        own = Unroll(alone, batch, 6)
        expected = own.window(own.window(own.start(), 2, differentiable=False).end, 4, differentiable=False)
        torch.testing.assert_close(window.meta_losses[:, 3 * k : 3 * k + 3], expected.meta_losses, rtol=1e-9, atol=0)
        found = {name: p[3 * k : 3 * k + 3] for name, p in position.params.items()}
        torch.testing.assert_close(flatten(found), flatten(expected.end.params), rtol=1e-8, atol=1e-10)
    assert not torch.equal(window.meta_losses[:, :3], window.meta_losses[:, 3:6])


class Curved(Bowl):
    """Bowls of different curvature."""

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return 0.2 + torch.rand(1, 1, generator=generator), torch.zeros(1, 1)


@pytest.mark.parametrize("estimator", ES)
def test_a_pair_may_have_several_tasks(estimator: str) -> None:
    """The first window's estimate from 2 pairs of 3 tasks each, by hand: w shrinks alike whatever the curvature."""
    made = training(Shrink(), Curved(), estimator, 6, pairs=2)
    flight = made.begin(0)
    assert flight.batch.tasks == 6
    curvatures = flight.batch.inputs["inner"].reshape(2, 3).square().mean(1)
    noise = made.estimator._draw(0, 0)[:, 0]  # type: ignore[attr-defined]

    def loss(a: Tensor) -> Tensor:
        return sum((1 - a) ** (2 * k) / 2 for k in range(1, WINDOW + 1)) * curvatures

    made.estimator.gradient(flight)
    (weight,) = made.inner.parameters()
    a = weight.detach()
    expected = noise * (loss(a + SIGMA * noise) - loss(a - SIGMA * noise)) / (2 * SIGMA)
    torch.testing.assert_close(weight.grad, expected.mean(), rtol=1e-9, atol=0)


class Branching(CoordinateUpdate):
    """A learned update that branches on a number, which vmap cannot batch."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, state = super().propose(point, state)
        return (step if float(flatten(point.gradient).sum()) < 1e9 else point.params), state


def test_what_vmap_cannot_batch_is_played_one_after_the_other() -> None:
    family = TeacherStudent(3, 4, 2, rows=8)
    losses = []
    for update in (CoordinateUpdate(hidden=3), Branching(hidden=3)):
        settings = UnrollSettings(4, 2, second_order=False), MetaSettings(2, 3, estimator="pes")
        history = meta_train(InnerOptimizer(update), family, *settings, ValidationSettings(2, 2)).history
        losses += [[i.meta_loss for i in history]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("estimator", ES)
def test_they_learn_on_minibatches_of_a_custom_family(estimator: str) -> None:
    class Mine(TeacherStudent):
        parts = (0.5, 0.5, 0.0)

    inner = InnerOptimizer(GradientDescent(1e-3, learn=True))
    unroll = UnrollSettings(20, 5, second_order=False, in_flight=3, random_start=True)
    meta = MetaSettings(12, 8, lr=0.1, estimator=estimator, sigma=0.1, schedule="constant")
    history = meta_train(inner, Mine(batch_size=8), unroll, meta, ValidationSettings(8, 4)).history
    scores = [i.validation for i in history if i.validation is not None]
    assert scores[-1] < scores[0] - 0.1


class Halves(TaskFamily):
    """Which side of a line through the origin a point lies on."""

    parts = (0.5, 0.5, 0.0)

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(40, 2, generator=generator)
        return x, (x @ torch.randn(2, generator=generator) > 0).long()

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target)

    def accuracy(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction.argmax(1) == target).double().mean()


@pytest.mark.parametrize(("loss", "estimator"), [("final", "pes"), ("end", "nres"), ("error", "es"), ("end", "bptt")])
def test_meta_losses_at_the_end_and_errors(loss: str, estimator: str) -> None:
    unroll = UnrollSettings(12, 4, second_order=estimator == "bptt")
    meta = MetaSettings(15, 8, loss, lr=0.3, estimator=estimator, sigma=0.5, schedule="constant")
    inner = InnerOptimizer(GradientDescent(1e-2, learn=True))
    history = meta_train(inner, Halves(), unroll, meta, ValidationSettings(8, 5)).history
    scores = [i.validation for i in history if i.validation is not None]
    assert scores[-1] < scores[0]
    assert inner.update.log_lr.exp().item() > 3e-2
    assert loss != "error" or all(0 <= i.meta_loss <= 1 for i in history)
    assert loss != "end" or all(i.gradient_norm > 0 for i in history)  # only of windows that count


def weights(inner: InnerOptimizer) -> list[Tensor]:
    return [p.detach().clone() for p in inner.parameters()]


@pytest.mark.parametrize("estimator", ["bptt", *ES])
def test_a_run_that_is_stopped_in_the_air_goes_on_bit_by_bit(estimator: str, tmp_path: Path) -> None:
    def run(folder: str, stop: Callable[[], bool] = lambda: False, resume: bool = False) -> list[Any]:
        inner = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3), moments="reset")
        families = [TeacherStudent(3, 4, 2, rows=8, batch_size=4), GaussianMixture(4, rows=40, hidden=[5])]
        unroll = UnrollSettings(
            (4, 12), 3, second_order=estimator == "bptt", in_flight=3, random_start=True, curriculum=4
        )
        meta = MetaSettings(9, 4, lr=1e-2, estimator=estimator, pairs=None if estimator == "bptt" else 2, average=0.9)
        done = meta_train(
            inner, families, unroll, meta, ValidationSettings(2, 3), 3, tmp_path / folder, resume=resume, stop=stop
        )
        assert done.finished or not stop()
        return [*([*i][:-1] for i in done.history), *weights(inner), *weights(done.optimizer)]

    whole = run("whole")
    for k in range(1, 6):
        asked = iter(range(1, 100))
        run(f"part {k}", stop=lambda: next(asked) == k)  # noqa: B023 - called before k changes
        parts = run(f"part {k}", resume=True)
        for a, b in zip(whole, parts, strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_memory_does_not_grow_with_the_horizon() -> None:
    """What is alive after a window is as large at step 2000 as at step 20."""
    made = training(GlobalStepSize(3), TeacherStudent(3, 4, 2, rows=8, batch_size=4), "pes", 4)
    flight = made.begin(0)
    flight.horizon = 2000
    flight.window = flight.first = 20
    sizes = []
    while not flight.done:
        made.estimator.gradient(flight)
        held = [
            *flight.position.tensors(),
            flight.noise,
            *(b for i in flight.play.index.values() for b in i._blocks.values()),
        ]
        sizes.append(sum(t.nbytes for t in held))
    assert max(sizes[50:]) <= max(sizes[:50])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"meta": {"sigma": 0.0}}, "meta.sigma must be above 0"),
        ({"unroll": {"steps": (9, 4)}}, r"shortest length and then the longest, got \[9, 4\]; write \[4, 9\]"),
        ({"unroll": {"steps": (1, 2, 3)}}, "one length, or the shortest and the longest"),
        ({"unroll": {"second_order": True}}, "unroll.second_order is of no use to estimator 'pes'"),
        ({"unroll": {"checkpoint": 2}}, "unroll.checkpoint is of no use to estimator 'pes'"),
        ({"unroll": {"engine": "compiled"}}, "'compiled' does not play the particles of estimator 'pes'"),
        ({"unroll": {"curriculum": 3}}, "unroll.curriculum lets the longest trajectory grow"),
        ({"unroll": {"in_flight": 0}}, "unroll.in_flight must be a whole number of at least 1"),
        ({"meta": {"pairs": 3}}, "meta.pairs must divide meta.tasks, got 3 and 4"),
        ({"meta": {"average": 1.0}}, r"meta.average must be in \[0, 1\)"),
        ({"meta": {"estimator": "reinforce"}}, "meta.estimator must be one of bptt, es, pes, nres"),
        ({"meta": {"phases": []}}, "meta.phases must be a list of at least one phase"),
        ({"meta": {"phases": [{"iterations": 2, "learn": "teleport"}]}}, "nothing to meta-train: the teleport has no"),
        ({"meta": {"phases": [{"iterations": 2}, {"iterations": 2, "learn": "teleport"}]}}, "phase 2 trains nothing"),
        ({"meta": {"phases": [{"iterations": 0}]}}, "meta.phases.iterations must be a whole number of at least 1"),
        ({"meta": {"phases": [{"iterations": 2, "steps": 1}]}}, "phase 1: unroll.window must not be longer"),
        ({"meta": {"phases": [{"iterations": 2, "rate": 1}]}}, "meta.phases: .*'rate'"),
        ({"meta": {"loss": "error", "estimator": "bptt"}}, "meta.loss 'error' has no derivative"),
        ({"meta": {"loss": "error"}}, "measures no accuracy"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, dict[str, Any]], said: str) -> None:
    def train() -> None:
        unroll = UnrollSettings(**{"steps": 4, "window": 2, "second_order": False, **settings.get("unroll", {})})
        meta = MetaSettings(**{"iterations": 2, "tasks": 4, "estimator": "pes", **settings.get("meta", {})})
        meta_train(InnerOptimizer(GlobalStepSize()), TeacherStudent(rows=4), unroll, meta, ValidationSettings(2))

    with pytest.raises(ConfigError, match=said):
        train()


class Rounded(Adam):
    """An update of a user's, which no gradient passes."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, state = super().propose(point, state)
        return map_params(lambda f: f.detach().sign() * 1e-2, step), state


@pytest.mark.parametrize("update", [TorchUpdate("AdamW", {"lr": 0.01}), Rounded(0.01)])
def test_backpropagation_does_not_pass_through_everything(update: Update) -> None:
    inner, family = InnerOptimizer(update, NeuronTeleport(hidden=3)), TeacherStudent(3, 4, 2, rows=8)
    with pytest.raises(ConfigError, match=f"'bptt' differentiates through the steps of {type(update).__name__}"):
        meta_train(inner, family, UnrollSettings(4, 2))
    settings = UnrollSettings(4, 2, second_order=False), MetaSettings(2, 4, estimator="pes")
    assert meta_train(inner, family, *settings, ValidationSettings(2, 2)).finished


class Remembering(Drift):
    """w <- w + m, with m = a for ever: learned is what it begins with."""

    def start(self, params: Params) -> State:
        first = next(iter(params.values()))
        return State(memory=(self.a.expand(len(first), 1),))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        return map_params(lambda p: state.memory[0].reshape(p.shape), point.params), state


@pytest.mark.parametrize("estimator", ["nres", "pes"])
def test_what_a_part_begins_with_is_perturbed(estimator: str) -> None:
    """The gradient of the sum of k a over a trajectory; in pes the first perturbation is all that acts."""
    made = training(Remembering(), Line(), estimator, 4000)
    flight, found = made.begin(0), []
    while not flight.done:
        made.estimator.gradient(flight)
        (weight,) = made.inner.parameters()
        found.append(float(weight.grad))
    assert found[0] == pytest.approx(3, rel=0.1)
    assert sum(found) / len(found) == pytest.approx(7, rel=0.2)


def test_diverging_is_never_better_than_not_diverging() -> None:
    """Where steps are too large, every estimate says that larger ones are worse, on both sides of divergence."""
    for lr in (2.25, 2.42, 2.5, 2.6):
        for loss in ("final", "sum", "log"):
            unroll = UnrollSettings(20, 20, second_order=False)
            meta = MetaSettings(1, 64, loss, lr=1e-30, estimator="nres", sigma=0.05)
            inner = InnerOptimizer(GradientDescent(lr, learn=True))
            made = MetaTrainer(inner, [Bowl()], unroll, meta, ValidationSettings(1, 1))
            made.enter()
            made.estimator.gradient(made.begin(0))
            assert float(inner.update.log_lr.grad) > 0


class Gained(NeuronTeleport):
    """Learns a factor on the element, not on T."""

    def __init__(self, hidden: int = 3) -> None:
        super().__init__(hidden)
        self.gain = nn.Parameter(torch.ones(()))

    def element(self, point: Point, group: Any, state: State) -> Any:
        element, state = super().element(point, group, state)
        return [g * self.gain.exp() for g in element], state


class Looking(NeuronTeleport):
    """Looks elsewhere."""

    def look(self, point: Point, state: State) -> Point:
        return point


def test_a_teleport_that_writes_element_is_perturbed_there_and_one_that_looks_elsewhere_is_refused() -> None:
    family = TeacherStudent(3, 4, 2, rows=8)
    inner = InnerOptimizer(GlobalStepSize(3), Gained())
    settings = UnrollSettings(4, 2, second_order=False), MetaSettings(1, 4, estimator="pes"), ValidationSettings(2)
    made = MetaTrainer(inner, [family], *settings)
    made.enter()
    made.estimator.gradient(made.begin(0))
    assert float(inner.teleport.gain.grad) != 0
    with pytest.raises(ConfigError, match="Looking has a look of its own"):
        MetaTrainer(InnerOptimizer(GlobalStepSize(3), Looking(3)), [family], *settings)


class Counting(Adam):
    """Remembers what does not grow with the tasks."""

    def start(self, params: Params) -> State:
        state = super().start(params)
        return State(state.covectors, state.squares, (torch.arange(6.0), torch.tensor(0)))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, after = super().propose(point, state)
        assert state.memory[0].tolist() == list(range(6))
        return step, State(after.covectors, after.squares, (state.memory[0], state.memory[1] + 1))


@pytest.mark.parametrize("estimator", ["bptt", *ES])
def test_a_state_may_hold_what_does_not_grow_with_the_tasks(estimator: str, tmp_path: Path) -> None:
    inner, asked = InnerOptimizer(Counting(0.01), NeuronTeleport(hidden=3)), iter((True, False, False))
    unroll = UnrollSettings(6, 2, second_order=estimator == "bptt", in_flight=2)
    settings = unroll, MetaSettings(3, 2, estimator=estimator), ValidationSettings(2, 1)
    for resume in (False, True):
        family = TeacherStudent(3, 4, 2, rows=8)
        meta_train(inner, family, *settings, output=tmp_path, resume=resume, stop=lambda: next(asked))


class Sized(CoordinateUpdate):
    """Remembers the size of the network that it was bound to."""

    def bind(self, params: Params, group: Any) -> None:
        self.size = flatten(params).shape[1]

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        assert flatten(point.params).shape[1] == self.size
        return super().propose(point, state)


@pytest.mark.parametrize("estimator", ["bptt", "pes"])
def test_parts_are_bound_to_the_network_that_they_play(estimator: str) -> None:
    families = [TeacherStudent(3, 4, 2, rows=8), TeacherStudent(5, 6, 1, rows=8)]
    unroll = UnrollSettings(6, 2, second_order=estimator == "bptt", in_flight=2)
    meta = MetaSettings(4, 2, estimator=estimator)
    assert meta_train(InnerOptimizer(Sized(3)), families, unroll, meta, ValidationSettings(2, 4)).finished


def test_windows_of_other_lengths_weigh_by_their_steps() -> None:
    """So that each step of a trajectory weighs alike in a mean of log losses."""
    grads = []
    for window in (6, 4):
        settings = UnrollSettings(6, window), MetaSettings(1, 4, lr=1e-30, clip=None), ValidationSettings(1, 1)
        made = MetaTrainer(InnerOptimizer(GradientDescent(0.1, learn=True)), [Bowl()], *settings)
        made.enter()
        flight, total = made.begin(0), 0.0
        while not flight.done:
            made.advance(flight)
            total += float(made.inner.update.log_lr.grad) * window
        losses = [math.log(0.81**k + 1e-8) + math.log(0.5) for k in range(1, 7)]
        assert flight.loss == pytest.approx(sum(losses) / 6)
        grads.append(total)
    direct = sum(2 * k * -0.1 / 0.9 for k in range(1, 7))
    truncated = sum(2 * k * -0.1 / 0.9 for k in (1, 2, 3, 4, 1, 2))
    assert grads == pytest.approx([direct, truncated], rel=1e-5)


class Dropping(CoordinateUpdate):
    """Draws random numbers."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        step, state = super().propose(point, state)
        return map_params(lambda f: nn.functional.dropout(f, 0.5), step), state


class Delayed(Adam):
    """Takes the step before the last gradient's."""

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        _, after = super().propose(point, state)
        return map_params(lambda m: -0.01 * m, state.covectors[0]), after


def test_dropout_is_refused_and_a_delay_is_no_reason() -> None:
    family = TeacherStudent(3, 4, 2, rows=8)
    settings = UnrollSettings(2, 2, second_order=False), MetaSettings(1, 2, estimator="pes"), ValidationSettings(2)
    with pytest.raises(ConfigError, match="draws random numbers"):
        meta_train(InnerOptimizer(Dropping(3)), family, *settings)
    delayed = InnerOptimizer(Delayed(0.01), NeuronTeleport(3))
    assert meta_train(delayed, family, UnrollSettings(2, 2), MetaSettings(1, 2), ValidationSettings(2)).finished
