"""One step of the inner loop as a function of tensors alone: what is traced and compiled."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer, InnerState
from metatele.parts.point import Point
from metatele.recurrent import RecurrentCore
from metatele.recurrent.traced import Factors, SmallCells, TappedCells, is_small
from metatele.support.presume import presume, presuming
from metatele.symmetry import ProductGroup
from metatele.task.batch import MetaBatch
from metatele.task.params import Params, map_params, select_tasks, task_norm
from metatele.task.stack import stacked_forward
from metatele.unroll.compiled.program import CannotFollowError

T = TypeVar("T")
IN_ORDER = "no task diverges"


class Weights:
    """The learned weights of an inner optimizer, as a step takes them.

    Attributes:
        cores: the large cores, whose weights' gradients are made once a window.
        small: the other cores.
        others: all weights that are in no large core, {name: weight}, differentiated at every step.
        flags: which of all weights are trained.
    """

    def __init__(self, inner: InnerOptimizer) -> None:
        found = [m for m in inner.modules() if isinstance(m, RecurrentCore)]
        self.cores = [core for core in found if not is_small(core)]
        self.small = [core for core in found if is_small(core)]
        inside = {id(p) for core in self.cores for p in core.parameters()}
        self.others = {name: p for name, p in inner.named_parameters() if id(p) not in inside}
        self.flags = tuple(p.requires_grad for p in inner.parameters())


@dataclass(frozen=True)
class Shape:
    """How a call's list of tensors is made up.

    Attributes:
        sizes: how many tensors there are of each kind.
        drawn: whether the rows of the inner and of the meta part are drawn anew at each step.
        made: how many tensors each factor of the group made of the data.
    """

    sizes: tuple[int, ...]
    drawn: tuple[bool, bool]
    made: tuple[int, ...]


class StepFunction:
    """A step of some tasks of one family.

    A call takes, in one list: the carry (parameters; their gradient, if all steps see the same rows; the optimizer's
    state; the step at which it began), what stays for a window (rows, which tasks are alive, the losses above which
    they would have diverged, what the group made of the data), what belongs to the step (its number, its minibatches'
    row numbers), the weights, and taps (see `TappedCells`).

    It gives: the next carry; the meta-losses [B]; the losses before the step [B] (not if they are the meta-losses of
    the step before); the gradient norms [B]; whether each of `presumed` holds, [flags]; and what the large cores'
    products multiplied.

    Args:
        inner: the inner optimizer.
        batch: tasks of the family; its tensors are not kept.
        group: the network's group.
        state: a state of the optimizer; likewise.
        second_order: whether the meta-gradient passes through the inner gradients.
        active: whether the teleport acts at the step.
        shape: of the list that a call takes.

    Attributes:
        presumed: what a call takes for granted, in words.
        called: which of the large cores a call has played.
    Raises: CannotFollowError, in a call, if one of them is played more than once.
    """

    def __init__(
        self,
        inner: InnerOptimizer,
        batch: MetaBatch,
        group: ProductGroup,
        state: InnerState,
        second_order: bool,
        active: bool,
        shape: Shape,
    ) -> None:
        self.inner, self.group, self.second_order, self.active = inner, group, second_order, active
        self.shape, self.template = shape, state.map(lambda t: t.new_empty(0))
        self.names, self.shared = list(batch.params), batch.shares_meta
        self.batch = replace(batch, params={}, inputs={}, targets={}, seeds=batch.seeds[:0])
        self.presumed: list[str] = []
        self.called: list[bool] = []

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        carry, fixed, now, weights, taps = cut(values, self.shape.sizes)
        params, gradient, state = self._unpack(carry)
        step = cast(int, now[0])  # see Point
        rows = Rows(fixed, now, self.shared, self.shape)
        with presuming() as notes, self._weights(weights, taps) as (learned, tapped):
            x, y = rows.inner
            given = []
            if not self.shared:
                losses, gradient = self._losses(params, x, y, True)
                given = [self._in_order(losses, rows)]
            assert gradient is not None
            norm = task_norm(map_params(torch.detach, gradient))
            presume(~rows.alive | norm.isfinite(), IN_ORDER)
            if not self.second_order:
                gradient = map_params(torch.detach, gradient)
            gradient = select_tasks(rows.alive, gradient, map_params(torch.zeros_like, gradient))
            if not self.shape.drawn[0]:
                self.group.remember(x, rows.made)
            point = Point(params, gradient, x, step, self._landscape(x, y), self._landscape(*rows.whole))
            stepper = _Stepper(self.inner)
            new, state = functional_call(stepper, learned, (point, self.group, state, rows.alive, self.active))
            presume(~rows.alive | task_norm(map_params(torch.detach, new)).isfinite(), IN_ORDER)
            new = _leave(select_tasks(rows.alive, new, params), rows.alive)
            losses, after = self._losses(new, *rows.meta, self.shared)
            meta_losses = self._in_order(losses, rows)
        self.presumed = [what for what, _ in notes]
        self.called = [bool(cells.seen) for cells in tapped]
        if any(len(cells.seen) > len(cells.taps) for cells in tapped):
            raise CannotFollowError("large LSTM cells are used more than once in a step")
        flags = torch.stack([flag for _, flag in notes])
        carry = self._pack(new, after if self.shared else None, state)
        seen = [t for cells in tapped for t in cells.seen]
        return [*carry, meta_losses, *given, torch.where(rows.alive, norm, 0), flags, *seen]

    def linked(self, carry: Sequence[Tensor]) -> list[int]:
        """The places in a carry of what gradients pass through from step to step."""
        held = range(len(self.names), 2 * len(self.names)) if self.shared and not self.second_order else ()
        return [i for i, t in enumerate(carry[:-1]) if t.is_floating_point() and i not in held]

    def _unpack(self, carry: Sequence[Tensor]) -> tuple[Params, Params | None, InnerState]:
        *tensors, since = carry
        left = iter(tensors)
        params = {name: next(left) for name in self.names}
        gradient = {name: next(left) for name in self.names} if self.shared else None
        state = self.template.map(lambda _: next(left))
        return params, gradient, replace(state, since=cast(int, since))

    def _pack(self, params: Params, gradient: Params | None, state: InnerState) -> list[Tensor]:
        since = torch.as_tensor(state.since)
        return [*params.values(), *(gradient or {}).values(), *state.tensors(), since]

    def _losses(self, params: Params, x: Tensor, y: Tensor, wanted: bool) -> tuple[Tensor, Params | None]:
        """Losses [B], and their gradient if it is wanted."""
        if not wanted:
            return self.batch.losses(stacked_forward(self.batch.network, params, x), y), None
        own = {k: p if p.requires_grad else p.detach().requires_grad_() for k, p in params.items()}
        losses = self.batch.losses(stacked_forward(self.batch.network, own, x), y)
        create = self.second_order and torch.is_grad_enabled()
        gradient = torch.autograd.grad(
            losses.sum(), list(own.values()), create_graph=create, retain_graph=True, materialize_grads=True
        )
        return losses, dict(zip(own, gradient, strict=True))

    def _in_order(self, losses: Tensor, rows: "Rows") -> Tensor:
        presume(~rows.alive | (losses.detach() <= rows.bar), IN_ORDER)
        return losses

    def _landscape(self, inputs: Tensor, targets: Tensor) -> Landscape:
        return Landscape(self.batch.network, self.batch.family.loss, inputs, targets)

    @contextmanager
    def _weights(
        self, weights: Sequence[Tensor], taps: Sequence[Tensor]
    ) -> Iterator[tuple[dict[str, Tensor], list[TappedCells]]]:
        """Inside, the cores are played by operations on the given weights; yields those of the others, by name."""
        found, left, zeros = Weights(self.inner), iter(weights), iter(taps)
        learned = {f"inner.{name}": next(left) for name in found.others}
        tapped = []
        with ExitStack() as stack:
            for core in found.small:
                stack.enter_context(core.played_by(SmallCells(core)))
            for core in found.cores:
                cells = len(core.lstm_cells)
                products, outputs = range(2 * cells + 1), range(cells + 1)
                factors = Factors(*([next(left) for _ in some] for some in (products, outputs, outputs)))
                tapped.append(TappedCells(factors, [next(zeros) for _ in outputs]))
                stack.enter_context(core.played_by(tapped[-1]))
            yield learned, tapped


class Rows:
    """The data of a step, and what else stays for a window.

    Attributes:
        whole, inner, meta: all rows that the tasks train on, those of the step, and those that it is scored on, each
            inputs and targets.
        alive: which tasks have not diverged, [B].
        bar: the losses above which they would have, [B].
        made: what each factor of the group made of the data.
    """

    def __init__(self, fixed: Sequence[Tensor], now: Sequence[Tensor], shared: bool, shape: Shape) -> None:
        x, y, self.alive, self.bar, *rest = fixed
        scored = (x, y) if shared else (rest.pop(0), rest.pop(0))
        indices = iter(now[1:])
        self.whole = x, y
        self.inner, self.meta = (
            _pick(*rows, next(indices)) if drawn else rows
            for rows, drawn in zip((self.whole, scored), shape.drawn, strict=True)
        )
        self.made = [tuple(tensors) for tensors in cut(rest, shape.made)]


def _pick(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    task = torch.arange(len(index), device=x.device).unsqueeze(1)
    return x[task, index], y[task, index]


def cut(values: Sequence[T], sizes: Sequence[int]) -> Iterator[list[T]]:
    """Lists of so many values each."""
    left = iter(values)
    for size in sizes:
        yield [next(left) for _ in range(size)]


def _leave(params: Params, alive: Tensor) -> Params:
    """The parameters as the next step starts from them: as `DifferentiableInnerStep` leaves them."""

    def gate(gradient: Tensor) -> Tensor:
        return select_tasks(alive, {"": gradient}, {"": torch.zeros_like(gradient)})[""]

    left = map_params(lambda p: p.view_as(p), params)
    for p in left.values():
        if p.requires_grad:
            p.register_hook(gate)
    return left


class _Stepper(nn.Module):
    """An inner optimizer's step as a module's forward, so that its weights can be given."""

    def __init__(self, inner: InnerOptimizer) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, point: Point, group: ProductGroup, state: InnerState, alive: Tensor, active: bool
    ) -> tuple[Params, InnerState]:
        return self.inner.step(point, group, state, alive, active)
