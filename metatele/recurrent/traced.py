"""A core's step as plain operations on tensors that are given to it, to be traced and compiled.

A large core's weights are not differentiated: with `taps`, zeros added to the output of each product, the gradient of
a tap is that of the product's output, and one product over all steps of a window makes the weight's gradient of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from metatele.recurrent.core import RecurrentCore
from metatele.recurrent.squash import gates, tanh

T = TypeVar("T")
SMALL = 2**18  # bytes of a cell's weights up to which they are differentiated at every step
FEW = 8  # rows up to which a processor reads a weight faster as the sums that they are than as a product of matrices
ALONE = 4  # rows from which on such sums are made of two of the weight's rows at a time, which share what they read


class Factors(NamedTuple):
    """What a large core's products multiply.

    Attributes:
        weights: the weight of each product.
        turned: of each cell, its weights side by side, transposed, [inputs + hidden, 4 hidden]; the head's at the end.
            Without elements if the core's rows are few.
        biases: the sum of each cell's biases, and the head's.
    """

    weights: list[Tensor]
    turned: list[Tensor]
    biases: list[Tensor]


def is_small(core: RecurrentCore) -> bool:
    """Whether the gradient of a core's weights is cheap enough to be made at every step."""
    return all(c.weight_ih.nbytes + c.weight_hh.nbytes <= SMALL for c in core.lstm_cells)


def is_turned(core: RecurrentCore, rows: int) -> bool:
    """Whether steps of so many rows are to have turned weights, contiguous in memory, which makes products so much
    faster that turning pays, once a window: elsewhere than on a CPU all layouts are as fast."""
    return rows > FEW and core.head.weight.device.type == "cpu"


def products(core: RecurrentCore) -> list[Tensor]:
    """The weights of a core's products, from the features up, without a graph."""
    cells = [w for cell in core.lstm_cells for w in (cell.weight_ih, cell.weight_hh)]
    return [w.detach() for w in (*cells, core.head.weight)]


def turn(weights: Sequence[Tensor]) -> list[Tensor]:
    """What `Factors.turned` is, of a core's `products`."""
    return [torch.cat([w.t() for w in own]).contiguous() for own in _by_output(weights)]


def factors(core: RecurrentCore, turned: Sequence[Tensor]) -> Factors:
    """The factors of a large core as its weights are now; turned are those weights, turned."""
    biases = [(c.bias_ih + c.bias_hh).detach() for c in core.lstm_cells] + [core.head.bias.detach()]
    return Factors(products(core), list(turned), biases)


def _by_output(weights: Sequence[T]) -> Iterator[Sequence[T]]:
    """What belongs to each cell, and to the head, of what belongs to each product."""
    for i in range(0, len(weights), 2):
        yield weights[i : i + 2]


class TappedCells:
    """A large core.

    Args:
        factors: see there.
        taps: for each cell, and for the head, zeros [rows, outputs].

    Attributes:
        seen: what each cell, and the head, multiplied by its weights, [rows, columns].
    """

    def __init__(self, factors: Factors, taps: Sequence[Tensor]) -> None:
        self.factors, self.taps, self.seen = factors, taps, list[Tensor]()

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        x, after = features, []
        *cells, head = self._outputs()
        for i, output in enumerate(cells):
            h, c = memory[2 * i : 2 * i + 2]
            x, c = advance(self._sums(output, x, h), c, 1)
            after += [x, c]
        return self._sums(head, x), tuple(after)

    def _outputs(self) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor, Tensor]]:
        """(weights, the same turned, bias, tap) of each cell, and of the head."""
        weights, turned, biases = self.factors
        return zip(_by_output(weights), turned, biases, self.taps, strict=True)

    def _sums(self, output: tuple[Sequence[Tensor], Tensor, Tensor, Tensor], *inputs: Tensor) -> Tensor:
        weights, turned, bias, tap = output
        self.seen.append(torch.cat(inputs, 1).detach())
        return _Products.apply(turned, *weights, *inputs) + (bias + tap)


class SmallCells:
    """A small core with its own weights. All is computed transposed, [columns, rows], so that each gate is contiguous.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        self.core = core

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give."""
        x, after = features.t(), []
        for i, cell in enumerate(self.core.lstm_cells):
            h, c = (m.t() for m in memory[2 * i : 2 * i + 2])
            joint = torch.cat([cell.weight_ih, cell.weight_hh, (cell.bias_ih + cell.bias_hh).unsqueeze(1)], 1)
            x, c = advance(_Affine.apply(joint, x, h), c, 0)
            after += [x.t(), c.t()]
        return (self.core.head.weight @ x + self.core.head.bias.unsqueeze(1)).t(), tuple(after)


def advance(sums: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """An LSTM cell's next h and c, from its gates before squashing along `dim`."""
    i, f, candidate, o = gates(*sums.chunk(4, dim))
    c = f * c + i * candidate
    return o * tanh(c), c


class _Affine(Function):
    """W [x; h; 1], for columns x and h. Its backward pass leaves out the ones, and makes W's gradient transposed: some
    libraries take twice as long for a product whose first factor has more rows than its second has columns."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, h: Tensor) -> Tensor:
        inputs = torch.cat([x, h, torch.ones_like(h[:1])])
        ctx.save_for_backward(weight, inputs)
        ctx.rows = len(x)
        return weight @ inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        weight, inputs = ctx.saved_tensors
        below = weight[:, :-1].t() @ gradient
        return (inputs @ gradient.t()).t(), below[: ctx.rows], below[ctx.rows :]


class _Products(Function):
    """The sum of x W^T over some x and W. It reads the turned weights forward, if there are any, and W backward, each
    in the layout that is fastest."""

    @staticmethod
    def forward(ctx: Any, turned: Tensor, *both: Tensor) -> Tensor:
        weights, inputs = both[: len(both) // 2], both[len(both) // 2 :]
        ctx.save_for_backward(*weights)
        if turned.numel():
            return torch.cat(inputs, 1) @ turned
        few = len(inputs[0]) <= FEW and turned.device.type == "cpu"
        first, *rest = [(_of_few if few else torch.mm)(x, w.t()) for x, w in zip(inputs, weights, strict=True)]
        return sum(rest, first)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 + len(weights) :]
        slopes = [gradient @ w if here else None for w, here in zip(weights, wanted, strict=True)]
        return None, *(None for _ in weights), *slopes


def _of_few(x: Tensor, turned: Tensor) -> Tensor:
    """x times a turned weight, as sums over the rows of that weight."""
    blocks = turned.t().chunk(1 if len(x) < ALONE else 2)
    return torch.stack([torch.cat([(block * row).sum(1) for block in blocks]) for row in x.unbind()])


def weight_gradients(slopes: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a large core's weights, in the order of its parameters.

    Args:
        slopes: the gradient of each tap, [rows of all steps, outputs].
        seen: what the weights behind each tap multiplied, [rows of all steps, columns].
    """
    *cells, head = slopes
    out: list[Tensor] = []
    for slope, inputs in zip(cells, seen, strict=False):
        hidden, bias = slope.shape[1] // 4, slope.sum(0)
        out += [slope.t() @ inputs[:, :-hidden], slope.t() @ inputs[:, -hidden:], bias, bias.clone()]
    return [*out, head.t() @ seen[-1], head.sum(0)]
