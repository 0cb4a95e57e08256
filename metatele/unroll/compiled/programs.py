"""The compiled steps of one inner optimizer on the tasks of one family, made when they are first needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from metatele.recurrent import RecurrentCore
from metatele.recurrent.traced import Factors, factors, is_turned, products, turn
from metatele.unroll.compiled.program import CannotFollowError, Program, following, in_layout, settle
from metatele.unroll.compiled.step import StepFunction, Weights, cut

Key = tuple[object, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A compiled step.

    Attributes:
        program: the step, and its backward pass if it has one.
        function: what it was made of.
        strides: the layout of the carry.
        rows: of each large core.
        taps: zeros, for each of their products.
        floating: the places in the carry of what gradients pass through.
        zeros: a gradient of a carry.
    """

    program: Program
    function: StepFunction
    strides: list[tuple[int, ...]]
    rows: list[int]
    taps: list[Tensor]
    floating: list[int]
    zeros: list[Tensor]

    @property
    def carried(self) -> int:
        return len(self.strides)

    def laid(self, carry: Sequence[Tensor]) -> list[Tensor]:
        """A carry in the step's layout."""
        return [in_layout(t, s) for t, s in zip(carry, self.strides, strict=True)]


class Programs:
    """Holds compiled steps, windows recorded of them, and what turns large cores' weights.

    Attributes:
        refused: whether there are steps that cannot be compiled.
    """

    def __init__(self) -> None:
        self.refused = False
        self._buffers: list[Tensor] | None = None
        self._steps: dict[Key, Step] = {}
        self._windows: dict[Key, object] = {}
        self._turn: dict[int, Program] = {}

    def check_buffers(self, network: nn.Module) -> None:
        """Raises: CannotFollowError if a network's buffers are not the first one's: steps hold those for good."""
        found = list(network.buffers())
        if self._buffers is None:
            self._buffers = [b.detach().clone() for b in found]
        if len(found) != len(self._buffers) or not all(map(torch.equal, found, self._buffers)):
            raise CannotFollowError("the buffers of its networks differ from meta-batch to meta-batch")

    def find(self, key: Key, order: bool | None, make: Callable[[], Step]) -> Step:
        """The step of a key.

        Args:
            key: what it was compiled for.
            order: whether its backward pass is second-order; None if none is needed, then one with any will do.
            make: compiles it.
        """
        for made in (order,) if order is not None else (True, False, None):
            if (made, *key) in self._steps:
                return self._steps[(made, *key)]
        step = self._steps[(order, *key)] = make()
        return step

    def window(self, key: Key, make: Callable[[], T]) -> T:
        """The recorded window of a key; `make` records it."""
        if key not in self._windows:
            self._windows[key] = make()
        return cast(T, self._windows[key])

    def weights(self, weights: Weights, rows: Sequence[int]) -> list[Tensor]:
        """The learned weights as a step takes them; rows are those of each large core."""
        out = [p.detach() for p in weights.others.values()]
        for core, n in zip(weights.cores, rows, strict=True):
            none = [core.head.weight.new_empty(0)] * (len(core.lstm_cells) + 1)
            out += flat(factors(core, self._turned(core) if is_turned(core, n) else none))
        return out

    def _turned(self, core: RecurrentCore) -> list[Tensor]:
        """A core's turned weights: compiled, because torch's own copy takes twice as long."""
        weights = products(core)
        if id(core) not in self._turn:
            self._turn[id(core)] = Program(turn, weights)
        return self._turn[id(core)].forward(weights)[0]


def flat(found: Factors) -> list[Tensor]:
    """All tensors of a large core's factors."""
    return [*found.weights, *found.turned, *found.biases]


def compile_step(
    function: StepFunction, weights: Weights, programs: Programs, given: Sequence[Sequence[Tensor]], gradient: bool
) -> Step:
    """Compile a step.

    Args:
        function: the step.
        weights: of its inner optimizer.
        programs: what will hold it.
        given: examples of the carry, what stays for a window, and what belongs to the step.
        gradient: whether a backward pass is needed.
    """
    carry, fixed, now = (list(g) for g in given)
    # Played by hand first, to see how its results lie in memory, and how many rows each core has.
    zeros = [carry[0].new_zeros(())] * sum(len(core.lstm_cells) + 1 for core in weights.cores)
    for _ in range(2):
        with following(), torch.enable_grad():
            out = function([*carry, *fixed, *now, *programs.weights(weights, [1] * len(weights.cores)), *zeros])
        if any((t.shape, t.dtype) != (c.shape, c.dtype) for t, c in zip(out, carry, strict=False)):
            raise CannotFollowError("what a step remembers changes its shape or its type")
        strides = [t.stride() for t in out[: len(carry)]]
        carry = [in_layout(t.detach(), s) for t, s in zip(carry, strides, strict=True)]
    rows, taps = [], list[Tensor]()
    outputs = [(len(core.lstm_cells) + 1) * called for core, called in zip(weights.cores, function.called, strict=True)]
    for core, seen in zip(weights.cores, cut(out[len(out) - sum(outputs) :], outputs), strict=True):
        rows.append(len(seen[0]) if seen else 1)
        widths = [4 * core.hidden] * len(core.lstm_cells) + [core.head.out_features]
        taps += [core.head.weight.new_zeros(1).expand(rows[-1], width) for width in widths]
    learned = programs.weights(weights, rows)
    floating = function.linked(carry)
    start = len(carry) + len(fixed) + len(now)
    trained = [i for i, p in enumerate(weights.others.values(), start) if p.requires_grad]
    wanted = [*floating, *trained, *range(start + len(learned), start + len(learned) + len(taps))]

    def laid(values: Sequence[Tensor]) -> list[Tensor]:
        found = function(values)
        return [*(in_layout(t, s) for t, s in zip(found, strides, strict=False)), *found[len(strides) :]]

    inputs = [*carry, *fixed, *now, *learned, *taps]
    program = Program(laid, inputs, wanted, len(carry) + 1) if gradient else Program(laid, inputs)
    settle()
    zeros = [torch.zeros_like(t) for t in carry]
    return Step(program, function, strides, rows, taps, floating, zeros)
