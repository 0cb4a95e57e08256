"""Some tasks of a meta-batch, dealt out for the steps of one window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metatele.compiled.chunks import Chunk
from metatele.compiled.gradients import Gradients
from metatele.compiled.programs import Step
from metatele.compiled.step import Shape
from metatele.params import Params
from metatele.stack import stacked_forward
from metatele.unroll import DIVERGENCE, Position, Unroll, Window

FindStep = Callable[["Deck", int, bool], Step]  # for a deck, the step of a number; with a backward pass or without


class Played(NamedTuple):
    """One step that was played: with what, and what its backward pass needs."""

    step: Step
    saved: list[Tensor]
    seen: list[Tensor]


@dataclass
class Course:
    """What some steps gave.

    Attributes:
        carry: where they ended.
        meta_losses, inner_losses, norms: see `Window`, one tensor [B] a step.
        flags: whether what each took for granted holds.
        played: what their backward passes need.
    """

    carry: list[Tensor]
    meta_losses: list[Tensor] = field(default_factory=list)
    inner_losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    flags: list[tuple[Step, Tensor]] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)


class Deck:
    """See `StepFunction` for what a step takes.

    Args:
        play: the meta-batch.
        chunk: which tasks of it.
        begin: where all of them stand.
        length: number of steps.
    """

    def __init__(self, play: Unroll, chunk: Chunk, begin: Position, length: int) -> None:
        batch = play.batch
        self.play, self.chunk, self.length, self.begin = play, chunk, length, chunk.position(begin)
        self.shared = batch.shares_meta
        bar = DIVERGENCE * (self.begin.initial_loss.abs() + 1)
        x, y = (chunk.of(t) for t in batch.rows("inner"))
        drawn = {part: play.index[part] for part in ("inner", "meta")}
        made = play.group.of_data(batch.inputs["inner"]) if drawn["inner"] is None else [() for _ in play.group.factors]
        self.fixed = [x, y, self.begin.alive, bar]
        if not self.shared:
            self.fixed += [chunk.of(t) for t in batch.rows("meta")]
        self.fixed += [chunk.of(t) for tensors in made for t in tensors]
        self.carry, self.flag, self.losses = self._carry(x, y, bar)
        numbers = torch.arange(begin.step, begin.step + length, dtype=torch.float64, device=x.device).unbind()
        self.now = [[number] for number in numbers]
        for ahead, index in enumerate(drawn.values()):  # a step is scored on the minibatch after it
            if index is not None:
                for k, here in enumerate(self.now):
                    here.append(chunk.of(index[begin.step + k + ahead]))
        self.drawn = drawn["inner"] is not None, drawn["meta"] is not None
        self.made = tuple(len(tensors) for tensors in made)

    def shape(self, weights: int, taps: int) -> Shape:
        """How a step's list of tensors is made up, with so many of weights and of taps."""
        sizes = (len(self.carry), len(self.fixed), len(self.now[0]), weights, taps)
        return Shape(sizes, self.drawn, self.made)

    def signature(self) -> tuple[object, ...]:
        """What must be the same for a compiled step to serve."""
        tensors = (*self.carry, *self.fixed, *self.now[0])
        return *((t.shape, t.dtype, t.device) for t in tensors), self.drawn, self.made, self.shared

    def _carry(self, x: Tensor, y: Tensor, bar: Tensor) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """The carry to begin with; if all steps see the same rows, also whether all losses are in order, and them."""
        params, state = self.begin.params, self.begin.state
        since = torch.as_tensor(state.since, dtype=torch.float64, device=x.device)
        gradient: Params = {}
        flag = losses = None
        if self.shared:
            own = {k: p.detach().requires_grad_() for k, p in params.items()}
            with torch.enable_grad():
                losses = self.play.batch.losses(stacked_forward(self.play.batch.network, own, x), y)
                slopes = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
            gradient, losses = dict(zip(own, slopes, strict=True)), losses.detach()
            flag = (~self.begin.alive | (losses <= bar)).all()
        return [*params.values(), *gradient.values(), *state.tensors(), since], flag, losses

    def run(self, find: FindStep, weights: Callable[[Step], Sequence[Tensor]], first: int, course: Course,
            last: int, gradient: bool) -> None:
        """Play steps first, ..., last - 1 from where a course has come, and add what they give to it.

        Args:
            find: gives the compiled step.
            weights: gives the learned weights and the taps that a step takes.
            gradient: whether a backward pass will follow.
        """
        before: Step | None = None
        for k in range(first, last):
            step = find(self, k, gradient)
            if step is not before:
                course.carry = step.laid(course.carry)
                learned, before = weights(step), step
            out, saved = step.program.forward([*course.carry, *self.fixed, *self.now[k], *learned])
            course.carry, rest = out[: step.carried], out[step.carried :]
            course.meta_losses.append(rest.pop(0))
            if not self.shared:
                course.inner_losses.append(rest.pop(0))
            course.norms.append(rest.pop(0))
            course.flags.append((step, rest.pop(0)))
            if gradient:
                course.played.append(Played(step, saved, rest))

    def broken(self, course: Course) -> str | None:
        """What a course took for granted that does not hold, in words; None if all does."""
        flags = [f.all() for _, f in course.flags] + ([] if self.flag is None else [self.flag])
        if bool(torch.stack(flags).all()):
            return None
        return next((s.function.presumed[int((~f).int().argmax())] for s, f in course.flags if not bool(f.all())), "")

    def window(self, course: Course) -> Window:
        """The window that a course was."""
        begin, *carry = self.begin, *course.carry
        params = dict(zip(begin.params, carry, strict=False))
        tensors = iter(carry[len(params) * (1 + self.shared) :])
        state = begin.state.map(lambda _: next(tensors))
        if self.play.inner.moments == "reset":
            state = replace(state, since=int(next(tensors)))
        step = begin.step + len(course.meta_losses)
        stopped_at = torch.where(begin.alive, step, begin.stopped_at)
        end = replace(begin, params=params, state=state, step=step, stopped_at=stopped_at)
        inner = course.inner_losses if self.losses is None else [self.losses, *course.meta_losses[:-1]]
        losses, inner_losses, norms = (torch.stack(t) for t in (course.meta_losses, inner, course.norms))
        return Window(losses, inner_losses, norms, [], end)


def backward(course: Course, slopes: Tensor, adjoint: list[Tensor] | None, sums: Gradients) -> list[Tensor]:
    """Go back through a course.

    Args:
        course: its steps are given up one by one.
        slopes: the gradient of its meta-losses, [K, B].
        adjoint: that of where it ended, one tensor a carry; None for zeros.
        sums: what the learned weights' gradients are added to.
    Returns: the gradient of where it began.
    """
    before: Step | None = None
    for slope in reversed(slopes.unbind()):
        step, saved, seen = course.played.pop()
        if adjoint is None:
            adjoint = step.zeros
        elif step is not before:
            adjoint = step.laid(adjoint)
        before = step
        found = step.program.backward(saved, [*adjoint, slope])
        through = len(step.floating)
        adjoint = list(step.zeros)
        for i, gradient in zip(step.floating, found[:through], strict=True):
            adjoint[i] = gradient
        sums.add(found[through:], seen)
    assert adjoint is not None
    return adjoint
