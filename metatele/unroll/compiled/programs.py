"""The compiled steps of one inner optimizer on the tasks of one family, made when they are first needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from metatele.recurrent import RecurrentCore
from metatele.recurrent.cells import Factors, products_of, taps_of, turn
from metatele.recurrent.traced import is_turned
from metatele.unroll.compiled.inductor import compiling
from metatele.unroll.compiled.program import CannotFollowError, Program, following, in_layout
from metatele.unroll.compiled.step import Carry, Fixed, Gave, Given, Now, StepFunction, StepWeights, Weights

StepKey = tuple[object, ...]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Step:
    """A compiled step. Its program takes and gives the tensors of `Given` and `Gave` as lists, in the order of torch's
    pytrees; their places are found once, because a step is called too often to flatten trees.

    Attributes:
        program: the step, and its backward pass if it has one.
        presumed: what it takes for granted, in words.
        gave: the places, in the list that it gives, of what `Gave` holds.
        strides: the layout of the carry.
        rows: of each large core.
        taps: zeros, for each of their products.
        seen: where each core's part of `Gave.seen` lies; empty for one that is not called.
        floating: the places in the carry of what gradients pass through.
        others: how many gradients of the other weights the backward pass gives behind those of the carry; then come
            those of the taps.
        zeros: a gradient of a carry.
    """

    program: Program
    presumed: list[str]
    gave: Gave
    strides: list[tuple[int, ...]]
    rows: list[int]
    taps: list[list[Tensor]]
    seen: list[slice]
    floating: list[int]
    others: int
    zeros: list[Tensor]

    def laid(self, carry: Sequence[Tensor]) -> list[Tensor]:
        """A carry's tensors in the step's layout."""
        return [in_layout(t, s) for t, s in zip(carry, self.strides, strict=True)]


class Programs:
    """Holds compiled steps, windows recorded from them, and the programs that turn large cores' weights.

    Attributes:
        refused: whether there are steps that cannot be compiled.
    """

    def __init__(self) -> None:
        self.refused = False
        self._steps: dict[StepKey, Step] = {}
        self._windows: dict[StepKey, object] = {}
        self._turn: dict[int, Program] = {}

    def find(self, key: StepKey, order: bool | None, make: Callable[[], Step]) -> Step:
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

    def window(self, key: StepKey, make: Callable[[], Made]) -> Made:
        """The recorded window of a key; `make` records it."""
        if key not in self._windows:
            self._windows[key] = make()
        return cast(Made, self._windows[key])

    def learned(self, weights: Weights, rows: Sequence[int]) -> StepWeights:
        """The learned weights as a step takes them; rows are those of each large core."""
        cores = [
            Factors.of(core, self._turned(core) if is_turned(core, n) else None)
            for core, n in zip(weights.cores, rows, strict=True)
        ]
        return StepWeights({name: p.detach() for name, p in weights.others.items()}, cores)

    def _turned(self, core: RecurrentCore) -> list[Tensor]:
        """A core's turned weights: compiled, because torch's own copy takes twice as long."""
        weights = products_of(core)
        if id(core) not in self._turn:
            self._turn[id(core)] = Program(turn, weights)
        return self._turn[id(core)].forward(weights)[0]


def compile_step(
    function: StepFunction, weights: Weights, programs: Programs, example: tuple[Carry, Fixed, Now], gradient: bool
) -> Step:
    """Compile a step.

    Args:
        function: the step.
        weights: of its inner optimizer.
        programs: what will hold it.
        example: of what it takes beside the weights.
        gradient: whether a backward pass is needed.
    """
    carry, strides, found = _settled(function, weights, programs, example)
    rows = [len(seen[0]) if seen else 1 for seen in found.seen]
    taps = [taps_of(core, n) for core, n in zip(weights.cores, rows, strict=True)]
    given = Given(carry, *example[1:], programs.learned(weights, rows), taps)
    inputs, takes = tree_flatten(given)
    _, gives = tree_flatten(found)

    def flat(values: Sequence[Tensor]) -> list[Tensor]:
        tensors = tree_leaves(function(tree_unflatten(values, takes)))
        return [*(in_layout(t, s) for t, s in zip(tensors, strides, strict=False)), *tensors[len(strides) :]]

    taken, gave = tree_unflatten(range(len(inputs)), takes), tree_unflatten(range(gives.num_leaves), gives)
    floating = _linked(function, given.carry, taken.carry)
    others = [taken.learned.others[name] for name, p in weights.others.items() if p.requires_grad]
    wanted = [*floating, *others, *tree_leaves(taken.taps)]
    with compiling():
        program = Program(flat, inputs, wanted, len(strides) + 1) if gradient else Program(flat, inputs)
    seen = [slice(places[0], places[-1] + 1) if places else slice(0) for places in gave.seen]
    zeros = [torch.zeros_like(t) for t in tree_leaves(carry)]
    return Step(program, function.presumed, gave, strides, rows, taps, seen, floating, len(others), zeros)


def _settled(
    function: StepFunction, weights: Weights, programs: Programs, example: tuple[Carry, Fixed, Now]
) -> tuple[Carry, list[tuple[int, ...]], Gave]:
    """Play two steps without compiling them.

    Returns: the carry after them, as it lies in memory, its layout, and what the last step gave, which shows how many
        rows each core has.
    Raises: CannotFollowError if a carry changes from step to step.
    """
    carry, fixed, now = example
    first, tree = tree_flatten(carry)
    zeros = [[first[0].new_zeros(())] * (len(core.lstm_cells) + 1) for core in weights.cores]
    learned = programs.learned(weights, [1] * len(weights.cores))
    for _ in range(2):
        with following(), torch.enable_grad():
            found = function(Given(carry, fixed, now, learned, zeros))
        after = tree_leaves(found.carry)
        kinds, before = ([(tuple(t.shape), t.dtype) for t in side] for side in (after, first))
        if kinds != before:
            raise CannotFollowError(f"what a step remembers changes its shape or its type from {before} to {kinds}")
        strides = [t.stride() for t in after]
        carry = tree_unflatten([in_layout(t.detach(), s) for t, s in zip(after, strides, strict=True)], tree)
    return carry, strides, found


def _linked(function: StepFunction, carry: Carry, places: Carry) -> list[int]:
    """The places in the carry of the tensors through which gradients pass from step to step."""
    held = set() if function.second_order else {*places.gradient.values(), *places.losses}
    both = list(zip(tree_leaves(carry), tree_leaves(places), strict=True))[:-1]  # without `since`, a number
    return [place for tensor, place in both if tensor.is_floating_point() and place not in held]
