"""The stages of a run: its phases with all their settings, and when each begins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch

from metatele.errors import ConfigError
from metatele.meta_training.settings import Learns, MetaSettings, Phase, UnrollSettings
from metatele.support.seeding import generator

AnySettings = TypeVar("AnySettings", UnrollSettings, MetaSettings)
POINTS = 64  # at which a curriculum is looked at, for its mean


@dataclass(frozen=True)
class Stage:
    """Iterations with the same settings.

    Attributes:
        begin, end: the iterations, begin <= i < end.
        learn: which parts of the inner optimizer learn.
        unroll, meta: the settings.
    """

    begin: int
    end: int
    learn: Learns
    unroll: UnrollSettings
    meta: MetaSettings

    def horizon(self, number: int, seed: int, place: int) -> int:
        """The length of the trajectory of a meta-batch; it depends on (seed, number) and its place only.

        Args:
            number: of the meta-batch.
            seed: of the run.
            place: how many have been begun since there were none in flight; the first ones are shorter.
        """
        shortest, since = self.unroll.shortest, number - self.begin
        drawn = float(torch.rand((), generator=generator("horizon", seed, number), dtype=torch.float64))
        steps = round(shortest * (self._longest(since) / shortest) ** drawn)
        return max(1, math.ceil(steps * min((place + 1) / self.unroll.in_flight, 1.0)))

    def told(self, number: int, seed: int) -> bool:
        """Whether the parts are told the horizon of a meta-batch."""
        drawn = float(torch.rand((), generator=generator("told", seed, number), dtype=torch.float64))
        return drawn >= self.unroll.untold

    def mean_horizon(self, iterations: int) -> float:
        """The mean length that is to be expected over the first iterations."""
        points = [iterations * (i + 0.5) / POINTS for i in range(POINTS)] if self.unroll.curriculum else [0.0]
        ends = [(self.unroll.shortest, self._longest(point)) for point in points]
        return sum(a if a == b else (b - a) / math.log(b / a) for a, b in ends) / len(ends)

    def _longest(self, since: float) -> float:
        """The length of the longest trajectory after so many iterations."""
        shortest, longest, grows = self.unroll.shortest, self.unroll.longest, self.unroll.curriculum
        return shortest * (longest / shortest) ** min(since / grows, 1.0) if grows else longest

    def first_window(self, number: int, seed: int) -> int:
        """The length of its first window."""
        if not self.unroll.random_start:
            return self.unroll.window
        return int(torch.randint(1, self.unroll.window + 1, (), generator=generator("first window", seed, number)))


def stages_of(unroll: UnrollSettings, meta: MetaSettings) -> list[Stage]:
    """The stages of a run. Raises: ConfigError for a phase whose settings do not go together."""
    stages: list[Stage] = []
    for i, phase in enumerate(meta.phases or [Phase(meta.iterations)]):
        begin = stages[-1].end if stages else 0
        try:
            own_unroll, own_meta = _overridden(unroll, phase), replace(_overridden(meta, phase), phases=None)
        except ConfigError as error:
            raise ConfigError(f"phase {i + 1}: {error}" if meta.phases else str(error)) from error
        stages.append(Stage(begin, begin + phase.iterations, phase.learn, own_unroll, own_meta))
    _check(stages)
    return stages


def _overridden(settings: AnySettings, phase: Phase) -> AnySettings:
    """The settings, with those that a phase has of its own."""
    own = {f.name for f in fields(settings)}
    given = {f.name: getattr(phase, f.name) for f in fields(phase) if f.name in own}
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


def _check(stages: Sequence[Stage]) -> None:
    """Raises: ConfigError for settings of which an estimator makes no use, or that it cannot follow."""
    by_derivative = any(stage.meta.estimator == "bptt" for stage in stages)
    for stage in stages:
        unroll, meta = stage.unroll, stage.meta
        if meta.estimator == "bptt":
            if meta.pairs is not None and all(other.meta.estimator == "bptt" for other in stages):
                raise ConfigError("meta.pairs is of no use to estimator 'bptt', which perturbs nothing; set it to null")
            if meta.loss == "error":
                raise ConfigError(
                    "meta.loss 'error' has no derivative, which estimator 'bptt' needs; use 'es', 'pes' or 'nres'"
                )
            continue
        if unroll.engine != "higher":
            raise ConfigError(
                f"unroll.engine {unroll.engine!r} does not play the particles of estimator {meta.estimator!r}; "
                "use 'higher'"
            )
        for name in ("second_order", "checkpoint", "adjoint_clip"):
            if getattr(unroll, name) and not by_derivative:
                raise ConfigError(
                    f"unroll.{name} is of no use to estimator {meta.estimator!r}, which takes no derivative of "
                    f"trajectories; set it to {'false' if name == 'second_order' else 'null'}"
                )
