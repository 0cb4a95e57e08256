"""One measurement's own process: it prepares a contestant, then runs one iteration each time it is told to.

Started by `benchmarks.crew` as `python -m benchmarks.worker JOB`, with a `Job` as JSON. Talks JSON, a line a message:
{"ready": {...}} when prepared and warm, {"seconds": ...} after each "go" on its input, {"peak": ..., "base": ...}, its
memory in MiB, at the end of it.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

MODULES = {  # contestant: module with a `prepare(workload, tasks)`
    "higher": "benchmarks.own",
    "compiled": "benchmarks.own",
    "before": "benchmarks.own",
    "JAX": "benchmarks.jax_contestant",
    "one at a time": "benchmarks.plain",
    "limit": "benchmarks.limit",
}
ENGINES = ("higher", "compiled")  # the contestants that are metatele's engines


@dataclass(frozen=True)
class Job:
    """What a worker runs.

    Attributes:
        contestant: one of `MODULES`.
        workload: its name.
        second: whether second order.
        tasks: of a meta-batch.
        threads: of the computation; with 1, the process keeps to one core.
        checkout: folder of another checkout that `metatele` is to come from, or None.
        changes: sizes other than the workload's, see `benchmarks.variants.varied`.
        evaluation: whether to play the trajectory as an evaluation does; for `ENGINES` only.
    """

    contestant: str
    workload: str
    second: bool
    tasks: int
    threads: int = 1
    checkout: str | None = None
    changes: Mapping[str, int] = field(default_factory=dict)
    evaluation: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self))


def use_checkout(folder: Path) -> None:
    """Import `metatele` and `metatele.tasks` from a checkout, whatever is installed."""
    sys.path.insert(0, str(folder))
    package = importlib.import_module("metatele")
    sys.path.remove(str(folder))
    # An editable install maps metatele.tasks to a folder of its own.
    source = folder / "tasks" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "metatele.tasks", source, submodule_search_locations=[str(source.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    tasks = sys.modules["metatele.tasks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tasks)
    package.tasks = tasks  # type: ignore[attr-defined]
    for module in (package, tasks):
        if not Path(str(module.__file__)).resolve().is_relative_to(folder.resolve()):
            raise ImportError(f"{module.__name__} does not come from the checkout")


def prepared(job: Job) -> tuple[Callable[[], object], float | None]:
    """A function that runs one iteration, and this process's memory before it was prepared."""
    if job.checkout is not None:
        use_checkout(Path(job.checkout))
    import torch

    from benchmarks.variants import varied
    from benchmarks.workloads import WORKLOADS

    torch.set_num_threads(job.threads)
    load_late_parts()
    module = importlib.import_module(MODULES[job.contestant])
    prepare = module.prepare_evaluation if job.evaluation else module.prepare
    workload = varied(WORKLOADS[job.workload].ordered(job.second), job.changes)
    if job.contestant in ENGINES:  # the settings of another checkout may have no engine
        workload = workload.by(job.contestant)
    base = clear_peak()
    return prepare(workload, job.tasks), base


def load_late_parts() -> None:
    """Let torch import what it imports at an optimizer's first step only, so that no contestant is charged for it."""
    import torch

    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()


def clear_peak() -> float | None:
    """Restart the count of this process's peak memory; returns its current value."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float | None:
    """Largest resident memory of this process so far, in MiB; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return None


def guard_memory() -> None:
    """Make a problem that is too large fail in this process, without harming any other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                most = int(line.split()[1]) * 1024 * 9 // 10
                resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main() -> None:
    """Prepare, warm up, and run on demand."""
    job = Job(**json.loads(sys.argv[1]))
    if job.threads == 1:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    guard_memory()
    # What libraries print must not get between the messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.filterwarnings("error", message="unroll.engine")  # a fallback to the other engine is an error
    began = time.perf_counter()
    run, base = prepared(job)
    begin = time.perf_counter()
    run()
    warm = time.perf_counter() - begin
    known = {name: getattr(run, name) for name in ("tasks", "compile_seconds") if hasattr(run, name)}
    ready = {"tasks": job.tasks, "prepare_seconds": begin - began, "warm_seconds": warm} | known
    print(json.dumps({"ready": ready}), file=messages)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        begin = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - begin}), file=messages)
    print(json.dumps({"peak": peak(), "base": base}), file=messages)


if __name__ == "__main__":
    main()
