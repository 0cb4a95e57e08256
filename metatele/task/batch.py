"""Tasks of one family, stacked."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from metatele.task.family import PARTS, Part, Split, TaskFamily
from metatele.task.minibatches import Minibatches
from metatele.task.params import Params
from metatele.task.stack import over_tasks, stacked_forward


@dataclass(frozen=True)
class MetaBatch:
    """B tasks of one family, stacked.

    Attributes:
        family: the family the tasks were drawn from, `TaskFamily.for_split` of the one that was given.
        split: the split they belong to.
        network: the network for one task (its own weights are not used).
        params: initial parameters, {name: [B, ...]}.
        frozen: the names of those that stay as they are (requires_grad=False); updates and teleports do not see them.
        buffers: the networks' buffers, {name: [B, ...]}.
        inputs, targets: the rows of each part, {part: [B, n_part, ...]}.
        seeds: one seed per task, [B] int64, for draws that belong to the task.
        all_meta_rows: whether the meta part is seen in full at every step, whatever the family's `batch_size`.
    """

    family: TaskFamily
    split: Split
    network: nn.Module
    params: Params
    inputs: dict[Part, Tensor]
    targets: dict[Part, Tensor]
    seeds: Tensor
    frozen: frozenset[str] = frozenset()
    buffers: Params = field(default_factory=dict)
    all_meta_rows: bool = False

    @property
    def constants(self) -> Params:
        """What is not trained: frozen parameters and buffers, {name: [B, ...]}."""
        return self.buffers | {k: p for k, p in self.params.items() if k in self.frozen}

    def trained(self, params: Params) -> Params:
        """The parameters that are trained, of all."""
        return {k: p for k, p in params.items() if k not in self.frozen} if self.frozen else params

    @property
    def tasks(self) -> int:
        return len(self.seeds)

    @property
    def own_parts(self) -> list[Part]:
        """The parts that have rows of their own, the inner one first."""
        return [p for p in PARTS if p == "inner" or self.inputs[p] is not self.inputs["inner"]]

    @property
    def judged_by_unseen(self) -> bool:
        """Whether there are rows to judge by that the inner loop does not train on."""
        return len(self.own_parts) > 1

    @property
    def shares_meta(self) -> bool:
        """Whether the meta part is the inner part itself, seen in full at every step."""
        return self.inputs["meta"] is self.inputs["inner"] and self.family.batch_size is None

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> "MetaBatch":
        """The same tasks with floating-point tensors in `dtype`, all on `device`."""
        moved: dict[int, Tensor] = {}

        def convert(x: Tensor) -> Tensor:
            # One result for one tensor, so that parts that share their rows go on sharing them.
            if id(x) not in moved:
                moved[id(x)] = x.to(device=device, dtype=dtype if x.is_floating_point() else None)
            return moved[id(x)]

        return replace(
            self,
            network=self.network.to(device=device, dtype=dtype),
            params={k: convert(v) for k, v in self.params.items()},
            buffers={k: convert(v) for k, v in self.buffers.items()},
            inputs={k: convert(v) for k, v in self.inputs.items()},
            targets={k: convert(v) for k, v in self.targets.items()},
        )

    def take(self, tasks: Iterable[int]) -> "MetaBatch":
        """Some of the tasks, each as often as it is named."""
        index = torch.tensor(list(tasks))
        chosen: dict[int, Tensor] = {}

        def rows(x: Tensor) -> Tensor:
            # One result for one tensor, so that parts that share their rows go on sharing them.
            if id(x) not in chosen:
                chosen[id(x)] = x[index.to(x.device)]
            return chosen[id(x)]

        return replace(
            self,
            params={k: rows(p) for k, p in self.params.items()},
            buffers={k: rows(b) for k, b in self.buffers.items()},
            inputs={k: rows(x) for k, x in self.inputs.items()},
            targets={k: rows(y) for k, y in self.targets.items()},
            seeds=rows(self.seeds),
        )

    def predict(self, params: Params, inputs: Tensor) -> Tensor:
        """The predictions [B, n, ...] of the tasks' networks with parameters {name: [B, ...]} on inputs [B, n, ...]."""
        return stacked_forward(self.network, params, inputs, self.constants)

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The family's loss of each task, [B]."""
        if self.family.stacks_its_loss and type(self.family).losses is not TaskFamily.losses:
            return self.family.losses(predictions, targets)
        return over_tasks(self.family.loss, type(self.family).loss, predictions, targets)

    def accuracies(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The family's accuracy on each task, [B]. Raises: NotImplementedError if it measures none."""
        return over_tasks(self.family.accuracy, type(self.family).accuracy, predictions, targets)

    def minibatches(self, part: Part) -> Minibatches | None:
        """The row numbers of each step's minibatch of a part; None for the full batch."""
        size, rows = self.family.batch_size, self.inputs[part].shape[1]
        if size is None or size >= rows or (part == "meta" and self.all_meta_rows):
            return None
        return Minibatches(part, self.seeds, rows, size, self.inputs[part].device)

    def rows(self, part: Part, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a part, or of its rows index [B, batch_size]."""
        x, y = self.inputs[part], self.targets[part]
        if index is None:
            return x, y
        task = torch.arange(len(index), device=x.device).unsqueeze(1)
        index = index.to(x.device)
        return x[task, index], y[task, index]
