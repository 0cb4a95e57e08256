"""Some tasks of a meta-batch, dealt out for the steps of one window."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metatele.task.params import Params
from metatele.task.stack import stacked_forward
from metatele.unroll.compiled.chunks import Chunk
from metatele.unroll.compiled.step import IN_ORDER, Shape, cut
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Window


@dataclass
class Course:
    """What the steps of a window gave, for some tasks.

    Attributes:
        carry: where they ended.
        begin_losses: the losses where they began, [B], if they are meta-losses of the step before.
        meta_losses, inner_losses, norms: see `Window`, one tensor [B] a step.
        flags: whether what each step took for granted holds, and what that is, in words.
    """

    carry: list[Tensor]
    begin_losses: Tensor | None
    meta_losses: list[Tensor] = field(default_factory=list)
    inner_losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    flags: list[tuple[Tensor, list[str]]] = field(default_factory=list)

    def copy(self) -> "Course":
        """The same, in other tensors."""
        first = None if self.begin_losses is None else self.begin_losses.clone()
        carry, meta, inner, norms = (
            [t.clone() for t in tensors] for tensors in (self.carry, self.meta_losses, self.inner_losses, self.norms)
        )
        return Course(carry, first, meta, inner, norms, [(f.clone(), words) for f, words in self.flags])

    def broken(self) -> str | None:
        """What was taken for granted and does not hold, in words; None if all does."""
        if bool(torch.stack([f.all() for f, _ in self.flags]).all()):
            return None
        flags, words = next((f, words) for f, words in self.flags if not bool(f.all()))
        return words[int((~flags).reshape(-1).int().argmax()) if len(words) > 1 else 0]


class Deck:
    """See `StepFunction` for what a step takes.

    Args:
        play: the meta-batch.
        chunk: which tasks of it.
        begin: where all of them stand.
        length: number of steps.
        before: the course that ended there, if it is known.
    """

    def __init__(self, play: Unroll, chunk: Chunk, begin: Position, length: int, before: Course | None) -> None:
        batch = play.batch
        self.play, self.chunk, self.length, self.begin = play, chunk, length, chunk.position(begin)
        self.shared = batch.shares_meta
        self.acts = [play.inner.teleport.active(begin.step + k) for k in range(length)]
        x, y = (chunk.of(t) for t in batch.rows("inner"))
        drawn = {part: play.index[part] for part in ("inner", "meta")}
        made = play.group.of_data(batch.inputs["inner"]) if drawn["inner"] is None else [() for _ in play.group.factors]
        self.fixed = [x, y, self.begin.alive, self.begin.bar]
        if not self.shared:
            self.fixed += [chunk.of(t) for t in batch.rows("meta")]
        self.fixed += [chunk.of(t) for tensors in made for t in tensors]
        if before is None:
            self.carry, self.losses = self._start(x, y)
        else:
            self.carry, self.losses = before.carry, before.meta_losses[-1] if self.shared else None
        numbers = torch.arange(begin.step, begin.step + length, dtype=torch.float64, device=x.device).unbind()
        self.now = [[number] for number in numbers]
        for ahead, index in enumerate(drawn.values()):  # a step is scored on the minibatch after it
            if index is not None:
                for k, here in enumerate(self.now):
                    here.append(chunk.of(index[begin.step + k + ahead]))
        self.drawn = drawn["inner"] is not None, drawn["meta"] is not None
        self.made = tuple(len(tensors) for tensors in made)

    def tensors(self) -> list[Tensor]:
        """All that its steps take, in one order."""
        first = [] if self.losses is None else [self.losses]
        return [*self.carry, *first, *self.fixed, *(t for now in self.now for t in now)]

    def fill(self, tensors: Iterator[Tensor]) -> None:
        """Take others in place of them."""
        self.carry = [next(tensors) for _ in self.carry]
        self.losses = None if self.losses is None else next(tensors)
        self.fixed = [next(tensors) for _ in self.fixed]
        self.now = [[next(tensors) for _ in now] for now in self.now]

    def course(self) -> Course:
        """The course that begins here."""
        course = Course(self.carry, self.losses)
        if self.losses is not None:
            _, _, alive, bar, *_ = self.fixed
            course.flags.append((~alive | (self.losses <= bar), [IN_ORDER]))
        return course

    def shape(self, weights: int, taps: int) -> Shape:
        """How a step's list of tensors is made up, with so many of weights and of taps."""
        sizes = (len(self.carry), len(self.fixed), len(self.now[0]), weights, taps)
        return Shape(sizes, self.drawn, self.made)

    def signature(self) -> tuple[object, ...]:
        """What must be the same for a compiled step to serve, which does not check what it is given; a carry is laid
        out anew."""
        carry = ((t.shape, t.dtype, t.device) for t in self.carry)
        given = ((t.shape, t.stride(), t.dtype, t.device) for t in (*self.fixed, *self.now[0]))
        return *carry, *given, self.drawn, self.made, self.shared

    def _start(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The carry to begin with, and the losses there if all steps see the same rows."""
        params, state = self.begin.params, self.begin.state
        since = torch.as_tensor(state.since, dtype=torch.float64, device=x.device)
        gradient: Params = {}
        losses = None
        if self.shared:
            own = {k: p.detach().requires_grad_() for k, p in params.items()}
            with torch.enable_grad():
                losses = self.play.batch.losses(stacked_forward(self.play.batch.network, own, x), y)
                slopes = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
            gradient, losses = dict(zip(own, slopes, strict=True)), losses.detach()
        return [*params.values(), *gradient.values(), *state.tensors(), since], losses

    def window(self, course: Course) -> Window:
        """The window that a course was."""
        begin = self.begin
        names, tensors = list(begin.params), begin.state.tensors()
        sizes = (len(names), len(names) * self.shared, len(tensors), 1)
        params, _, state, (since,) = cut(course.carry, sizes)
        left = iter(state)
        now = begin.state.map(lambda _: next(left))
        if self.play.inner.moments == "reset":
            now = replace(now, since=int(since))
        step = begin.step + len(course.meta_losses)
        end = replace(
            begin,
            params=dict(zip(names, params, strict=True)),
            state=now,
            step=step,
            stopped_at=torch.where(begin.alive, step, begin.stopped_at),
        )
        first = course.begin_losses
        inner = course.inner_losses if first is None else [first, *course.meta_losses[:-1]]
        losses, inner_losses, norms = (torch.stack(t) for t in (course.meta_losses, inner, course.norms))
        return Window(losses, inner_losses, norms, end)
