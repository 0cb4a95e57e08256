"""What a contestant costs: wall-clock and memory."""

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metatele.optimizer import InnerOptimizer
from metatele.task.batch import MetaBatch
from metatele.unroll.higher.unroll import Unroll

LOOK = 10  # steps between two looks at the clock
PROC = Path("/proc/self")

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What it costs to play some tasks together.

    Attributes:
        seconds: wall-clock from the start to each recorded step, the teleports' own time included,
            [R]; the median of the repeats at each step.
        spread: the smallest and the largest wall-clock of a whole trajectory.
        repeats: how many times it was played.
        tasks: how many tasks were played together.
        memory: largest growth of the process during the run, in bytes; on a CUDA device, of the bytes
            allocated there. None where the system does not report it.
    """

    seconds: Seconds
    spread: tuple[float, float]
    repeats: int
    tasks: int
    memory: int | None

    @staticmethod
    def of(measured: Sequence[tuple[Seconds, int | None]], tasks: int) -> "Cost":
        """The cost from the repeats' (seconds [R], memory)."""
        seconds = np.stack([s for s, _ in measured])
        memory = [m for _, m in measured if m is not None]
        ends = seconds[:, -1]
        return Cost(
            np.median(seconds, axis=0),
            (float(ends.min()), float(ends.max())),
            len(measured),
            tasks,
            max(memory) if memory else None,
        )


def clock(inner: InnerOptimizer, batch: MetaBatch, at: Sequence[int]) -> tuple[Seconds, int | None]:
    """Seconds from the start to each of the steps `at`, and the memory it took (see `Cost`).

    What is timed is the forward and backward pass on the inner rows and the step itself, without
    the measuring of losses. (For a family with minibatches, one more forward pass of a minibatch is
    included.) One step is run first, so that no contestant pays for what is loaded only once. The clock
    is read every LOOK steps; times in between are interpolated.
    """
    # A meta part that is the inner part costs no forward pass of its own.
    inputs, targets = dict(batch.inputs), dict(batch.targets)
    inputs["meta"], targets["meta"] = inputs["inner"], targets["inner"]
    steps = at[-1]
    unroll = Unroll(inner, replace(batch, inputs=inputs, targets=targets), steps)
    unroll.window(unroll.start(), 1, differentiable=False)
    position = unroll.start()
    device = next(iter(batch.params.values())).device
    now, memory = _clock_of(device), _Memory(device)
    ends, seconds, begin = [0], [0.0], now()
    while position.step < steps:
        position = unroll.window(position, min(LOOK, steps - position.step), differentiable=False).end
        ends.append(position.step)
        seconds.append(now() - begin)
    return np.interp(at, ends, seconds), memory.grown()


def _clock_of(device: torch.device) -> Callable[[], float]:
    """A clock that waits for what the device has been asked to do."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class _Memory:
    """The largest growth of memory since this object was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before: int | None = torch.cuda.memory_allocated(device)
            return
        with suppress(OSError, AttributeError, TypeError):  # no glibc
            ctypes.CDLL(None).malloc_trim(0)  # else memory freed by others would be reused uncounted
        with suppress(OSError):
            (PROC / "clear_refs").write_text("5")  # Linux: let the peak begin at what is used now
        self.before = _status("VmRSS")

    def grown(self) -> int | None:
        """The growth in bytes; None if it is unknown."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        return None if peak is None or self.before is None else max(0, peak - self.before)


def _status(key: str) -> int | None:
    """Bytes of an entry of Linux's /proc/self/status; None elsewhere."""
    with suppress(OSError, StopIteration, ValueError):
        lines = (PROC / "status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
    return None
