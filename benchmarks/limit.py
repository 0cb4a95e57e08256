"""The limit: the matrix products that any implementation of a workload's LSTMs does, and nothing else.

For each step of a window, forward, every product with the cells' and the heads' weights; backward, the products that
carry the gradient to what came before (not to features that no gradient flows into: the dense ones, in first order);
and each weight's gradient as one product over all steps of the window. Operands and outputs are allocated before, in
pieces that stay in cache, and each product is done in the arrangement that a trial at the start found fastest.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.variants import lstm_weights
from benchmarks.workloads import Workload

PIECES = (1024, 4096, 32768)  # rows of a product done in one call, to choose from
MOST_INSIDE = 8192  # longer sums are always done in pieces
TRIALS = 5

Run = Callable[[], None]
Size = tuple[int, int, int]  # rows, inside and columns of a product


@dataclass(frozen=True)
class Core:
    """The products of one LSTM with its head.

    Attributes:
        rows: rows of each step.
        layers: inputs of each cell.
        hidden, outputs: sizes of the cells and of the head.
        to_features: whether a gradient flows to the first cell's inputs.
    """

    rows: int
    layers: list[int]
    hidden: int
    outputs: int
    to_features: bool

    def products(self, window: int) -> Iterator[tuple[int, Size]]:
        """(how often, size) of every product of a window."""
        rows, hidden, gates = self.rows, self.hidden, 4 * self.hidden
        for i, inputs in enumerate(self.layers):
            behind = inputs if i or self.to_features else 0
            yield window, (rows, inputs + hidden, gates)
            yield window - 1, (rows, gates, behind + hidden)
            yield 1, (rows, gates, behind)  # a window's graph ends before its first step
            yield 1, (inputs + hidden, window * rows, gates)
        yield window, (rows, hidden, self.outputs)
        yield window, (rows, self.outputs, hidden)
        yield 1, (hidden, window * rows, self.outputs)


def cores(workload: Workload, tasks: int) -> list[Core]:
    """The LSTMs of a workload, with the rows that they see at each step."""
    inner, batch = workload.problem(1)
    dense = workload.name == "dense"
    coordinates = sum(p[0].numel() for p in batch.params.values())
    neurons = sum(p.shape[1] for name, p in list(batch.params.items())[:-2] if name.endswith("bias"))
    each = {"dense": [1, 1], "size-free": [coordinates, neurons], "tensor": [len(batch.params)]}[workload.name]
    out = []
    for weights, rows in zip(lstm_weights(inner), each, strict=True):
        layers = [w.shape[1] for name, w in weights.items() if name.endswith("weight_ih")]
        outputs, hidden = weights["head.weight"].shape
        out.append(Core(tasks * rows, layers, hidden, outputs, not dense or workload.unroll.second_order))
    return out


def flops(workload: Workload, tasks: int) -> int:
    """Floating-point operations of the products of one window."""
    sizes = [p for core in cores(workload, tasks) for p in core.products(workload.unroll.window)]
    return sum(2 * times * rows * inside * columns for times, (rows, inside, columns) in sizes)


def prepare(workload: Workload, tasks: int) -> Run:
    """The products of one iteration."""
    window, steps = workload.unroll.window, workload.unroll.longest
    runs = [
        (times, fastest(size)) for core in cores(workload, tasks) for times, size in core.products(window) if all(size)
    ]

    def run() -> None:
        for _ in range(0, steps, window):
            for times, product in runs:
                for _ in range(times):
                    product()

    return run


def fastest(size: Size) -> Run:
    """A product of this size in the fastest of its arrangements."""
    rows, inside, columns = size
    candidates: list[Run] = []
    if inside <= MOST_INSIDE:
        candidates += [form(size, p) for form in (_rows, _rows_turned) for p in _pieces(rows)]
    if inside > rows:
        candidates += [_sum(s, p) for s in (size, (columns, inside, rows)) for p in _pieces(inside)]
    return min(candidates, key=_trial)


def _pieces(length: int) -> list[int]:
    return sorted({min(p, length) for p in PIECES})


def _trial(run: Run) -> float:
    seconds = []
    for _ in range(TRIALS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _cut(length: int, piece: int) -> list[int]:
    """The lengths of the pieces."""
    return [min(piece, length - begin) for begin in range(0, length, piece)]


def _rows(size: Size, piece: int) -> Run:
    """Some rows at a time."""
    rows, inside, columns = size
    x, weight, out = torch.randn(piece, inside), torch.randn(inside, columns), torch.empty(piece, columns)
    return _calls([(x[:n], weight, out[:n]) for n in _cut(rows, piece)])


def _rows_turned(size: Size, piece: int) -> Run:
    """The same with all matrices transposed."""
    rows, inside, columns = size
    x, weight, out = torch.randn(inside, piece), torch.randn(columns, inside), torch.empty(columns, piece)
    return _calls([(weight, x[:, :n], out[:, :n]) for n in _cut(rows, piece)])


def _sum(size: Size, piece: int) -> Run:
    """As a sum, over pieces of the inner dimension."""
    rows, inside, columns = size
    x, y, out = torch.randn(piece, rows), torch.randn(piece, columns), torch.empty(rows, columns)
    operands = [(x[:n].t(), y[:n]) for n in _cut(inside, piece)]

    def run() -> None:
        for i, (a, b) in enumerate(operands):
            torch.addmm(out, a, b, beta=float(i > 0), out=out)

    return run


def _calls(operands: list[tuple[Tensor, Tensor, Tensor]]) -> Run:
    def run() -> None:
        for a, b, out in operands:
            torch.mm(a, b, out=out)

    return run
