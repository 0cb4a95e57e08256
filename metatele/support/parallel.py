"""Independent runs on several processor cores, with the same numbers on any number of them."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from joblib import Parallel, delayed

from metatele.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, done: Callable[[int], None]
) -> list[Result]:
    """function(item) of every item, in the order of the items.

    Each run uses one thread, because the number of threads changes the order of sums, and hence their rounding.

    Args:
        function: a function, or a method of an object, that can be pickled, as the items and results must be.
        items: one run each.
        jobs: number of processes; with 1 everything runs in this one.
        done: told how many runs have ended.
    Raises: what the function raises; ConfigError if a process dies.
    """
    results: list[Any] = []
    if jobs == 1:
        with one_thread():
            for item in items:
                results.append(function(item))
                done(len(results))
        return results
    # Plain bytes: tensors would otherwise go through shared memory, a file descriptor each.
    tasks = [delayed(_run)(pickle.dumps((function, item))) for item in items]
    try:
        for result in Parallel(jobs, return_as="generator", max_nbytes=None)(tasks):
            results.append(pickle.loads(result))
            done(len(results))
    except BrokenProcessPool as error:
        raise ConfigError(f"one of jobs={jobs} processes died, perhaps because memory ran out; use fewer") from error
    return results


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(task: bytes) -> bytes:
    with one_thread():
        function, item = pickle.loads(task)
        return pickle.dumps(function(item))
