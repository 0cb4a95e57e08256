"""One step of the inner loop as a function of tensors alone: what is traced and compiled."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer, InnerState
from metatele.parts.point import Point
from metatele.recurrent import RecurrentCore
from metatele.recurrent.cells import Factors, SmallCells, TappedCells, is_small
from metatele.recurrent.traced import Traced
from metatele.support.presume import presume, presuming
from metatele.symmetry import ProductGroup
from metatele.symmetry.action import OfData
from metatele.task.batch import MetaBatch
from metatele.task.params import Params, map_params, select_tasks, task_norm
from metatele.task.stack import stacked_forward
from metatele.unroll.adjoints import clip_adjoints
from metatele.unroll.compiled.program import CannotFollowError

DataRows = tuple[Tensor, Tensor]  # inputs and targets
IN_ORDER = "no task diverges"


class Carry(NamedTuple):
    """What goes from step to step.

    Attributes:
        params: parameters, {name: [B, ...]}.
        gradient: of the parameters, likewise, if all steps see the same rows; else empty.
        losses: at the parameters, [B], in a list; likewise.
        state: the tensors of the optimizer's state.
        since: the step at which the state began, a number.
    """

    params: Params
    gradient: Params
    losses: list[Tensor]
    state: list[Tensor]
    since: Tensor


class Fixed(NamedTuple):
    """What stays for a window.

    Attributes:
        rows: all rows that the tasks train on.
        alive: which tasks have not diverged, [B].
        bar: the losses above which they count as diverged, [B].
        scored: the rows that steps are scored on, in a list; none if they are the same.
        made: what each factor of the group computed from the data.
        constants: frozen parameters and buffers of the networks, {name: [B, ...]}.
        horizon: the number of steps that the trajectory is to have; NaN if that is not told.
    """

    rows: DataRows
    alive: Tensor
    bar: Tensor
    scored: list[DataRows]
    made: list[OfData]
    constants: Params
    horizon: Tensor


class Now(NamedTuple):
    """What belongs to one step: its number, and the row numbers of its minibatches, {part: [B, rows]}."""

    step: Tensor
    drawn: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """Its tensors in the order of its pytree leaves; listed by hand, as `tree_leaves` is too slow for a step."""
        return [self.step, *self.drawn.values()]


class StepWeights(NamedTuple):
    """The learned weights: those of the large cores, as `Factors`, and all others, {name: weight}."""

    others: dict[str, Tensor]
    cores: list[Factors]


class Given(NamedTuple):
    """What a step takes; taps are those of each large core (see `TappedCells`)."""

    carry: Carry
    fixed: Fixed
    now: Now
    learned: StepWeights
    taps: list[list[Tensor]]


class Gave(NamedTuple):
    """What a step gives.

    Attributes:
        carry: the next one.
        meta_losses: [B].
        inner_losses: before the step, [B], in a list; none if they are the meta-losses of the step before.
        norms: of the gradient, [B].
        flags: whether each of what was presumed holds.
        seen: what each large core's products multiplied.
    """

    carry: Carry
    meta_losses: Tensor
    inner_losses: list[Tensor]
    norms: Tensor
    flags: Tensor
    seen: list[list[Tensor]]


class Weights:
    """Where the learned weights of an inner optimizer are.

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


