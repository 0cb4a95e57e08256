"""How large the meta-gradients of windows are, with exact and with clipped adjoints (see `unroll.adjoint_clip`).

    python -m benchmarks.adjoints CHECKPOINT [--batches 12] [--tasks 8] [--begin 60] [--windows 20 60] [--clips 0.3]

Meta-batches of `metatele.tasks.Mixture` are played for some steps by the checkpoint's optimizer; then the meta-gradient
of a window is taken. Its norm says how much the meta-batch would count if nothing else clipped it.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from metatele.tasks import Mixture
from rich.console import Console
from torch import Tensor

from benchmarks.__main__ import number as whole
from benchmarks.__main__ import show
from benchmarks.performance import markdown
from benchmarks.tables import Table
from metatele import InnerOptimizer, MetaSettings, Unroll, load_checkpoint, sample_meta_batch
from metatele.errors import MetateleError
from metatele.meta_training.meta_loss import meta_loss
from metatele.support.messages import number
from metatele.unroll import Window

META = MetaSettings(growth=1.0, floor=1e-6)
HORIZON = 200


def norms(
    inner: InnerOptimizer, batches: int, tasks: int, begin: int, length: int, clip: float | None
) -> Iterator[Tensor]:
    """The norm of the meta-gradient of a window that begins at step `begin`, for each meta-batch."""

    def score(window: Window) -> Tensor:
        return meta_loss(window, META, HORIZON)

    for i in range(batches):
        play = Unroll(inner, sample_meta_batch(Mixture(), "train", range(tasks), 3, i), HORIZON, True, clip)
        start = play.window(play.start(), begin, differentiable=False).end
        inner.zero_grad()
        play.gradient(start, length, score)
        yield torch.cat([p.grad.flatten() for p in inner.parameters() if p.grad is not None]).norm()


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(
        "python -m benchmarks.adjoints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("checkpoint")
    add("--batches", type=whole, default=12)
    add("--tasks", type=whole, default=8)
    add("--begin", type=whole, default=60, help="the step at which the windows begin")
    add("--windows", type=whole, nargs="+", default=[20, 60])
    add("--clips", type=float, nargs="+", default=[0.3])
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table; then again as Markdown."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    try:
        inner = load_checkpoint(options.checkpoint)
        for length in options.windows:
            for clip in (None, *options.clips):
                found = norms(inner, options.batches, options.tasks, options.begin, length, clip)
                sizes = torch.stack(list(found)).sort().values
                quantiles = [number(float(sizes[i])) for i in (0, len(sizes) // 2, -1)]
                rows.append([str(length), "exact" if clip is None else f"clipped at {clip:g}", *quantiles])
    except MetateleError as error:
        raise SystemExit(f"error: {error}") from error
    header = ["window", "adjoints", "smallest", "median", "largest"]
    table = Table(f"norms of the meta-gradients of {options.batches} meta-batches", header, rows)
    show(Console(), table)
    print("\n" + markdown(table))


if __name__ == "__main__":
    main()
