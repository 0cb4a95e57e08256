"""Independent runs on several processor cores, with the same numbers on any number of them."""

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

import torch

from metatele.errors import ConfigError
from metatele.experiments.harness.base import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Processes that share runs among them; use it in a `with` statement.

    Each run is on one thread, because the order of a sum, hence its rounding, depends on their number.

    Args:
        jobs: number of processes; with 1 everything runs in this one.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs, self._pool = jobs, None if jobs == 1 else ProcessPoolExecutor(jobs, get_context("spawn"), _prepare)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item], stage: str, progress: Progress
    ) -> list[Result]:
        """function(item) of every item, in the order of the items.

        Args:
            function: a function, or a method of an object, that can be pickled, as the items and results must be.
            items: one run each.
            stage: what this is, for the progress.
            progress: told how many runs have ended.
        Raises: what the function raises; ConfigError if a process dies.
        """
        progress(stage, 0, len(items))
        if self._pool is None:
            return _run_here(function, items, lambda done: progress(stage, done, len(items)))
        try:
            # Plain bytes: tensors would otherwise go through shared memory, a file descriptor each.
            futures = [self._pool.submit(_run, pickle.dumps((function, item))) for item in items]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(stage, done, len(items))
        except BrokenProcessPool as error:
            raise ConfigError(
                f"one of jobs={self.jobs} processes died, perhaps for want of memory; use fewer"
            ) from error
        return [pickle.loads(future.result()) for future in futures]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_here(function: Callable[[Item], Result], items: Sequence[Item], done: Callable[[int], None]) -> list[Result]:
    results = []
    with one_thread():
        for count, item in enumerate(items, start=1):
            results.append(function(item))
            done(count)
    return results


def _prepare() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback of its own


def _run(task: bytes) -> bytes:
    function, item = pickle.loads(task)
    result: Any = function(item)
    return pickle.dumps(result)