class StepFunction:
    """A step of some tasks of one family.

    Args:
        inner: the inner optimizer.
        batch: tasks of the family; its tensors are not kept.
        group: the network's group.
        state: a state of the optimizer; likewise.
        second_order: whether the meta-gradient passes through the inner gradients.
        active: whether the teleport acts at the step.
        most: see `clip_adjoints`; None for no clipping.

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
        most: float | None = None,
    ) -> None:
        self.inner, self.group, self.second_order, self.active = inner, group, second_order, active
        self.most, self.unseen = most, batch.judged_by_unseen
        self.template, self.shared = state.map(lambda t: t.new_empty(0)), batch.shares_meta
        self.batch = replace(batch, params={}, inputs={}, targets={}, seeds=batch.seeds[:0], buffers={})
        self.presumed: list[str] = []
        self.called: list[bool] = []

    def __call__(self, given: Given) -> Gave:
        carry, fixed = given.carry, given.fixed
        params, gradient, alive = carry.params, carry.gradient, fixed.alive
        x, y = self._drawn(fixed.rows, given.now, "inner")
        scored = self._drawn((fixed.scored or [fixed.rows])[0], given.now, "meta")
        with presuming() as notes, self._weights(given.learned, given.taps) as (learned, tapped):
            before, now = [], carry.losses
            if not self.shared:
                losses, gradient = self._losses(params, x, y, fixed, True)
                before = now = [self._in_order(losses, fixed)]
            norm = task_norm(map_params(torch.detach, gradient))
            presume(~alive | norm.isfinite(), IN_ORDER)
            if not self.second_order:
                gradient, now = map_params(torch.detach, gradient), [now[0].detach()]
            gradient = select_tasks(alive, gradient, map_params(torch.zeros_like, gradient))
            group = self.group if "inner" in given.now.drawn else self.group.on(x, fixed.made)
            step, horizon = cast(int, given.now.step), cast(int, fixed.horizon)  # see Point
            here, whole = self._landscape(x, y, fixed), self._landscape(*fixed.rows, fixed)
            point = Point(params, gradient, x, step, here, whole, horizon, torch.where(alive, now[0], 0), self.unseen)
            taken = (point, group, self._state(carry), alive, self.active)
            new, state = functional_call(_Stepper(self.inner), learned, taken)
            presume(~alive | task_norm(map_params(torch.detach, new)).isfinite(), IN_ORDER)
            new = select_tasks(alive, new, params)
            if self.most is not None:
                new, state = clip_adjoints(new, state, params, self.most)
            new = _leave(new, alive)
            losses, after = self._losses(new, *scored, fixed, self.shared)
            meta_losses = self._in_order(losses, fixed)
        self.presumed = [what for what, _ in notes]
        self.called = [bool(cells.seen) for cells in tapped]
        if any(len(cells.seen) > len(cells.taps) for cells in tapped):
            calls = max(len(cells.seen) for cells in tapped)
            raise CannotFollowError(f"large LSTM cells are used more than once in a step: {calls} times")
        carry = Carry(new, after, [losses] if self.shared else [], list(state.tensors()), torch.as_tensor(state.since))
        flags = torch.stack([flag for _, flag in notes])
        return Gave(carry, meta_losses, before, torch.where(alive, norm, 0), flags, [c.seen for c in tapped])

    def _state(self, carry: Carry) -> InnerState:
        left = iter(carry.state)
        return replace(self.template.map(lambda _: next(left)), since=cast(int, carry.since))

    @staticmethod
    def _drawn(rows: DataRows, now: Now, part: str) -> DataRows:
        """The rows of a step: of its minibatch, if there is one."""
        if part not in now.drawn:
            return rows
        index = now.drawn[part]
        task = torch.arange(len(index), device=index.device).unsqueeze(1)
        return rows[0][task, index], rows[1][task, index]

    def _losses(self, params: Params, x: Tensor, y: Tensor, fixed: Fixed, wanted: bool) -> tuple[Tensor, Params]:
        """Losses [B], and their gradient if it is wanted."""
        if wanted:
            params = {k: p if p.requires_grad else p.detach().requires_grad_() for k, p in params.items()}
        losses = self.batch.losses(stacked_forward(self.batch.network, params, x, fixed.constants), y)
        if not wanted:
            return losses, {}
        create = self.second_order and torch.is_grad_enabled()
        gradient = torch.autograd.grad(
            losses.sum(), list(params.values()), create_graph=create, retain_graph=True, materialize_grads=True
        )
        return losses, dict(zip(params, gradient, strict=True))

    def _in_order(self, losses: Tensor, fixed: Fixed) -> Tensor:
        presume(~fixed.alive | (losses.detach() <= fixed.bar), IN_ORDER)
        return losses

    def _landscape(self, inputs: Tensor, targets: Tensor, fixed: Fixed) -> Landscape:
        return Landscape(self.batch.network, self.batch.family.loss, inputs, targets, constants=fixed.constants)

    @contextmanager
    def _weights(
        self, learned: StepWeights, taps: Sequence[Sequence[Tensor]]
    ) -> Iterator[tuple[dict[str, Tensor], list[TappedCells]]]:
        """Inside, the cores compute with the given weights; yields the other weights, by name, and the large cores."""
        found, arithmetic = Weights(self.inner), Traced()
        tapped = [TappedCells(*both, arithmetic) for both in zip(learned.cores, taps, strict=True)]
        with ExitStack() as stack:
            for core in found.small:
                stack.enter_context(core.played_by(SmallCells(core, arithmetic)))
            for core, cells in zip(found.cores, tapped, strict=True):
                stack.enter_context(core.played_by(cells))
            yield {f"inner.{name}": weight for name, weight in learned.others.items()}, tapped


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
