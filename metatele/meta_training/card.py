"""The model card that is written beside a checkpoint."""

import math

from metatele.meta_training.trainer import MetaTrainer


def training_card(trainer: MetaTrainer, best_score: float) -> str:
    """What was trained, on what, with which settings, and how it validated."""
    inner = trainer.inner
    families = ", ".join(type(f).__name__ for f in trainer.families)
    unroll, meta = trainer.unroll, trainer.meta
    kind = "geometric mean" if meta.logarithmic else "mean"
    value = math.exp(best_score) if meta.logarithmic and math.isfinite(best_score) else best_score
    steps = " to ".join(map(str, dict.fromkeys((unroll.shortest, unroll.longest))))
    order = f", {'second' if unroll.second_order else 'first'} order" if meta.estimator == "bptt" else ""
    phases = f", in {len(trainer.stages)} phases" if len(trainer.stages) > 1 else ""
    score = f"{value:.4g}" if math.isfinite(best_score) else "not validated"
    against = ""
    if trainer.validation.baselines:
        against = f", over that of the best of {', '.join(trainer.validation.baselines)}, tuned on training tasks"
    return f"""---
library_name: metatele
tags: [learned-optimizer, parameter-symmetry, teleportation]
---
# A learned optimizer of metatele

- update: {type(inner.update).__name__} {inner.update.arguments()}
- teleport: {type(inner.teleport).__name__} {inner.teleport.arguments()}, {inner.order} the update
- state of the update at a teleport: {inner.moments}
- meta-trained on: {families}, seed {trainer.seed}
- unroll: {steps} steps in windows of {unroll.window}{order}
- meta-training: {trainer.done} of {meta.iterations} iterations of {meta.tasks} tasks{phases}, meta-loss {meta.loss},
  estimator {meta.estimator}, lr {meta.lr}, clip {meta.clip}, {meta.schedule} schedule
- best validation loss ({kind} over held-out tasks and steps{against}): {score}

    from metatele import load_checkpoint
    optimizer = load_checkpoint("this folder")
"""
