"""The meta-training loop: windows of trajectories, meta-gradients, validation."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.meta_training.meta_loss import meta_loss, trajectory_score
from metatele.meta_training.settings import MetaSettings, UnrollSettings, ValidationSettings
from metatele.optimizer import InnerOptimizer
from metatele.support.checks import plain_numbers
from metatele.support.device import check_device, multiplying
from metatele.support.ranks import Ranks
from metatele.support.seeding import derive_seed
from metatele.task.batch import MetaBatch
from metatele.task.family import Split, TaskFamily
from metatele.task.sampling import sample_meta_batch
from metatele.unroll import Engine, MakeEngine, Window, engine_maker

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
    """Meta-trains an inner optimizer; between iterations its whole state is three things: the
    learned weights, Adam's state, and the number of iterations done.

    Tasks, initial weights and minibatches of iteration i depend on (seed, i) only.
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
    _makers: dict[tuple[int, Split | None], MakeEngine] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.families:
            raise ConfigError(f"meta-training needs at least one task family, got {self.families}")
        self.seed = plain_numbers(self.seed)
        for name, tasks in (("meta.tasks", self.meta.tasks), ("validation.tasks", self.validation.tasks)):
            if tasks < self.ranks.size:
                raise ConfigError(f"{name} is {tasks}, fewer than the {self.ranks.size} processes; start fewer")
        self.inner.to(check_device(self.device), DTYPE)
        self.validation_batches = [
            sample_meta_batch(f, "validation", self.ranks.share(range(self.validation.tasks)), self.seed).to(
                DTYPE, self.device
            )
            for f in self.families
        ]
        for batch in self.validation_batches:  # also reports now, not later, a family that does not fit
            self.inner.bind(batch.network, batch.params)
        if not self.inner.learned:
            raise ConfigError(
                f"there is nothing to meta-train: {type(self.inner.update).__name__} and "
                f"{type(self.inner.teleport).__name__} have no learned weights"
            )

    def initialise(self) -> None:
        """Draw the learned weights from the seed."""
        self.inner.initialise(derive_seed("learned weights", self.seed))

    def make_adam(self) -> torch.optim.Adam:
        """The meta-optimizer, to be made when the learned weights are in place."""
        teleport_lr = self.meta.lr if self.meta.teleport_lr is None else self.meta.teleport_lr
        parts = ((self.inner.update, self.meta.lr), (self.inner.teleport, teleport_lr))
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr, "base_lr": lr} for part, lr in parts
        ]
        self.adam = torch.optim.Adam([g for g in groups if g["params"]], fused=True)
        return self.adam

    def iterations(self) -> Iterator[Iteration]:
        """Run the iterations that are left, yielding after each."""
        while self.done < self.meta.iterations:
            began = time.perf_counter()
            meta_loss, norm, diverged, skipped = self._iterate(self._batch(self.done))
            self.done += 1
            due = self.done % self.validation.every == 0 or self.done == self.meta.iterations
            score, lost = self.validate() if due else (None, None)
            seconds = time.perf_counter() - began
            yield Iteration(self.done, meta_loss, norm, diverged, skipped, score, lost, seconds)

    def validate(self) -> tuple[float, int]:
        """Mean over validation tasks of `trajectory_score` on the meta part, and how many diverged; a
        diverged task counts with the loss at which it would have been stopped."""
        scores, diverged = [], 0
        for i, batch in enumerate(self.validation_batches):
            play, steps = self._play(batch, i), self.unroll.steps
            with multiplying(self.unroll.tf32):
                begin = play.start()
                window = play.window(begin, steps, differentiable=False)
            end = window.end
            losses = torch.where(end.alive, window.meta_losses, end.bar)
            scores.append(trajectory_score(losses, end.initial_loss, self.meta.loss, self.meta.normalise).mean())
            diverged += int((~end.alive).sum())
        own, lost = float(torch.stack(scores).mean()), float(diverged)
        score, lost = self.ranks.total(own * self._share(self.validation.tasks), lost)
        return score, round(lost)

    def _batch(self, iteration: int) -> MetaBatch:
        family = self.families[iteration % len(self.families)]
        indices = self.ranks.share(range(iteration * self.meta.tasks, (iteration + 1) * self.meta.tasks))
        return sample_meta_batch(family, "train", indices, self.seed).to(DTYPE, self.device)

    def _iterate(self, batch: MetaBatch) -> tuple[float, float, int, int]:
        """One trajectory of one meta-batch, with a meta-update after every window."""
        self._set_lr()
        play = self._play(batch, self.done % len(self.families), self.unroll.second_order)
        with multiplying(self.unroll.tf32):
            position = play.start()
        losses, norms, skipped = [], [], 0
        while position.step < self.unroll.steps:
            length = min(self.unroll.window, self.unroll.steps - position.step)
            self.adam.zero_grad()
            with multiplying(self.unroll.tf32):
                scored = play.gradient(position, length, self._score, self.unroll.checkpoint)
            position = scored.window.end
            loss = self._gather(scored.loss)
            norm = self._meta_update()
            losses.append(loss)
            norms.append(norm)
            skipped += not math.isfinite(norm)
        finite = [n for n in norms if math.isfinite(n)]
        diverged = round(self.ranks.total(int((~position.alive).sum()))[0])
        return sum(losses) / len(losses), sum(finite) / max(len(finite), 1), diverged, skipped

    def _play(self, batch: MetaBatch, family: int, second_order: bool = False) -> Engine:
        """The engine that unrolls a meta-batch of family number `family`."""
        # `for_split` may return a new family for each meta-batch; it gives equal families for equal splits.
        split = None if batch.family is self.families[family] else batch.split
        make = self._makers.setdefault((family, split), engine_maker(self.unroll.engine))
        return make(self.inner, batch, self.unroll.steps, second_order)

    def _score(self, window: Window) -> Tensor:
        return meta_loss(window, self.meta.loss, self.meta.normalise)

    def _share(self, tasks: int) -> float:
        """The fraction of some tasks that are this process's."""
        return len(self.ranks.share(range(tasks))) / tasks

    def _gather(self, loss: float) -> float:
        """Let the gradient of each learned weight be that of all processes' tasks; the loss, likewise. A weight has a
        gradient if it has one anywhere."""
        if self.ranks.size == 1:
            return loss
        weights = [p for p in self.inner.parameters() if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        known = grads[0].new_tensor([loss, *(p.grad is not None for p in weights)])
        flat = torch.cat([known, *(g.flatten() for g in grads)]) * self._share(self.meta.tasks)
        known, *sums = self.ranks.add(flat).split([len(known), *(g.numel() for g in grads)])
        for p, total, there in zip(weights, sums, known[1:].tolist(), strict=True):
            p.grad = total.reshape(p.shape).clone() if there > 0 else None
        return float(known[0])

    def _meta_update(self) -> float:
        """One step of Adam; returns the norm of the meta-gradient before clipping."""
        gradients = [p.grad for p in self.inner.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        # Where no task is left to learn from, Adam's momentum must not carry the weights on.
        if norm > 0 and math.isfinite(norm):
            excess = 1.0 if self.meta.clip is None else (norm + 1e-6) / self.meta.clip  # as in clip_grad_norm_
            if excess > 1:
                for gradient in gradients:
                    gradient.div_(excess)
            self.adam.step()
        return norm

    def _set_lr(self) -> None:
        """Set the step sizes by the schedule, which depends only on the number of iterations done."""
        factor = 1.0
        if self.meta.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.done / self.meta.iterations))
        for group in self.adam.param_groups:
            group["lr"] = factor * group["base_lr"]
