"""Independent runs side by side, by joblib."""

import os
import pickle
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

from metatele.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    done: Callable[[int], None] = lambda number: None,
    threads: int = 1,
) -> list[Result]:
    """function(item) of every item, in the order of the items.

    The processes are joblib's: its own by default, those of dask or ray inside `joblib.parallel_config("dask")`. They
    find modules and files where this process does, and do not hear Ctrl-C, which is for this process alone.

    Args:
        function: a function, or a method of an object, that can be pickled, as the items and results must be.
        items: one run each; they begin in this order.
        jobs: number of processes; with 1, or one item, everything runs in this one.
        done: told how many runs have ended.
        threads: of each run. Their number changes the order of sums, and hence their rounding.
    Raises: what the function raises; ConfigError if a process dies.
    """
    results: list[Any] = []
    if jobs == 1 or len(items) <= 1:
        with limited_threads(threads):
            for item in items:
                results.append(function(item))
                done(len(results))
        return results
    there = _Place(os.getcwd(), list(sys.path))
    # Plain bytes: tensors would otherwise go through shared memory, a file descriptor each.
    tasks = [delayed(_run)(there, threads, pickle.dumps((function, item))) for item in items]
    try:
        for result in _started(jobs, tasks):
            results.append(pickle.loads(result))
            done(len(results))
    except BrokenProcessPool as error:
        raise ConfigError(
            f"one of jobs={jobs} processes died, perhaps because memory ran out; run it again with fewer jobs"
        ) from error
    return results


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Run torch on some threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _started(jobs: int, tasks: Sequence[Any]) -> Iterator[bytes]:
    """The results of joblib's tasks, one by one where its backend can."""
    backend, _ = get_active_backend()
    # One at a time: joblib would put runs after short ones, such as those that had ended before, into one process.
    parallel = Parallel(
        jobs,
        return_as="generator" if backend.supports_return_generator else "list",
        batch_size=1,
        max_nbytes=None,
    )
    with _deaf_to_ctrl_c():
        results: Iterator[bytes] = iter(parallel(tasks))
    return results


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that start inside ignore Ctrl-C as long as they live. (A mask would not do: loky takes it away.)"""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Place(NamedTuple):
    """Where a process finds files and modules."""

    folder: str
    path: list[str]

    def enter(self) -> None:
        """Find them there in this process too. Raises: ConfigError."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ConfigError(
                f"a job on {platform.node()} cannot reach {self.folder}: {error.strerror}; share the disk"
            ) from error
        sys.path += [entry for entry in self.path if entry not in sys.path]


def _run(there: _Place, threads: int, task: bytes) -> bytes:
    there.enter()
    with limited_threads(threads):
        function, item = pickle.loads(task)
        return pickle.dumps(function(item))
