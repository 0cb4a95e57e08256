"""Contestants, families and small evaluations that the tests share."""

import dataclasses
import io
import math
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from metatele.tasks import GaussianMixture, TeacherStudent
from rich.console import Console
from torch import nn

import metatele.evaluation.stages as stages
from metatele import (
    Balance,
    CoordinateUpdate,
    GradientDescent,
    InnerOptimizer,
    LevelSetTeleport,
    NeuronTeleport,
    OutputError,
    RandomTeleport,
    TaskFamily,
    Teleport,
    Update,
    sample_meta_batch,
)
from metatele.evaluation import Entry, Evaluation, Learned, Run, Settings, Tuning, evaluate, statistics
from metatele.evaluation.contestants.controls import with_controls
from metatele.evaluation.contestants.learned import learned_contestants
from metatele.evaluation.judge.claims import claims_of
from metatele.meta_training import Budget
from metatele.parts.point import Point, State
from metatele.task.params import map_params
from metatele.teleports import CanonicalTeleport
from metatele.tuning.step_size import Trial
from metatele.update.hand_designed import UpdateRule

FAMILY = TeacherStudent(4, 5, 2, rows=12, spread=10)
RULES = list(typing.get_args(UpdateRule))


def learned(seed: int, teleport: Teleport | bool = False, order="before") -> InnerOptimizer:
    teleport = NeuronTeleport(hidden=4) if teleport is True else teleport or None
    inner = InnerOptimizer(CoordinateUpdate(hidden=4), teleport, order)
    inner.initialise(seed)
    return inner


def gd(lr: float = 0.1, teleport: Teleport | None = None, **arguments) -> InnerOptimizer:
    return InnerOptimizer(GradientDescent(lr), teleport, **arguments)


def quick(checkpoints, family=FAMILY, **settings) -> Evaluation:
    few = {"tasks": 3, "steps": 4, "tuning_tasks": 2, "timing_repeats": 1, "timing_tasks": 2, "baselines": False}
    return evaluate(checkpoints, family, **few | settings)


def entrants(checkpoints, family=FAMILY, steps=3):
    own = learned_contestants(checkpoints, "cpu")
    return with_controls(own, sample_meta_batch(family, "train", range(2)), steps)


def tuned_at_once(rule, batch, steps, teleport=None, chunk=256):
    """In place of `tune`, which is tested elsewhere and takes its time."""
    return Tuning("cosine", 0.01, 1.0, (Trial("cosine", 0.01, 1.0, 0), Trial("constant", 1.0, math.inf, 2)), 2, steps)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """One evaluation with everything in it, and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    family = GaussianMixture(3, 2, rows=24, hidden=[4], batch_size=5)
    inners = {
        "tele": [learned(1, True), learned(2, True)],
        "plain": Learned(learned(3), Budget(20, 5, (("GaussianMixture", ""),), 3)),
        "bad": InnerOptimizer(Broken("raise", 1)),
        "level": gd(0.1, LevelSetTeleport()),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "tune", tuned_at_once)
        made = evaluate(inners, family, tasks=3, steps=5, tuning_tasks=2, timing_repeats=2, chunk=2, output=folder,
                        report_steps=[0, 2], family_spec={"class_path": "x", "init_args": {"a": [1, None]}},
                        title="a title")  # fmt: skip
    return made, folder


class Noise(TaskFamily):
    """y = 0 with the loss w^2 / 2 + shift, whose curves are known: w <- (1 - lr) w."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def network(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def sample(self, generator):
        return torch.ones(1, 1), torch.zeros(1, 1)

    def loss(self, prediction, target):
        return (prediction - target).square().sum() / 2 + self.shift

    def initialise(self, network, generator):
        network.weight.data.uniform_(1, 2, generator=generator)


class Explode(Update):
    """Gradient descent that multiplies the weights of the tasks with large ones by 1e30 at step `when`."""

    def __init__(self, when: int = 2, bar: float = 1.1) -> None:
        super().__init__()
        self.when, self.bar = when, bar

    def start(self, params):
        return State()

    def propose(self, point: Point, state: State):
        step = map_params(lambda g: -0.1 * g, point.gradient)
        if point.step == self.when:
            step = map_params(lambda s, p: torch.where(p.abs() > self.bar, 1e30 * p, s), step, point.params)
        return step, state


class Broken(Update):
    """Gradient descent with a programming error at one step."""

    def __init__(self, what: str, when: int) -> None:
        super().__init__()
        self.what, self.when = what, when

    def start(self, params):
        return State()

    def propose(self, point: Point, state: State):
        step = map_params(lambda g: -0.1 * g, point.gradient)
        if point.step < self.when:
            return step, state
        if self.what == "raise":
            raise RuntimeError("the first line\nthe second line")
        if self.what == "memory":
            raise MemoryError
        if self.what == "disk":
            raise OutputError("cannot write x: No space left on device")
        if self.what == "shapes":
            return map_params(lambda s: torch.zeros(len(s), 7, 7, 7), step), state
        if self.what == "names":
            return {"other": next(iter(step.values()))}, state
        return None  # type: ignore[return-value]


