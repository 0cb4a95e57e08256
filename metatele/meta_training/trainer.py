"""The meta-training loop: meta-batches in flight, meta-updates, validation."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metatele.errors import ConfigError
from metatele.meta_training.estimators import Backpropagation, Estimator, EvolutionStrategy
from metatele.meta_training.flight import Flight
from metatele.meta_training.learns import Learning
from metatele.meta_training.meta_optimizer import MetaOptimizer
from metatele.meta_training.settings import MetaSettings, UnrollSettings, ValidationSettings
from metatele.meta_training.stages import Stage, stages_of
from metatele.meta_training.validation import Validation
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import plain_numbers
from metatele.support.device import check_device, multiplying
from metatele.support.ranks import Ranks
from metatele.support.seeding import derive_seed
from metatele.task.batch import MetaBatch
from metatele.task.family import TaskFamily
from metatele.task.mixture import TaskMixture
from metatele.task.sampling import check_members, sample_meta_batch
from metatele.unroll import Engine, MakeEngine, engine_maker

DTYPE = torch.float32  # of meta-training


class Iteration(NamedTuple):
    """What happened in one iteration.

    Attributes:
        number: of the iteration, counted from 1.
        meta_loss: of the whole trajectory (see `Flight.loss`).
        gradient_norm: mean norm of the meta-gradient before clipping.
        diverged: tasks of the meta-batch that diverged; of particles, the trajectories over those of each task.
        skipped: windows without a meta-update, because their meta-gradient was not finite.
        validation: validation score (see `MetaTrainer.validate`) if this iteration was validated.
        validation_diverged: validation tasks that diverged, likewise.
        seconds: wall-clock time of the iteration, validation included.
    """

    number: int
    meta_loss: float
    gradient_norm: float
    diverged: int
    skipped: int
    validation: float | None
    validation_diverged: int | None
    seconds: float


@dataclass
class MetaTrainer:
    """Meta-trains an inner optimizer; between iterations its whole state is the learned weights (and their average),
    Adam's state, the number of iterations done, and where the meta-batches in flight stand.

    Tasks, initial weights and minibatches of meta-batch i depend on (seed, i) only.

    Attributes:
        begun: meta-batches that have been begun.
        flights: those that have not ended, in the order of their next windows.
        stage: the stage of the run that the next iteration belongs to.
        validation_families: where the tasks of the validation split come from; `families` if there are none.
        tests: those tasks.
    """

    inner: InnerOptimizer
    families: Sequence[TaskFamily]
    unroll: UnrollSettings
    meta: MetaSettings
    validation: ValidationSettings
    seed: int = 0
    device: str = "cpu"
    validation_families: Sequence[TaskFamily] = ()
    ranks: Ranks = field(default_factory=Ranks)
    done: int = 0
    begun: int = field(default=0, init=False)
    flights: list[Flight] = field(default_factory=list, init=False, repr=False)
    _alone: int = field(default=0, init=False, repr=False)  # the number of the first one since there were none
    _makers: dict[tuple[Any, ...], MakeEngine] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.families:
            raise ConfigError(f"meta-training needs at least one task family, got {self.families}")
        self.seed = plain_numbers(self.seed)
        for name, tasks in (("meta.tasks", self.meta.tasks), ("validation.tasks", self.validation.tasks)):
            if tasks < self.ranks.size:
                raise ConfigError(f"{name} is {tasks}, fewer than the {self.ranks.size} processes; start fewer")
        self.stages = stages_of(self.unroll, self.meta)
        check_device(self.device)
        self._check_mixtures()
        where = self.seed, self.device, DTYPE, self.ranks
        given = self.validation_families or self.families
        self.tests = Validation(given, self.validation, self.meta, self.horizon, *where, self.unroll.all_meta_rows)
        for batch in self.tests.batches:  # also reports now, not later, a family that does not fit
            self.inner.bind(batch.network, batch.params)
        self.inner.to(self.device, DTYPE)
        self.learning = Learning(self.inner)
        self.learning.check(self.stages, self.meta, self.tests.batches)
        for stage in self.stages:
            self.learning.let(stage.learn)
            self._estimator(stage)  # likewise a part that it cannot perturb, or too few pairs
        self.learning.let("both")
        self.stage = self.stages[0]
        self.average: AveragedModel | None = None

    def _check_mixtures(self) -> None:
        """Raises: TaskError for a mixture whose members cannot be drawn again; ConfigError for an engine that would
        make itself anew for each of its meta-batches."""
        for family in (*self.families, *self.validation_families):
            if not isinstance(family, TaskMixture):
                continue
            check_members(family, self.seed)
            if any(s.unroll.engine != "higher" for s in self.stages):
                raise ConfigError(
                    f"unroll.engine 'compiled' would compile each network of {type(family).__name__} anew; use 'higher'"
                )

    @property
    def mixed(self) -> bool:
        """Whether meta-batches may be of several families."""
        return len(self.families) > 1 or isinstance(self.families[0], TaskMixture)

    @property
    def current(self) -> InnerOptimizer:
        """What is validated and saved: the inner optimizer, or the one with the average of its weights."""
        if self.average is None:
            return self.inner
        return cast(InnerOptimizer, self.average.module)

    @property
    def horizon(self) -> int:
        """The length of the longest trajectory, on which all validations are."""
        return max(stage.unroll.longest for stage in self.stages)

    def initialise(self) -> None:
        """Draw the learned weights from the seed."""
        self.inner.initialise(derive_seed("learned weights", self.seed))

    def enter(self) -> None:
        """Make ready for the next iteration's stage, when the learned weights are in place."""
        if self.meta.average is not None and self.average is None:
            self.average = AveragedModel(self.inner, multi_avg_fn=get_ema_multi_avg_fn(self.meta.average))
        self.stage = next((s for s in self.stages if self.done < s.end), self.stages[-1])
        self.learning.let(self.stage.learn)
        self.meta_optimizer = MetaOptimizer(self.inner, self.stage, self.ranks)
        self.estimator = self._estimator(self.stage)

    def _estimator(self, stage: Stage) -> Estimator:
        if stage.meta.estimator == "bptt":
            return Backpropagation(self.inner, stage.unroll, stage.meta, self._play)
        return EvolutionStrategy(self.inner, stage.meta, self.seed, self.ranks)

    def iterations(self) -> Iterator[Iteration]:
        """Run the iterations that are left, yielding after each."""
        while self.done < self.meta.iterations:
            began = time.perf_counter()
            while not (ended := self.play_next()).done:
                pass
            self.done += 1
            lost = math.ceil(self.ranks.total(int((~ended.position.alive).sum()))[0] / self.estimator.copies)
            if self.stage.end <= self.done < self.meta.iterations:
                self.enter()  # now, so that what is saved is what the next stage begins with
            due = self.done % self.validation.every == 0 or self.done == self.meta.iterations
            score, invalid = self.validate() if due else (None, None)
            finite = [n for n in ended.norms if math.isfinite(n)]
            yield Iteration(
                self.done,
                ended.loss,
                sum(finite) / max(len(finite), 1),
                lost,
                len(ended.norms) - len(finite),
                score,
                invalid,
                time.perf_counter() - began,
            )

    def validate(self) -> tuple[float, int]:
        """The score on held-out tasks, and how many of them diverged (see `Validation.score`)."""
        with multiplying(self.unroll.tf32):
            return self.tests.score(
                lambda family, batch: self._maker(family, batch)(self.current, batch, self.horizon, False)
            )

    def begin(self, number: int, batch: MetaBatch | None = None, horizon: int | None = None) -> Flight:
        """A meta-batch at the start of its trajectory; its tasks and its horizon are drawn when they are not given."""
        stage, tasks = self.stage, self.meta.tasks
        family = number % len(self.families)
        if batch is None:
            indices = [number * tasks + i for i in self.estimator.tasks(self.ranks, tasks)]
            given = self.families[family]
            batch = sample_meta_batch(given, "train", indices, self.seed, number).to(DTYPE, self.device)
        batch = replace(batch, all_meta_rows=stage.unroll.all_meta_rows)
        if horizon is None:
            horizon = stage.horizon(number, self.seed, number - self._alone)
        told, first = stage.told(number, self.seed), stage.first_window(number, self.seed)
        flight = Flight(number, family, batch, horizon, first, stage.unroll.window, horizon if told else None)
        with multiplying(stage.unroll.tf32):
            flight.play = self.estimator.engine(flight)
            flight.position = flight.play.start()
        return flight

    def play_next(self) -> Flight:
        """Play a window of the meta-batch in flight whose turn it is, with a meta-update; it is in flight no more when
        it is done. New ones are begun in the places of those that were."""
        if not self.flights:
            self._alone = self.begun
        while len(self.flights) < self.stage.unroll.in_flight and self.begun < self.stage.end:
            self.flights.append(self.begin(self.begun))
            self.begun += 1
        flight = self.flights.pop(0)
        self.advance(flight)
        if not flight.done:
            self.flights.append(flight)
        return flight

    def advance(self, flight: Flight) -> None:
        """Play the next window of a meta-batch, and make a meta-update of it."""
        self.meta_optimizer.adam.zero_grad()
        if self.mixed:  # another family's tasks may have been begun, or played, since
            self.inner.bind(flight.batch.network, flight.batch.trained(flight.batch.params))
        weight = flight.weight(self.stage.meta.loss)
        with multiplying(self.stage.unroll.tf32):
            loss = self.estimator.gradient(flight)
        if loss is None:
            return
        share = len(self.estimator.tasks(self.ranks, self.meta.tasks)) / self.meta.tasks
        flight.losses.append(self.meta_optimizer.gather(loss, share))
        flight.weights.append(weight)
        flight.norms.append(self.meta_optimizer.update(self.done))
        if self.average is not None:
            self.average.update_parameters(self.inner)

    def _play(self, flight: Flight) -> Engine:
        """The engine that backpropagates through a meta-batch."""
        make = self._maker(self.families[flight.family], flight.batch)
        unroll = self.stage.unroll
        return make(self.inner, flight.batch, flight.told, unroll.second_order, unroll.adjoint_clip)

    def _maker(self, given: TaskFamily, batch: MetaBatch) -> MakeEngine:
        """What makes engines for tasks of a family that was given."""
        # `for_split` may return a new family for each meta-batch; it gives equal families for equal splits.
        split = None if batch.family is given else batch.split
        family = next(i for i, known in enumerate((*self.families, *self.tests.families)) if known is given)
        averaged, engine = batch.split != "train" and self.average is not None, self.stage.unroll.engine
        return self._makers.setdefault((averaged, family, split, engine), engine_maker(engine))
