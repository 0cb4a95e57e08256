"""Seconds of a window of meta-training on a GPU, and the share of the card's own matrix rate that this is.

    python -m benchmarks.gpu [--tasks 4096] [--repeats 5]

The dense workload, first order, by both engines and by JAX, in float32 and in TF32. The rate is that of a large matrix
product of the same precision, measured in the same run; the operations counted are those of the LSTMs' matrix products
alone. Ends with code 2 where there is no CUDA device.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.limit import flops
from benchmarks.own import OwnTraining
from benchmarks.tables import spread
from benchmarks.workloads import WORKLOADS, Workload
from metatele.support.device import multiplying
from metatele.support.files import write_atomic

SIDE = 8192  # of the square matrices whose product gives the card's rate
PRECISIONS = {"float32": False, "TF32": True}  # as `unroll.tf32`
JAX_PRECISIONS = {"float32": "float32", "TF32": "tensorfloat32"}


def timed(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of the first call, in which all is compiled and recorded, and of each repeat."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds


def matrix_rate(repeats: int, tf32: bool) -> float:
    """Operations per second of a large matrix product."""
    a, b = torch.randn(2, SIDE, SIDE, device="cuda")
    out = torch.empty_like(a)
    with multiplying(tf32):
        return 2 * SIDE**3 / statistics.median(timed(lambda: torch.mm(a, b, out=out), repeats)[1:])


def own_run(workload: Workload, tasks: int, engine: str, precision: str) -> Callable[[], object]:
    """metatele's iteration by an engine."""
    unroll = replace(workload.by(engine).unroll, tf32=PRECISIONS[precision])
    return OwnTraining(replace(workload, unroll=unroll), tasks, device="cuda")


def jax_run(workload: Workload, tasks: int, precision: str) -> Callable[[], object]:
    """JAX's iteration on the same card. Raises: ImportError, RuntimeError where JAX cannot."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() != "gpu":
        raise RuntimeError("JAX sees no GPU")
    jax.config.update("jax_default_matmul_precision", JAX_PRECISIONS[precision])
    from benchmarks import jax_contestant

    return jax_contestant.prepare(workload, tasks)


def measure(tasks: int, repeats: int) -> list[dict[str, Any]]:
    """One record per precision and contestant."""
    workload = WORKLOADS["dense"].ordered(False)
    windows, work = workload.unroll.longest / workload.unroll.window, flops(workload, tasks)
    makers: dict[str, Callable[[str], Callable[[], object]]] = {
        "compiled": lambda precision: own_run(workload, tasks, "compiled", precision),
        "higher": lambda precision: own_run(workload, tasks, "higher", precision),
        "JAX": lambda precision: jax_run(workload, tasks, precision),
    }
    records: list[dict[str, Any]] = []
    for precision, tf32 in PRECISIONS.items():
        rate = matrix_rate(repeats, tf32)
        for name, make in makers.items():
            record: dict[str, Any] = {"precision": precision, "contestant": name, "rate": rate, "operations": work}
            try:
                torch.cuda.empty_cache()
                record["first"], *seconds = timed(make(precision), repeats)
                record["seconds"] = [s / windows for s in seconds]
            except (ImportError, RuntimeError) as reason:
                record["error"] = str(reason).splitlines()[0][:100]
            records.append(record)
    return records


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="file for the raw timings, JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs a GPU", file=sys.stderr)
        sys.exit(2)
    records = measure(options.tasks, options.repeats)
    if options.output is not None:
        made = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "tasks": options.tasks}
        write_atomic(options.output, json.dumps(made | {"records": records}, indent=1) + "\n")
    header = ("precision", "contestant", "ms / window", "card, Tflop/s", "of the card's rate", "first iteration, s")
    table = Table(*header, box=box.SIMPLE_HEAD)
    for record in records:
        row = [record["precision"], record["contestant"]]
        if "error" in record:
            table.add_row(*row, record["error"])
            continue
        rate, seconds = record["rate"], [1e3 * s for s in record["seconds"]]
        share = record["operations"] / (statistics.median(seconds) / 1e3) / rate
        table.add_row(*row, spread(seconds), f"{rate / 1e12:.1f}", f"{share:.0%}", f"{record['first']:.1f}")
    Console().print(f"dense workload, first order, {options.tasks} tasks, {torch.cuda.get_device_name()}")
    Console().print(table)


if __name__ == "__main__":
    main()
