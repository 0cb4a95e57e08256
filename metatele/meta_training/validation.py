"""The score of a learned optimizer on held-out tasks, by itself or relative to tuned baselines."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from metatele.errors import ConfigError
from metatele.meta_training.meta_loss import trajectory_scores
from metatele.meta_training.settings import MetaSettings, ValidationSettings
from metatele.optimizer import InnerOptimizer
from metatele.support.ranks import Ranks
from metatele.task.batch import MetaBatch
from metatele.task.family import TaskFamily
from metatele.task.mixture import TaskMixture
from metatele.task.sampling import member_of, sample_meta_batch
from metatele.tuning import tune
from metatele.unroll import Engine, Unroll
from metatele.update import HandDesigned
from metatele.update.hand_designed import UpdateRule

MEMBERS = 8  # of a mixture that are validated on
TUNED_ON = 32  # tasks at least: a step size tuned on fewer may diverge on others, and flatter what is compared with it
Play = Callable[[TaskFamily, MetaBatch], Engine]


class Validation:
    """Held-out tasks of each family, divided among the processes.

    Args:
        families: where the tasks come from; of a mixture, `MEMBERS` members.
        settings: how many there are, and what the score is relative to.
        meta: says which meta-loss.
        steps: length of the trajectories.
        seed, device, dtype: of the tasks.
        ranks: the processes.
        all_meta_rows: see `UnrollSettings`.

    Attributes:
        families: those, with members in the places of mixtures.
        batches: this process's tasks, of each family.
        references: for each family the score of the best tuned baseline, if the score is relative (see `refer`).
    Raises: TaskError.
    """

    def __init__(
        self,
        families: Sequence[TaskFamily],
        settings: ValidationSettings,
        meta: MetaSettings,
        steps: int,
        seed: int,
        device: str,
        dtype: torch.dtype,
        ranks: Ranks,
        all_meta_rows: bool = False,
    ) -> None:
        self.settings, self.meta, self.steps, self.ranks = settings, meta, steps, ranks
        self.references: list[float] = []
        self.seed, self.device, self.dtype = seed, device, dtype
        self.families = [member for family in families for member in _members(family, seed)]
        own = ranks.share(range(settings.tasks))
        batches = [sample_meta_batch(f, "validation", own, seed).to(dtype, device) for f in self.families]
        self.batches = [replace(batch, all_meta_rows=all_meta_rows) for batch in batches]

    def refer(self) -> None:
        """Measure what the score is relative to, if it is and that is not known.

        Raises: ConfigError if a baseline has solved all tasks of a family, so that nothing can be compared with it.
        """
        rules = self.settings.baselines
        if rules is None or self.references:
            return
        tasks = range(max(self.settings.tasks, TUNED_ON))
        for i, (family, batch) in enumerate(zip(self.families, self.batches, strict=True)):
            train = sample_meta_batch(family, "train", tasks, self.seed).to(self.dtype, self.device)
            scores = [self._mean(i, *self._played(self._tuned(rule, train), batch))[0] for rule in rules]
            if not self.meta.logarithmic and min(scores) + self._least(batch) <= 0:
                raise ConfigError(
                    f"validation.baselines: a tuned baseline reaches a score of {min(scores):g} on "
                    f"{type(batch.family).__name__}, with which no ratio can be formed; leave them out"
                )
            self.references.append(min(scores))

    def score(self, play: Play) -> tuple[float, int]:
        """The mean over the families, and how many tasks diverged.

        Of each family: the mean over its tasks of `trajectory_scores`; with references, its logarithm relative to the
        reference, so that the mean is that of a geometric mean of ratios.

        Args:
            play: makes an engine for the tasks of a family.
        """
        scores, diverged = [], 0
        for i, batch in enumerate(self.batches):
            score, lost = self._mean(i, *self._end(play(self.families[i], batch), batch))
            scores.append(self._relative(i, score))
            diverged += lost
        return sum(scores) / len(scores), diverged

    def _relative(self, family: int, score: float) -> float:
        if not self.references:
            return score
        reference = self.references[family]
        if self.meta.logarithmic:
            return score - reference
        least = self._least(self.batches[family])
        return math.log(max(score + least, 1e-8 * (reference + least)) / (reference + least))

    def _least(self, batch: MetaBatch) -> float:
        """What is added to error rates before their ratio is formed: half an error."""
        rows = batch.targets["meta"].shape[1]
        return 0.5 / (self.settings.tasks * rows) if self.meta.loss == "error" else 0.0

    def _tuned(self, rule: UpdateRule, train: MetaBatch) -> InnerOptimizer:
        found = tune(rule, train, self.steps)
        return InnerOptimizer(HandDesigned(rule, found.lr, found.schedule, self.steps))

    def _played(self, inner: InnerOptimizer, batch: MetaBatch) -> tuple[float, int]:
        return self._end(Unroll(inner, batch, self.steps), batch)

    def _end(self, play: Engine, batch: MetaBatch) -> tuple[float, int]:
        """The mean score of this process's tasks of a family, and how many diverged."""
        window = play.window(play.start(), self.steps, differentiable=False)
        scores = trajectory_scores(window, batch, self.meta)
        return float(scores.mean()), int((~window.end.alive).sum())

    def _mean(self, family: int, score: float, diverged: int) -> tuple[float, int]:
        """The same of all processes' tasks."""
        share = self.batches[family].tasks / self.settings.tasks
        total, lost = self.ranks.total(score * share, diverged)
        return total, round(lost)


def _members(family: TaskFamily, seed: int) -> list[TaskFamily]:
    """The families to validate on for one that was given."""
    if not isinstance(family, TaskMixture):
        return [family]
    return [member_of(family, "validation", seed, number) for number in range(MEMBERS)]
