"""What the speed benchmark measures: cells, each a few contestants on the same problem."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.crew import Record, cores, measure
from benchmarks.worker import ENGINES, Job
from benchmarks.workloads import WORKLOADS

LIBRARIES = ("metatele", "torch", "higher", "numpy", "jax", "jaxlib")
LENGTHS = (100, 1000)  # of the trajectories whose inner steps are compared


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        workloads, orders, batches, threads, contestants: in all combinations.
        repeats, budget: see `benchmarks.crew.measure`.
        steps_batch: the meta-batch at which inner steps are compared; 0 to leave that out.
        before: folder of another checkout of metatele, or None.
        changes: see `benchmarks.variants.varied`.
    """

    workloads: Sequence[str] = tuple(WORKLOADS)
    orders: Sequence[str] = ("first", "second")
    batches: Sequence[int] = (1, 8, 32, 128)
    threads: Sequence[int] = (1,)
    contestants: Sequence[str] = (*ENGINES, "JAX", "one at a time", "limit")
    repeats: int = 5
    budget: float = 120
    steps_batch: int = 8
    before: str | None = None
    changes: Mapping[str, int] = field(default_factory=dict)

    def cells(self) -> Iterator[tuple[Record, dict[str, Job]]]:
        """(what a cell is, what its contestants run), the most telling ones first."""
        for threads in self.threads:
            for workload in self.workloads:
                for order in self.orders:
                    for tasks in self.batches:
                        jobs = {name: self._job(name, workload, order, tasks, threads) for name in self.contestants}
                        yield self._cell("training", workload, order, tasks, threads), jobs
        if self.steps_batch and set(ENGINES) & set(self.contestants):
            for workload in self.workloads:
                for order in self.orders:
                    jobs = dict(self._step_jobs(workload, order))
                    yield self._cell("inner steps", workload, order, self.steps_batch, 1), jobs

    def _step_jobs(self, workload: str, order: str) -> Iterator[tuple[str, Job]]:
        """An evaluation is the same in both orders; it is there in both to be compared in the same rounds."""
        window = self.changes.get("window", WORKLOADS[workload].unroll.window)
        for engine in (name for name in ENGINES if name in self.contestants):
            job = self._job(engine, workload, order, self.steps_batch, 1)
            for name in ("meta-training", "evaluation"):
                for length in LENGTHS:
                    steps = self.changes.get("steps", LENGTHS[0]) * length // LENGTHS[0]
                    changes = dict(self.changes) | {"steps": steps, "window": window}
                    what = f"{engine}, {name}, {steps} steps"
                    yield what, replace(job, changes=changes, evaluation=name == "evaluation")

    def _cell(self, kind: str, workload: str, order: str, tasks: int, threads: int) -> Record:
        return {"kind": kind, "workload": workload, "order": order, "tasks": tasks, "threads": threads}

    def _job(self, contestant: str, workload: str, order: str, tasks: int, threads: int) -> Job:
        checkout = self.before if contestant == "before" else None
        return Job(contestant, workload, order == "second", tasks, threads, checkout, self.changes)


def run(plan: Plan, tell: Callable[[str], None], keep: Callable[[Record], None]) -> Record:
    """Measure all cells.

    Args:
        plan: what to measure.
        tell: is told of progress.
        keep: gets the results so far after each cell.
    Returns: {"environment": ..., "cells": [...]}, plain data.
    """
    results: Record = {"environment": environment(), "cells": []}
    cells = list(plan.cells())
    for i, (cell, jobs) in enumerate(cells):
        where = f"{i + 1}/{len(cells)} {cell['workload']}, {cell['order']} order, {cell['tasks']} tasks"
        records = measure(jobs, plan.repeats, plan.budget, partial(_tell, tell, where))
        for name, job in jobs.items():
            records[name]["steps"] = job.changes.get("steps", WORKLOADS[job.workload].unroll.longest)
        results["cells"].append(cell | {"contestants": records})
        keep(results)
    return results


def _tell(tell: Callable[[str], None], where: str, text: str) -> None:
    tell(f"{where}: {text}")


def environment() -> dict[str, Any]:
    """What the numbers depend on, beside the code."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cores": cores(), "versions": versions}
