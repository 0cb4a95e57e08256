"""The settings of meta-training, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from metatele.errors import ConfigError
from metatele.support.checks import above_zero, at_least, make_plain, one_of, within, yes_or_no
from metatele.unroll import EngineName
from metatele.update.hand_designed import UpdateRule

MetaLossName = Literal["log", "sum", "final", "end", "error"]
Schedule = Literal["constant", "cosine"]
EstimatorName = Literal["bptt", "es", "pes", "nres"]
Learns = Literal["both", "update", "teleport"]
LOGARITHMIC: tuple[MetaLossName, ...] = ("log", "end")
COPIES: dict[EstimatorName, int] = {"bptt": 1, "es": 3, "pes": 2, "nres": 2}  # trajectories that are played of a task


@dataclass(frozen=True)
class UnrollSettings:
    """How trajectories are unrolled.

    Args:
        steps: length of a trajectory, the horizon; or the shortest and the longest, between which it is drawn for each
            meta-batch, log-uniformly.
        window: steps that a meta-gradient reaches back over; the learned weights are updated after
            each window, and the inner loop continues from there (truncation).
        second_order: whether the meta-gradient passes through the inner gradients.
        checkpoint: keep the state of the inner loop only at every `checkpoint`-th step of a window, and recompute the
            steps in between in the backward pass. This needs memory for window / checkpoint states and `checkpoint`
            steps instead of `window` steps, and takes up to half as much time again. None keeps every step.
        engine: how the inner loop is run. "higher" unrolls it step by step, whatever the parts and the task family do;
            "compiled" traces one step and its backward pass and compiles them (up to a minute; it needs a C++ compiler,
            and the traced code must not branch on the values of tensors). It is faster, and its results are equal up
            to rounding.
        tf32: whether GPUs multiply matrices in TF32: about twice as fast, with three correct digits instead of seven.
        curriculum: iterations over which the longest trajectory grows, geometrically, from `steps[0]` to `steps[1]`.
        in_flight: meta-batches whose trajectories go on at the same time, a window of each in turn. The first ones are
            shorter, so that afterwards they stand at different steps, and so do the tasks of neighbouring meta-updates.
        random_start: whether the first window of a trajectory has a random length, of 1 to `window` steps, so that
            windows do not always end at the same steps.
        untold: the fraction of the meta-batches whose horizon the update and the teleport are not told, as in a
            training that somebody will stop; at least 0, and below 1.
        adjoint_clip: what a relative change of one inner step of one task may change in the task's meta-loss, as far as
            the meta-gradient knows: what goes back through the window is scaled down for tasks whose steps would
            change more, because their trajectories are chaotic; else they drown the other tasks of the meta-batch, and
            the more so the longer the window is. None for the exact gradient of the window.
        all_meta_rows: whether a step is scored on all rows of the meta part, as an evaluation does, and not on a
            minibatch of them where the family has minibatches. The mean logarithm of small minibatches' losses is
            lowest for predictions that are too sure: most minibatches hold no row that is predicted wrong.
    """

    steps: int | tuple[int, int] = 100
    window: int = 20
    second_order: bool = True
    checkpoint: int | None = None
    engine: EngineName = "higher"
    tf32: bool = False
    curriculum: int = 0
    in_flight: int = 1
    random_start: bool = False
    untold: float = 0.0
    adjoint_clip: float | None = None
    all_meta_rows: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        within(0, 1, **{"unroll.untold": self.untold})
        at_least(1, **{"unroll.window": self.window, "unroll.in_flight": self.in_flight})
        at_least(0, **{"unroll.curriculum": self.curriculum})
        self._check_steps()
        if self.checkpoint is not None:
            at_least(1, **{"unroll.checkpoint": self.checkpoint})
        if self.adjoint_clip is not None:
            above_zero(**{"unroll.adjoint_clip": self.adjoint_clip})
        one_of(get_args(EngineName), **{"unroll.engine": self.engine})
        truths = ("second_order", "tf32", "random_start", "all_meta_rows")
        yes_or_no(**{f"unroll.{name}": getattr(self, name) for name in truths})
        if self.window > self.longest:
            raise ConfigError(
                f"unroll.window must not be longer than the trajectory, got window={self.window}, steps={self.steps}; "
                f"set unroll.window to {self.longest} or less"
            )

    def _check_steps(self) -> None:
        ends: Any = self.steps
        if isinstance(ends, (list, tuple)):
            if len(ends) != 2:
                raise ConfigError(f"unroll.steps must be one length, or the shortest and the longest, got {ends}")
            object.__setattr__(self, "steps", tuple(ends))
        at_least(1, **{"unroll.steps": self.shortest})
        at_least(1, **{"unroll.steps": self.longest})
        if self.shortest > self.longest:
            raise ConfigError(
                f"unroll.steps must be the shortest length and then the longest, got {list(ends)}; "
                f"write [{self.longest}, {self.shortest}]"
            )
        if self.curriculum and self.shortest == self.longest:
            raise ConfigError(
                f"unroll.curriculum lets the longest trajectory grow from the shortest, but unroll.steps is {ends}; "
                "give a range, as in unroll.steps: [20, 200]"
            )

    @property
    def shortest(self) -> int:
        """The length of the shortest trajectory."""
        return self.steps[0] if isinstance(self.steps, tuple) else self.steps

    @property
    def longest(self) -> int:
        """The length of the longest trajectory."""
        return self.steps[1] if isinstance(self.steps, tuple) else self.steps


@dataclass(frozen=True)
class Phase:
    """A part of meta-training with settings of its own; where one is None, that of `unroll` or `meta` holds.

    Args:
        iterations: how long it lasts. A schedule of step sizes begins anew with each phase, and so does Adam.
        learn: which part of the inner optimizer learns; the other one stays as it is.
        estimator, lr, teleport_lr, sigma, pairs, loss, clip, schedule, growth: see `MetaSettings`.
        steps, window, second_order, engine, curriculum, in_flight, random_start, untold, adjoint_clip, all_meta_rows:
            see `UnrollSettings`.
    """

    iterations: int
    learn: Learns = "both"
    estimator: EstimatorName | None = None
    lr: float | None = None
    teleport_lr: float | None = None
    sigma: float | None = None
    pairs: int | None = None
    loss: MetaLossName | None = None
    clip: float | None = None
    schedule: Schedule | None = None
    steps: int | tuple[int, int] | None = None
    window: int | None = None
    second_order: bool | None = None
    engine: EngineName | None = None
    curriculum: int | None = None
    in_flight: int | None = None
    random_start: bool | None = None
    untold: float | None = None
    growth: float | None = None
    adjoint_clip: float | None = None
    all_meta_rows: bool | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        at_least(1, **{"meta.phases.iterations": self.iterations})
        one_of(get_args(Learns), **{"meta.phases.learn": self.learn})


@dataclass(frozen=True)
class MetaSettings:
    """How the learned weights are meta-trained.

    Args:
        iterations: number of meta-batches; each is unrolled for one trajectory. With phases, it is their sum, whatever
            is given here.
        tasks: tasks in a meta-batch.
        loss: what a window is scored by: "log", the mean of log losses over its steps; "sum", the
            sum of its losses; "final", its last loss; "end", the log of the trajectory's last loss, so that only its
            last window counts; "error", the fraction of the meta rows that are predicted wrong at its end, for which
            only the evolution strategies have a gradient.
        normalise: divide each task's losses by its initial loss, so that tasks of different scale
            have equal weight (it has no effect on "log", "end" and "error").
        lr: Adam's step size for the update's weights.
        teleport_lr: likewise for the teleport's; the same as lr when None.
        clip: largest norm of the meta-gradient, or None for no clipping.
        schedule: "constant", or "cosine" from lr to 0 over the iterations.
        estimator: how the meta-gradient is estimated: "bptt", truncated backpropagation through time; or by antithetic
            pairs of perturbed weights, without a derivative: "es", an evolution strategy on each window, as truncated
            as bptt; "pes", the persistent one (Vicol, Metz and Sohl-Dickstein 2021, arXiv:2112.13835), and "nres", the
            noise-reuse one (Li et al. 2023, arXiv:2304.12180), which are unbiased over whole trajectories.
        sigma: standard deviation of the perturbations.
        pairs: antithetic pairs, among which the tasks of a meta-batch are divided; one pair a task when None. All their
            weights are held in memory.
        average: if given, what is validated, and saved in best/ and last/, is an exponential moving average of the
            learned weights, that keeps this fraction of itself at each meta-update (0.99, for example).
        phases: parts of the meta-training with settings of their own, one after the other.
        growth: in a mean over steps ("log"), step t of a trajectory of T steps weighs as (t / T) ** growth: 0 for
            alike, larger for the end, which is what optimizers are judged by, rather than the start.
        floor: what is added to losses before their logarithm, as a fraction of the task's initial loss: below it,
            smaller losses count no more.
        start: a checkpoint, as `load_checkpoint` takes it, with whose learned weights parts of the same class and size
            begin; the others are drawn from the seed.
    """

    iterations: int = 200
    tasks: int = 16
    loss: MetaLossName = "log"
    normalise: bool = True
    lr: float = 1e-3
    teleport_lr: float | None = None
    clip: float | None = 1.0
    schedule: Schedule = "cosine"
    estimator: EstimatorName = "bptt"
    sigma: float = 0.01
    pairs: int | None = None
    average: float | None = None
    phases: list[Phase] | None = None
    growth: float = 0.0
    floor: float = 1e-8
    start: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        at_least(1, **{"meta.iterations": self.iterations, "meta.tasks": self.tasks})
        above_zero(**{"meta.lr": self.lr, "meta.sigma": self.sigma, "meta.floor": self.floor})
        within(0, 100, **{"meta.growth": self.growth})
        yes_or_no(**{"meta.normalise": self.normalise})
        optional = {"meta.teleport_lr": self.teleport_lr, "meta.clip": self.clip}
        above_zero(**{name: value for name, value in optional.items() if value is not None})
        one_of(get_args(MetaLossName), **{"meta.loss": self.loss})
        one_of(get_args(Schedule), **{"meta.schedule": self.schedule})
        one_of(get_args(EstimatorName), **{"meta.estimator": self.estimator})
        if self.growth and self.loss != "log" and self.phases is None:
            raise ConfigError(
                f"meta.growth weighs the steps of loss 'log', not of {self.loss!r}; set growth to 0 there"
            )
        if self.average is not None:
            within(0, 1, **{"meta.average": self.average})
        if self.pairs is not None:
            at_least(1, **{"meta.pairs": self.pairs})
            if self.tasks % self.pairs:
                raise ConfigError(
                    f"meta.pairs must divide meta.tasks, got {self.pairs} and {self.tasks}; each pair has as many tasks"
                )
        if self.phases is not None:
            object.__setattr__(self, "phases", _phases(self.phases))
            object.__setattr__(self, "iterations", sum(phase.iterations for phase in self.phases))

    @property
    def logarithmic(self) -> bool:
        """Whether the meta-loss is a mean of logarithms."""
        return self.loss in LOGARITHMIC


def _phases(given: Any) -> list[Phase]:
    """Phases, of which some may be mappings."""
    if not isinstance(given, Sequence) or not given or not all(isinstance(p, (Phase, Mapping)) for p in given):
        raise ConfigError(f"meta.phases must be a list of at least one phase, got {given!r}")
    try:
        return [p if isinstance(p, Phase) else Phase(**p) for p in given]
    except TypeError as error:
        raise ConfigError(f"meta.phases: {error}") from error


@dataclass(frozen=True)
class ValidationSettings:
    """How meta-training is validated, on tasks that are never trained on.

    Args:
        tasks: held-out tasks of the validation split (of each family).
        every: iterations between validations and checkpoints.
        baselines: hand-designed updates. If given, the score is relative to the best of them, with step size and
            schedule tuned on training tasks: the logarithm of the ratio, in the mean over the families, each of which
            then weighs alike.
    """

    tasks: int = 32
    every: int = 20
    baselines: list[UpdateRule] | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        if self.baselines is not None:
            if not isinstance(self.baselines, (list, tuple)) or not self.baselines:
                raise ConfigError(
                    f"validation.baselines must be a list of hand-designed updates, got {self.baselines!r}"
                )
            for rule in self.baselines:
                one_of(get_args(UpdateRule), **{"validation.baselines": rule})
            object.__setattr__(self, "baselines", list(self.baselines))
        at_least(1, **{"validation.tasks": self.tasks, "validation.every": self.every})
