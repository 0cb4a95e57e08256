"""One task's trajectory in plain torch: what the reference's workloads share."""

import abc
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metatele.task.batch import MetaBatch

FLOOR = 1e-8  # of the initial loss, inside the logarithm
Memory = list[tuple[Tensor, Tensor]]


class Rule(nn.Module):
    """LSTM cells on top of each other with a linear head, with given weights."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        inputs = [w.shape[1] for name, w in weights.items() if name.endswith("weight_ih")]
        outputs, hidden = weights["head.weight"].shape
        self.cells = nn.ModuleList(nn.LSTMCell(size, hidden) for size in inputs)
        self.head = nn.Linear(hidden, outputs)
        self.hidden = hidden
        self.to(weights["head.weight"].dtype).load_state_dict(weights)

    def start(self, rows: int, like: Tensor) -> Memory:
        return [(like.new_zeros(rows, self.hidden), like.new_zeros(rows, self.hidden)) for _ in self.cells]

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        after = []
        for cell, state in zip(self.cells, memory, strict=True):
            after.append(cell(x, state))
            x = after[-1][0]
        return self.head(x), after


class Trajectory(abc.ABC):
    """One task of a meta-batch, trained by learned rules: the update's and, if it has one, the teleport's."""

    def __init__(self, batch: MetaBatch, task: int, rules: Sequence[Rule], steps: int, second: bool) -> None:
        self.rules, self.second, self.taken = rules, second, 0
        self.params = [p[task].clone().requires_grad_() for p in batch.params.values()]
        self.x, self.y = batch.inputs["inner"][task], batch.targets["inner"][task]
        self.initial = self.loss(self.x, self.y).detach()
        self.memories = self.start()

    def window(self, length: int) -> Tensor:
        """The sum of the log-losses after each of `length` steps; the graph reaches back to their start."""
        self.params = [p.detach().requires_grad_() for p in self.params]
        self.memories = [[(h.detach(), c.detach()) for h, c in m] for m in self.memories]
        total = torch.zeros_like(self.initial)
        for _ in range(length):
            total = total + (self.step() + FLOOR * self.initial).log()
            self.taken += 1
        return total

    @abc.abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the network on these rows."""

    @abc.abstractmethod
    def start(self) -> list[Memory]:
        """The memory of each rule before the first step."""

    @abc.abstractmethod
    def step(self) -> Tensor:
        """Take one inner step; the loss after it that scores it."""


def minibatches(batch: MetaBatch, part: str, steps: int, task: int) -> Tensor:
    """The row numbers of a task's minibatches, [steps, rows]."""
    rows = batch.minibatches(part)  # type: ignore[arg-type]
    assert rows is not None
    return rows.first(steps)[:, task]
