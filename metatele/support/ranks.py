"""The processes that share one computation: torch.distributed, as torchrun starts it."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from metatele.errors import ConfigError, MetateleError, OutputError
from metatele.support.device import check_device
from metatele.support.messages import first_line
from metatele.support.rounds import round_of

Item = TypeVar("Item")
Made = TypeVar("Made")
PATIENCE = timedelta(minutes=30)  # how long one process waits for another, which may be compiling


@dataclass(frozen=True)
class Ranks:
    """The processes, of which this is one.

    Attributes:
        number: of this process, from 0.
        size: how many there are.
    """

    number: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.number == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of some items; the parts differ by at most one item."""
        begin, end = (len(items) * k // self.size for k in (self.number, self.number + 1))
        return items[begin:end]

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors, which are of one shape and type, on all of them. It may be in place."""
        if self.size > 1:
            with _all_there():
                dist.all_reduce(tensor)
        return tensor

    def total(self, *numbers: float) -> list[float]:
        """The sums of the processes' numbers, on all of them."""
        device = "cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"
        found: list[float] = self.add(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()
        return found

    def gather(self, own: Made) -> list[Made]:
        """What all processes give, on all of them."""
        given = [own] * self.size
        if self.size > 1:
            with _all_there():
                dist.all_gather_object(given, own)
        return given

    def from_first(self, make: Callable[[], Made]) -> Made:
        """What `make` gives in the first process, on all of them. Raises: what it raises there, likewise."""
        if self.size == 1:
            return make()
        answer: list[object] = [None, None]
        if self.first:
            try:
                answer = [make(), None]
            except MetateleError as error:
                answer = [None, error]
        with _all_there():
            dist.broadcast_object_list(answer)
        made, refusal = answer
        if isinstance(refusal, MetateleError):
            raise refusal
        return cast(Made, made)


@contextmanager
def _all_there() -> Iterator[None]:
    """Raises: OutputError where torch.distributed fails, as it does when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        time.sleep(1)  # it may have something to say, which is the cause
        raise OutputError(
            f"the other processes cannot be reached ({first_line(error)}): one has ended, or their process group does "
            "not fit the device; the run can be resumed"
        ) from error


def under_torchrun() -> bool:
    """Whether torchrun has started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether this is the process that writes to the terminal."""
    return not under_torchrun() or os.environ.get("RANK") == "0"


def restarted() -> bool:
    """Whether torchrun has started the processes anew after one of them had failed; waits for all to be there.

    Raises: ConfigError if one does not come.
    """
    if not under_torchrun() or not _has_store():
        return False
    try:
        return round_of(_shared_store(PATIENCE), PATIENCE) > 0
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot meet the other processes: {error}; start all of them by torchrun") from error


def first_to_say(what: str) -> bool:
    """Whether no other process has asked this before, since they were started; alone, always."""
    if not under_torchrun():
        return True
    try:
        return bool(_store(timedelta(seconds=5)).add(what, 1) == 1)
    except (KeyError, ValueError, RuntimeError):  # nobody to ask
        return True


def _store(patience: timedelta) -> dist.Store:
    """Where the processes leave words for each other; those before a restart are not seen, for their addresses are no
    longer true.

    Raises: RuntimeError if it cannot be reached; KeyError or ValueError if there is none.
    """
    store = _shared_store(patience)
    return dist.PrefixStore(f"metatele/{round_of(store, patience)}", store)


def _shared_store(patience: timedelta) -> dist.Store:
    """The store of torchrun, which outlives the processes."""
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(*where, is_master=False, timeout=patience)


def _has_store() -> bool:
    """Whether whoever has started the processes keeps a store for them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


_groups = itertools.count()  # each group has addresses of its own, which the next one must not read


def present() -> Ranks:
    """The processes of the process group that is there; this one alone if there is none."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if _grouped() else Ranks()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined(device: str, patience: timedelta = PATIENCE) -> Iterator[tuple[Ranks, str]]:
    """Inside, this process is one of those that torchrun has started together, or of a process group that is there
    already, or else alone.

    Args:
        device: where to compute; if a process group is made here, each process takes the GPU of its local rank.
        patience: how long one process of a group that is made here waits for another.
    Raises: ConfigError if the others cannot be reached, or there is no such GPU.
    """
    if _grouped() or not under_torchrun():
        yield present(), device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    on_gpu = check_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    # Loaded with a group there, it would keep that for ever, and its threads can end the interpreter's last moments.
    import_module("torch.distributed.nn")
    try:
        if _has_store():
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store = dist.PrefixStore(f"group {next(_groups)}", _store(patience))
            dist.init_process_group(backend, timeout=patience, world_size=size, rank=rank, store=store)
        else:
            dist.init_process_group(backend, timeout=patience)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot join the other processes: {error}; start all of them by torchrun") from error
    yield present(), device
    dist.destroy_process_group()  # not after an error: others would notice, and speak of that, before it has been told
