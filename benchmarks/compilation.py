"""How long the engine 'compiled' takes before its first iteration, with an empty cache folder and with a filled one.

    python -m benchmarks.compilation [--workloads teacher-student,digits] [--repeats 1]

Each run is a process of its own; the second finds what the first has compiled. Shown are seconds of the clock, and of
the processor, which other processes on the machine disturb less: in all, and of them those of tracing (and importing
what traces), of TorchInductor, and of the C++ compiler. Counted is an iteration's first time less its second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from metatele.tasks import Digits, TeacherStudent
from rich.console import Console
from rich.table import Table

from benchmarks.crew import ROOT
from benchmarks.own import prepare
from benchmarks.worker import load_late_parts
from benchmarks.workloads import Workload
from metatele import InnerOptimizer, TensorUpdate, UnrollSettings

TASKS = 16
UNROLL = UnrollSettings(100, 20, True, engine="compiled")
FAMILIES = {"teacher-student": lambda: TeacherStudent(spread=10), "digits": lambda: Digits(hidden=[32, 32])}
COLUMNS = ("clock", "processor", "tracing", "inductor", "C++ compiler")


def spent() -> tuple[float, float, float]:
    """Seconds so far: of the clock, of this process, of those that it has started and that have ended."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.perf_counter(), own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime


def passed(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """What has come in between."""
    return [b - a for a, b in zip(before, after, strict=True)]


def first_iteration(name: str) -> dict[str, Any]:
    """What the compilation for a workload takes in this process."""
    import torch
    from torch._dynamo.utils import counters
    from torch._inductor import compile_fx

    torch.set_num_threads(1)
    load_late_parts()
    inside, original = [0.0], compile_fx.compile_fx_inner

    def timed(*given: Any, **options: Any) -> Any:
        before = spent()
        try:
            return original(*given, **options)
        finally:
            inside[0] += passed(before, spent())[1]

    compile_fx.compile_fx_inner = timed
    run: Callable[[], object] = prepare(
        Workload(name, lambda: InnerOptimizer(TensorUpdate()), FAMILIES[name](), UNROLL), TASKS
    )
    marks = [spent()]
    for _ in range(2):
        run()
        marks.append(spent())
    first, second = passed(marks[0], marks[1]), passed(marks[1], marks[2])
    clock, own, others = passed(second, first)
    found = {kind: counters["inductor"][f"fxgraph_cache_{kind}"] for kind in ("hit", "miss", "bypass")}
    return {"seconds": [clock, own + others, own - inside[0], inside[0], others], **found}


def measured(name: str, folder: str) -> dict[str, Any]:
    """The same in a process of its own, whose cache is in a folder. Raises: RuntimeError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compilation", "--inside", name],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": folder, "TMPDIR": folder},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the compilation has failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compilation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default=",".join(FAMILIES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--inside", choices=list(FAMILIES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(first_iteration(given.inside)))
        return
    table = Table("workload", "cache", *COLUMNS, "found / compiled")
    for name in given.workloads.split(","):
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                for cache in ("empty", "filled"):
                    found = measured(name, folder)
                    graphs = f"{found['hit']} / {found['miss'] + found['bypass']}"
                    table.add_row(name, cache, *(f"{s:.1f}" for s in found["seconds"]), graphs)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
