"""The model card that is written beside a checkpoint."""

import math

from metatele.meta_training.stages import Stage
from metatele.meta_training.trainer import MetaTrainer


def training_card(trainer: MetaTrainer, best_score: float) -> str:
    """What was trained, on what, with which settings, and how it validated."""
    inner = trainer.inner
    families, tests = (
        ", ".join(type(f).__name__ for f in given) for given in (trainer.families, trainer.validation_families)
    )
    validated = f", validated on: {tests}" if tests else ""
    meta = trainer.meta
    logarithm = meta.logarithmic or bool(trainer.validation.baselines)
    kind = "geometric mean" if logarithm else "mean"
    value = math.exp(min(best_score, 700.0)) if logarithm and math.isfinite(best_score) else best_score
    score = f"{value:.4g}" if math.isfinite(best_score) else "not validated"
    against = ""
    if trainer.validation.baselines:
        against = f", over that of the best of {', '.join(trainer.validation.baselines)}, tuned on training tasks"
    steps = "" if meta.loss in ("end", "error") else " and steps"
    start = f"- began with the learned weights of {meta.start}\n" if meta.start else ""
    stages = "\n".join(map(_of_stage, trainer.stages))
    return f"""---
library_name: metatele
tags: [learned-optimizer, parameter-symmetry, teleportation]
---
# A learned optimizer of metatele

- update: {type(inner.update).__name__} {inner.update.arguments()}
- teleport: {type(inner.teleport).__name__} {inner.teleport.arguments()}, {inner.order} the update
- state of the update at a teleport: {inner.moments}
- meta-trained on: {families}{validated}, seed {trainer.seed}
- meta-training: {trainer.done} of {meta.iterations} iterations of {meta.tasks} tasks
{stages}
{start}- best validation loss ({kind} over held-out tasks{steps}{against}): {score}

    from metatele import load_checkpoint
    optimizer = load_checkpoint("this folder")
"""


def _of_stage(stage: Stage) -> str:
    """A line on a stage of the run."""
    unroll, meta = stage.unroll, stage.meta
    steps = " to ".join(map(str, dict.fromkeys((unroll.shortest, unroll.longest))))
    order = f", {'second' if unroll.second_order else 'first'} order"
    clipped = "" if unroll.adjoint_clip is None else f", adjoints clipped at {unroll.adjoint_clip:g}"
    growth = f" growing by {meta.growth:g}" if meta.growth else ""
    told = f" ({unroll.untold:.0%} untold)" if unroll.untold else ""
    scored = ", scored on all meta rows" if unroll.all_meta_rows else ""
    what = "update and teleport" if stage.learn == "both" else stage.learn
    how = order + clipped if meta.estimator == "bptt" else f", sigma {meta.sigma:g}, {meta.pairs or meta.tasks} pairs"
    return (
        f"- iterations {stage.begin + 1} to {stage.end}: {what} by {meta.estimator}{how}, "
        f"meta-loss {meta.loss}{growth}{scored}, {steps} steps{told} in windows of {unroll.window}, "
        f"lr {meta.lr:g}, {meta.schedule} schedule, clip {meta.clip}"
    )
