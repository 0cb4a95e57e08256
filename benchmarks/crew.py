"""Workers of one cell of the benchmark: started and warmed up one after the other, then timed in turns."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.worker import Job

ROOT = Path(__file__).parents[1]
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
OUT_OF_MEMORY = "out of memory"
Record = dict[str, Any]  # what became of a contestant; see `measure`


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Failed(Exception):
    """A worker has ended; the message is the reason, in one line."""


class Worker:
    """A process that runs one job.

    Args:
        job: what it runs.
        device: "cpu" keeps JAX off other devices; None leaves the choice to JAX.
    """

    def __init__(self, job: Job, device: str | None = "cpu") -> None:
        environment = dict(os.environ) | {f"{name}_NUM_THREADS": str(job.threads) for name in ("OMP", "MKL")}
        if job.threads == 1:
            environment["XLA_FLAGS"] = ONE_THREAD
        if device is not None:
            environment["JAX_PLATFORMS"] = device
        # Nothing that an earlier process has compiled is to be found; TorchInductor's headers go by TMPDIR alone.
        self._cache = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment |= dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "TMPDIR"), self._cache.name)
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - it lives as long as the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", job.text()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def receive(self) -> Record:
        """The next message. Raises: Failed if the worker has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._reason())
        return json.loads(line)

    def ask(self, word: str) -> Record:
        """Send a word and wait for the answer. Raises: Failed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        return self.receive()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._cache.cleanup()

    def _reason(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if code == -9 or any(word in last.lower() for word in ("memoryerror", "allocate memory", "bad_alloc")):
            return OUT_OF_MEMORY
        last = last.removeprefix("ModuleNotFoundError: ")
        return last[:200] or f"ended with code {code}"


def measure(jobs: Mapping[str, Job], repeats: int, budget: float, tell: Callable[[str], None]) -> dict[str, Record]:
    """Time contestants in turns.

    Args:
        jobs: what each contestant runs.
        repeats: rounds, fewer (but no fewer than 3) where they would take longer than the budget.
        budget: seconds for all rounds together.
        tell: is told of progress.
    Returns: for each contestant, "tasks" of an iteration, "seconds" of each repeat, "base" and "peak" memory in MiB and
        other seconds; or the reason of its failure, "error".
    """
    workers: dict[str, Worker] = {}
    records: dict[str, Record] = {name: {} for name in jobs}

    def attempt(name: str, act: Callable[[Worker], Record]) -> Record:
        try:
            return act(workers[name])
        except Failed as reason:
            records[name]["error"] = str(reason)
            workers.pop(name).close()
            return {}

    try:
        for name, job in jobs.items():
            tell(f"{name}: starts")
            workers[name] = Worker(job)
            records[name].update(attempt(name, Worker.receive).get("ready", {}), seconds=[])
        for i in range(repeats):
            spent = sum(sum(record["seconds"]) for record in records.values())
            if i >= 3 and spent * (i + 1) / i > budget:
                break
            for name in list(workers):
                tell(f"{name}: {i + 1} of {repeats}")
                answer = attempt(name, lambda worker: worker.ask("go"))
                records[name]["seconds"] += answer.values()
        for name in list(workers):
            records[name].update(attempt(name, lambda worker: worker.ask("end")))
    finally:
        for worker in workers.values():
            worker.close()
    return records
