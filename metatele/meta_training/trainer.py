"""The meta-training loop: meta-batches in flight, meta-updates, validation."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metatele.errors import ConfigError
from metatele.meta_training.estimators import Backpropagation, Estimator, EvolutionStrategy
from metatele.meta_training.flight import Flight
from metatele.meta_training.learns import Learning
from metatele.meta_training.meta_loss import error_rates, trajectory_score
from metatele.meta_training.meta_optimizer import MetaOptimizer
from metatele.meta_training.references import reference_scores
from metatele.meta_training.settings import MetaSettings, UnrollSettings, ValidationSettings
from metatele.meta_training.stages import Stage, stages_of
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import plain_numbers
from metatele.support.device import check_device, multiplying
from metatele.support.ranks import Ranks
from metatele.support.seeding import derive_seed
from metatele.task.batch import MetaBatch
from metatele.task.family import Split, TaskFamily
from metatele.task.sampling import sample_meta_batch
from metatele.unroll import Engine, MakeEngine, engine_maker

DTYPE = torch.float32  # of meta-training


class Iteration(NamedTuple):
    """What happened in one iteration.

    Attributes:
        number: of the iteration, counted from 1.
        meta_loss: mean over the trajectory's windows.
        gradient_norm: mean norm of the meta-gradient before clipping.
        diverged: tasks of the meta-batch that diverged.
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
        references: for each family the score of the best tuned baseline, if validation is relative to that.
    """

    inner: InnerOptimizer
    families: Sequence[TaskFamily]
    unroll: UnrollSettings
    meta: MetaSettings
    validation: ValidationSettings
    seed: int = 0
    device: str = "cpu"
    ranks: Ranks = field(default_factory=Ranks)
    done: int = 0
    begun: int = 0
    flights: list[Flight] = field(default_factory=list, init=False, repr=False)
    references: list[float] = field(default_factory=list, init=False, repr=False)
    _makers: dict[tuple[bool, int, Split | None], MakeEngine] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.families:
            raise ConfigError(f"meta-training needs at least one task family, got {self.families}")
        self.seed = plain_numbers(self.seed)
        for name, tasks in (("meta.tasks", self.meta.tasks), ("validation.tasks", self.validation.tasks)):
            if tasks < self.ranks.size:
                raise ConfigError(f"{name} is {tasks}, fewer than the {self.ranks.size} processes; start fewer")
        self.stages = stages_of(self.unroll, self.meta)
        check_device(self.device)
        self.validation_batches = [
            sample_meta_batch(f, "validation", self.ranks.share(range(self.validation.tasks)), self.seed).to(
                DTYPE, self.device
            )
            for f in self.families
        ]
        for batch in self.validation_batches:  # also reports now, not later, a family that does not fit
            self.inner.bind(batch.network, batch.params)
        self.inner.to(self.device, DTYPE)
        self.learning = Learning(self.inner)
        self.learning.check(self.stages, self.validation_batches)
        self.average: AveragedModel | None = None
        if self.validation.baselines and not self.meta.logarithmic:
            raise ConfigError(
                f"validation.baselines are compared with by geometric means, which meta.loss {self.meta.loss!r} has "
                "not; use 'log' or 'end'"
            )

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
        self.stage = next((s for s in self.stages if self.done < s.end), self.stages[-1])
        self.learning.let(self.stage.learn)
        self.meta_optimizer = MetaOptimizer(self.inner, self.stage, self.ranks)
        self.estimator = self._estimator(self.stage)
        if self.meta.average is not None and self.average is None:
            self.average = AveragedModel(self.inner, multi_avg_fn=get_ema_multi_avg_fn(self.meta.average))

    def refer(self) -> None:
        """Measure what the validation scores are relative to, if they are and it is not known."""
        rules, tasks = self.validation.baselines, self.validation.tasks
        if rules is None or self.references:
            return
        for family, batch in zip(self.families, self.validation_batches, strict=True):
            train = sample_meta_batch(family, "train", range(tasks), self.seed).to(DTYPE, self.device)
            own = reference_scores(rules, train, batch, self.horizon, self.meta)
            self.references.append(min(self.ranks.total(*(score * batch.tasks / tasks for score in own))))

    def _estimator(self, stage: Stage) -> Estimator:
        if stage.meta.estimator == "bptt":
            return Backpropagation(stage.unroll, stage.meta, self._play)
        return EvolutionStrategy(self.inner, stage.meta, self.seed, self.ranks)

    def iterations(self) -> Iterator[Iteration]:
        """Run the iterations that are left, yielding after each."""
        while self.done < self.meta.iterations:
            began = time.perf_counter()
            ended = self._until_one_ends()
            self.done += 1
            lost = round(self.ranks.total(int((~ended.position.alive).sum()))[0] / self.estimator.copies)
            if self.stage.end <= self.done < self.meta.iterations:
                self.enter()  # now, so that what is saved is what the next stage begins with
            due = self.done % self.validation.every == 0 or self.done == self.meta.iterations
            score, invalid = self.validate() if due else (None, None)
            finite = [n for n in ended.norms if math.isfinite(n)]
            yield Iteration(
                self.done,
                sum(ended.losses) / len(ended.losses),
                sum(finite) / max(len(finite), 1),
                lost,
                len(ended.norms) - len(finite),
                score,
                invalid,
                time.perf_counter() - began,
            )

    def validate(self) -> tuple[float, int]:
        """Mean over validation tasks of `trajectory_score` on the meta part, or of their error rates if the meta-loss
        is "error", less that of the best baseline if there are references, and how many diverged; a diverged task
        counts with the loss at which it would have been stopped."""
        scores, diverged = [], 0
        for i, batch in enumerate(self.validation_batches):
            play = self._maker(i, batch)(self.current, batch, self.horizon, False)
            with multiplying(self.unroll.tf32):
                begin = play.start()
                window = play.window(begin, self.horizon, differentiable=False)
            end = window.end
            if self.meta.loss == "error":
                scores.append(error_rates(window, batch).mean())
            else:
                losses = torch.where(end.alive, window.meta_losses, end.bar)
                scores.append(trajectory_score(losses, end.initial_loss, self.meta.loss, self.meta.normalise).mean())
            diverged += int((~end.alive).sum())
        own, lost = float(torch.stack(scores).mean()), float(diverged)
        share = len(self.ranks.share(range(self.validation.tasks))) / self.validation.tasks
        score, lost = self.ranks.total(own * share, lost)
        return score - sum(self.references) / max(len(self.references), 1), round(lost)

    def begin(self, number: int, batch: MetaBatch | None = None) -> Flight:
        """A meta-batch at the start of its trajectory; its tasks are drawn when they are not given."""
        stage, tasks = self.stage, self.meta.tasks
        family = number % len(self.families)
        if batch is None:
            indices = [number * tasks + i for i in self.estimator.tasks(self.ranks, tasks)]
            batch = sample_meta_batch(self.families[family], "train", indices, self.seed).to(DTYPE, self.device)
        horizon, first = stage.horizon(number, self.seed), stage.first_window(number, self.seed)
        flight = Flight(number, family, batch, horizon, first, stage.unroll.window)
        with multiplying(stage.unroll.tf32):
            flight.play = self.estimator.engine(flight)
            flight.position = flight.play.start()
        return flight

    def _until_one_ends(self) -> Flight:
        """Play windows of the meta-batches in flight in turn, with a meta-update after each, until one has ended."""
        while True:
            while len(self.flights) < self.stage.unroll.in_flight and self.begun < self.stage.end:
                self.flights.append(self.begin(self.begun))
                self.begun += 1
            flight = self.flights.pop(0)
            self.advance(flight)
            if flight.done:
                return flight
            self.flights.append(flight)

    def advance(self, flight: Flight) -> None:
        """Play the next window of a meta-batch, and make a meta-update of it."""
        self.meta_optimizer.adam.zero_grad()
        with multiplying(self.stage.unroll.tf32):
            loss = self.estimator.gradient(flight, flight.length)
        if loss is None:
            return
        share = len(self.estimator.tasks(self.ranks, self.meta.tasks)) / self.meta.tasks
        flight.losses.append(self.meta_optimizer.gather(loss, share))
        flight.norms.append(self.meta_optimizer.update(self.done))
        if self.average is not None:
            self.average.update_parameters(self.inner)

    def _play(self, flight: Flight) -> Engine:
        """The engine that backpropagates through a meta-batch."""
        make = self._maker(flight.family, flight.batch)
        return make(self.inner, flight.batch, flight.horizon, self.stage.unroll.second_order)

    def _maker(self, family: int, batch: MetaBatch) -> MakeEngine:
        """What makes engines for tasks of family number `family`."""
        # `for_split` may return a new family for each meta-batch; it gives equal families for equal splits.
        split = None if batch.family is self.families[family] else batch.split
        averaged = batch.split != "train" and self.average is not None
        return self._makers.setdefault((averaged, family, split), engine_maker(self.unroll.engine))
