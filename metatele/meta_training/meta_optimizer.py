"""The meta-optimizer: Adam on the learned weights, with the meta-gradients of all processes."""

import math

import torch
from torch import Tensor

from metatele.meta_training.stages import Stage
from metatele.optimizer import InnerOptimizer
from metatele.support.ranks import Ranks


class MetaOptimizer:
    """Adam with clipping and a schedule, for one stage of a run.

    Args:
        inner: what is trained; of its weights those that require a gradient.
        stage: the stage.
        ranks: the processes that share the tasks.

    Attributes:
        adam: torch's Adam.
    """

    def __init__(self, inner: InnerOptimizer, stage: Stage, ranks: Ranks) -> None:
        self.inner, self.stage, self.ranks = inner, stage, ranks
        meta = stage.meta
        teleport_lr = meta.lr if meta.teleport_lr is None else meta.teleport_lr
        parts = ((inner.update, meta.lr), (inner.teleport, teleport_lr))
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr, "base_lr": lr} for part, lr in parts
        ]
        self.adam = torch.optim.Adam([g for g in groups if g["params"]], fused=True)

    def gather(self, loss: float, share: float) -> float:
        """Let the gradient of each learned weight be that of all processes' tasks; the loss, likewise. A weight has a
        gradient if it has one anywhere.

        Args:
            loss: the mean meta-loss of this process's tasks.
            share: the fraction of all tasks that are this process's.
        """
        if self.ranks.size == 1:
            return loss
        weights = [p for p in self.inner.parameters() if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        known = grads[0].new_tensor([loss, *(p.grad is not None for p in weights)])
        flat = torch.cat([known, *(g.flatten() for g in grads)]) * share
        known, *sums = self.ranks.add(flat).split([len(known), *(g.numel() for g in grads)])
        for p, total, there in zip(weights, sums, known[1:].tolist(), strict=True):
            p.grad = total.reshape(p.shape).clone() if there > 0 else None
        return float(known[0])

    def update(self, done: int) -> float:
        """One step of Adam; returns the norm of the meta-gradient before clipping.

        Args:
            done: the iterations done, on which alone the step size depends.
        """
        self._set_lr(done)
        gradients: list[Tensor] = [p.grad for p in self.inner.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        # Where no task is left to learn from, Adam's momentum must not carry the weights on.
        if norm > 0 and math.isfinite(norm):
            clip = self.stage.meta.clip
            excess = 1.0 if clip is None else (norm + 1e-6) / clip  # as in clip_grad_norm_
            if excess > 1:
                for gradient in gradients:
                    gradient.div_(excess)
            self.adam.step()
        return norm

    def _set_lr(self, done: int) -> None:
        factor, stage = 1.0, self.stage
        if stage.meta.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * (done - stage.begin) / (stage.end - stage.begin)))
        for group in self.adam.param_groups:
            group["lr"] = factor * group["base_lr"]
