"""Which rows each step of a trajectory sees, epoch by epoch."""

import torch
from torch import Tensor

from metatele.support.seeding import generator
from metatele.task.family import Part

AHEAD = 256  # steps for which minibatches are drawn at once


class Minibatches:
    """The row numbers of B tasks' minibatches, [B, size] at each step, without replacement inside an epoch. They depend
    on each task's own seed only, and are drawn when they are asked for, so that a trajectory may be of any length.

    Args:
        part: the part that the rows are of.
        seeds: of the tasks, [B].
        rows: how many there are.
        size: rows in a minibatch, fewer than there are; those that are left over in an epoch are dropped.
        device: where to put them.
    """

    def __init__(self, part: Part, seeds: Tensor, rows: int, size: int, device: torch.device) -> None:
        self.part, self.rows, self.size, self.device = part, rows, size, device
        each = rows // size
        self._seeds = [int(s) for s in seeds]
        self._epochs = -(-AHEAD // each)  # in a block
        self._steps = self._epochs * each
        self._blocks: dict[int, Tensor] = {}  # the latest two: a window may lie across two of them
        self._restart()

    def __getitem__(self, step: int) -> Tensor:
        block, within = divmod(step, self._steps)
        if block < self._next and block not in self._blocks:
            self._restart()
        while block not in self._blocks:
            self._blocks = {k: b for k, b in self._blocks.items() if k == self._next - 1}
            self._blocks[self._next] = self._draw()
            self._next += 1
        return self._blocks[block][within]

    def first(self, steps: int) -> Tensor:
        """The row numbers of the first steps, [steps, B, size]."""
        return torch.stack([self[step] for step in range(steps)])

    def _restart(self) -> None:
        self._streams = {seed: generator("minibatch", self.part, seed) for seed in dict.fromkeys(self._seeds)}
        self._next = 0

    def _draw(self) -> Tensor:
        """The next block, [steps, B, size]."""
        kept = self._steps // self._epochs * self.size
        drawn = {
            seed: torch.cat([torch.randperm(self.rows, generator=stream)[:kept] for _ in range(self._epochs)])
            for seed, stream in self._streams.items()
        }
        return torch.stack([drawn[seed].reshape(-1, self.size) for seed in self._seeds], 1).to(self.device)