TELEPORTS = {
    "none": lambda: None,
    "random": lambda: RandomTeleport(0.2, last=2),
    "learned": lambda: NeuronTeleport(hidden=4),
    "every other": lambda: RandomTeleport(0.2, first=1, every=2),
    "level set": lambda: LevelSetTeleport(),
    "balance": lambda: Balance(last=None),
}


def shown(result: Evaluation, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(result.table())
    return console.file.getvalue()


def assert_equal(a, b, where="evaluation"):
    """Field by field, arrays bit for bit, NaN equal to NaN."""
    assert type(a) is type(b), where
    if dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_equal(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}")
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.tobytes() == np.where(np.isnan(a) & np.isnan(b), a, b).tobytes(), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), where


# --- made-up entries -----------------------------------------------------------------------------

CLOSED_FORM = tuple(kind.__name__ for kind in CanonicalTeleport.named.values())
BUDGET = Budget(320, 50, (("Example", "{}"),), 0)
PARTS = {
    "update": {"class": "CoordinateUpdate", "arguments": {"hidden": 4}},
    "teleport": {"class": "Stay", "arguments": {}},
    "order": "before",
    "moments": "transform",
}
REPEATS = 100
FALSE_POSITIVES = 6  # of REPEATS; the judged property


def run_of(losses, first: float = 1e3) -> Run:
    """A run of one step from the loss `first` to the losses [B]; those that are NaN have diverged."""
    final = np.asarray(losses, np.float64)
    curves = np.stack([np.full_like(final, first), final])
    return Run(np.array([0, 1]), {"inner": curves}, {}, np.ones_like(curves), np.where(np.isnan(final), 0, 1))


def entry(name: str, *losses, **fields) -> Entry:
    """A checkpoint with one run for each seed's losses [B]."""
    given = {
        "kind": "checkpoint",
        "note": "",
        "source": None,
        "control": None,
        "budgets": (BUDGET,),
        "origins": (None,),
        "tuning": None,
        "parts": PARTS,
        "moves": False,
        "learned_teleport": False,
        "runs": tuple(run_of(x) for x in losses),
    }
    return Entry(name, **given | fields)


def evaluation(entries, reference: str, rules: tuple[str, ...] = (), seed: int = 0) -> Evaluation:
    tasks = next(e.runs[0].tasks for e in entries if e.runs)
    settings = Settings(tasks, 1, seed, 1, 1, 1, (1,), "plain", 1, "cpu")
    return Evaluation("Example", settings, tuple(entries), reference, tuple(range(tasks)), rules, 0.0)


def verdict(entries, name: str, against: str, **arguments):
    (found,) = (v for v in evaluation(entries, against, **arguments).verdicts if (v.name, v.against) == (name, against))
    return found


def outcome(losses, others, **arguments) -> str:
    return verdict([entry("b", others), entry("a", losses)], "a", "b", **arguments).outcome


@pytest.fixture
def few_resamples(monkeypatch):
    """A bootstrap of 500 resamples in place of 5000: many evaluations in little time. Student's t, the other
    of the two that intervals are made from, stays as it is."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)


NOISE = {
    "normal": lambda r, shape: 0.2 * r.normal(size=shape),
    "heavy-tailed": lambda r, shape: 0.2 * r.standard_t(2.0, size=shape),
    "skewed": lambda r, shape: r.exponential(size=shape) ** 2,
    "mostly equal": lambda r, shape: r.normal(size=shape) * (r.random(shape) < 0.1),
    "two-valued": lambda r, shape: r.choice([0.0, 1.0], size=shape),
}


def losses_of(stream, law: str, tasks: int, contestants: int, seeds: int = 1):
    """Losses [contestants, seeds, tasks] of one law on the same tasks, of which some are much harder."""
    return np.exp(2 * stream.normal(size=tasks) + NOISE[law](stream, (contestants, seeds, tasks)))


def rule_parts(rule: str, last: int | None = None, every: int = 1, update=PARTS["update"]) -> dict:
    arguments = {"symmetry": "auto", "first": 0, "last": last, "every": every}
    return PARTS | {"update": update, "teleport": {"class": rule, "arguments": arguments}}


def controls_of(source: str, losses) -> list[Entry]:
    own = {"kind": "control", "source": source, "budgets": (), "origins": ()}
    named = {"off": "teleports off", "mean schedule": "mean schedule", "random": "random"}
    return [entry(f"{source}, {words}", losses(), control=c, **own) for c, words in named.items()]


def claimed(stream=None, rules=CLOSED_FORM) -> list[Entry]:
    """A learned teleport with everything that its claim needs."""
    stream = np.random.default_rng(0) if stream is None else stream

    def losses():
        return stream.lognormal(size=8)

    neuron = PARTS | {"teleport": {"class": "NeuronTeleport", "arguments": {"hidden": 4}}}
    out = [entry("tele", losses(), parts=neuron, moves=True, learned_teleport=True), entry("twin", losses())]
    out += controls_of("tele", losses)
    for rule in rules:
        out.append(entry(f"{rule} once", losses(), parts=rule_parts(rule, 0), moves=True))
        out.append(entry(f"{rule} always", losses(), parts=rule_parts(rule), moves=True))
    return out


def the_claim(entries, rules=CLOSED_FORM):
    (claim,) = claims_of(entries, rules)
    return claim


def change(entries, name: str, **fields) -> list[Entry]:
    return [replace(e, **fields) if e.name == name else e for e in entries]
