"""How the tasks of a meta-batch are split, so that what a backward pass needs is not held for all at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metatele.unroll.trajectory import Position

CHUNK_BYTES = 2**22  # bytes of parameters and state in a chunk: larger chunks take no less time per task


@dataclass(frozen=True)
class Chunk:
    """Some tasks of a meta-batch.

    Attributes:
        begin, end: the first one, and the one after the last.
        whole: how many there are in all.
    """

    begin: int
    end: int
    whole: int

    @property
    def tasks(self) -> int:
        return self.end - self.begin

    def of(self, tensor: Tensor) -> Tensor:
        """What belongs to these tasks, of a tensor [B * n, ...]."""
        if self.tasks == self.whole:
            return tensor
        each = len(tensor) // self.whole
        return tensor[self.begin * each : self.end * each]

    def position(self, at: Position) -> Position:
        """The position of these tasks."""
        return replace(
            at,
            params={k: self.of(p) for k, p in at.params.items()},
            state=at.state.map(self.of),
            alive=self.of(at.alive),
            stopped_at=self.of(at.stopped_at),
            initial_loss=self.of(at.initial_loss),
        )


def split(at: Position, whole: bool) -> list[Chunk]:
    """The chunks of a meta-batch, of at most two sizes, and of one where that is possible.

    Args:
        at: where the tasks stand.
        whole: whether to leave them together.
    """
    tasks = len(at.alive)
    tensors = [*at.params.values(), *at.state.tensors()]
    if whole or at.alive.device.type != "cpu" or any(t.dim() == 0 or len(t) % tasks for t in tensors):
        return [Chunk(0, tasks, tasks)]
    fit = max(CHUNK_BYTES * tasks // sum(t.nbytes for t in tensors), 1)
    least = -(-tasks // fit)
    count = next((n for n in range(least, least + least // 4 + 1) if tasks % n == 0), least)
    ends = [tasks * (i + 1) // count for i in range(count)]
    return [Chunk(a, b, tasks) for a, b in zip([0, *ends], ends, strict=False)]


def join(parts: Sequence[Position], at: Position) -> Position:
    """The position of all tasks, from those of the chunks."""
    if len(parts) == 1:
        return parts[0]
    state = parts[0].state
    tensors: Iterator[Tensor] = (torch.cat(column) for column in zip(*(p.state.tensors() for p in parts), strict=True))
    return replace(
        parts[0],
        params={k: torch.cat([p.params[k] for p in parts]) for k in at.params},
        state=state.map(lambda _: next(tensors)),
        alive=at.alive,
        stopped_at=torch.cat([p.stopped_at for p in parts]),
        initial_loss=at.initial_loss,
    )
