"""Which of an inner optimizer's weights learn, and whether an estimator can find out how."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.landscape import Landscape
from metatele.meta_training.settings import Learns, MetaSettings
from metatele.meta_training.stages import Stage
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point
from metatele.task.batch import MetaBatch
from metatele.task.params import map_params


class Learning:
    """Lets the update, the teleport or both learn.

    Args:
        inner: the inner optimizer, bound to a network; its weights that require a gradient are those that can learn.
    """

    def __init__(self, inner: InnerOptimizer) -> None:
        self.inner = inner
        self._able = [(name, p) for name, p in inner.named_parameters() if p.requires_grad]

    def let(self, learn: Learns) -> None:
        """Let a part learn, and the other stay as it is."""
        self.inner.zero_grad()  # what the other one has left counts no more
        for name, p in self._able:
            p.requires_grad_(self._learns(name, learn))

    @staticmethod
    def _learns(name: str, learn: Learns) -> bool:
        return learn == "both" or name.startswith(f"{learn}.")

    def check(self, stages: Sequence[Stage], meta: MetaSettings, batches: Sequence[MetaBatch]) -> None:
        """Raises: ConfigError for weights of both parts, a stage in which nothing learns, a meta-loss that a family
        does not measure, or an estimator that would differentiate through an update that passes no gradient."""
        parts = (self.inner.update, self.inner.teleport)
        if set(parts[0].parameters()) & set(parts[1].parameters()):
            raise ConfigError("the update and the teleport share learned weights; give each its own")
        for batch in batches:
            if "error" in (meta.loss, *(s.meta.loss for s in stages)) and not batch.family.measures_accuracy:
                raise ConfigError(f"meta.loss 'error': {type(batch.family).__name__} measures no accuracy")
        update, teleport = (type(part).__name__ for part in parts)
        for i, stage in enumerate(stages):
            if not any(self._learns(name, stage.learn) for name, _ in self._able):
                where = f"phase {i + 1} trains nothing" if len(stages) > 1 else "there is nothing to meta-train"
                who = f"{update} and {teleport} have" if stage.learn == "both" else f"the {stage.learn} has"
                raise ConfigError(f"{where}: {who} no learned weights")
        if any(stage.meta.estimator == "bptt" for stage in stages) and not self._differentiable(batches[0]):
            raise ConfigError(
                f"meta.estimator 'bptt' differentiates through the steps of {update}, which pass no gradient on; use "
                "'es', 'pes' or 'nres', or an update that is differentiable (GradientDescent, Momentum, Adam, or a "
                "learned one)"
            )

    def _differentiable(self, batch: MetaBatch) -> bool:
        """Whether one of the update's first two steps depends, in a way that autograd knows, on its weights or on where
        it is taken."""
        one, update = batch.take([0]), self.inner.update
        start = one.trained(one.params)
        self.inner.bind(one.network, start)
        x, y = one.rows("inner")
        scene = Landscape(one.network, one.family.loss, x, y, constants=one.constants)
        with torch.enable_grad():
            params, gradient = (
                map_params(lambda p: p.detach().requires_grad_(), own) for own in (start, scene.gradient(start))
            )
            state, steps = update.start(params), list[Tensor]()
            for k in range(2):
                step, state = update.propose(Point(params, gradient, x, k, scene, scene), state)
                steps += step.values()
        return any(f.requires_grad for f in steps)
