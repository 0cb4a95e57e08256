"""Some tasks of a meta-batch, dealt out for the steps of one window."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_structure, tree_unflatten

from metatele.task.params import Params
from metatele.task.stack import stacked_forward
from metatele.unroll.compiled.chunks import Chunk
from metatele.unroll.compiled.step import IN_ORDER, Carry, Fixed, Now
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Window


@dataclass
class Course:
    """What the steps of a window gave, for some tasks.

    Attributes:
        carry, tree: where they ended, as the tensors of a `Carry`, and its tree structure.
        begin_losses: the losses where they began, [B], if they are meta-losses of the step before.
        meta_losses, inner_losses, norms: see `Window`, one tensor [B] a step.
        flags: whether what each step took for granted holds, and what that is, in words.
    """

    carry: list[Tensor]
    tree: TreeSpec
    begin_losses: Tensor | None
    meta_losses: list[Tensor] = field(default_factory=list)
    inner_losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    flags: list[tuple[Tensor, list[str]]] = field(default_factory=list)

    def copy(self) -> "Course":
        """A copy with tensors of its own."""
        first = None if self.begin_losses is None else self.begin_losses.clone()
        carry, meta, inner, norms = (
            [t.clone() for t in tensors] for tensors in (self.carry, self.meta_losses, self.inner_losses, self.norms)
        )
        return Course(carry, self.tree, first, meta, inner, norms, [(f.clone(), words) for f, words in self.flags])

    def broken(self) -> str | None:
        """What was taken for granted and does not hold, in words; None if all does."""
        if bool(torch.stack([f.all() for f, _ in self.flags]).all()):
            return None
        flags, words = next((f, words) for f, words in self.flags if not bool(f.all()))
        return words[int((~flags).reshape(-1).int().argmax()) if len(words) > 1 else 0]


class Deck:
    """What the steps of a window take, for some tasks.

    Args:
        play: the meta-batch.
        chunk: which tasks of it.
        begin: where all of them stand.
        length: number of steps.
        before: the course that ended there, if it is known.

    Attributes:
        carry, fixed, now: see `Given`; now for each step.
        losses: where the steps begin, [B], if all steps see the same rows and they are not yet in a course.
    """

    def __init__(self, play: Unroll, chunk: Chunk, begin: Position, length: int, before: Course | None) -> None:
        batch = play.batch
        self.play, self.chunk, self.length, self.begin = play, chunk, length, chunk.position(begin)
        self.shared = batch.shares_meta
        self.acts = [play.inner.teleport.active(begin.step + k) for k in range(length)]
        x, y = (chunk.of(t) for t in batch.rows("inner"))
        drawn = {part: index for part, index in play.index.items() if index is not None}
        made = [] if "inner" in drawn else play.group.of_data(batch.inputs["inner"])
        meta = batch.rows("meta")
        self.fixed = Fixed(
            rows=(x, y),
            alive=self.begin.alive,
            bar=self.begin.bar,
            scored=[] if self.shared else [(chunk.of(meta[0]), chunk.of(meta[1]))],
            made=[tuple(chunk.of(t) for t in tensors) for tensors in made],
            constants={k: chunk.of(c) for k, c in batch.constants.items()},
            horizon=torch.tensor(math.nan if play.steps is None else play.steps, dtype=torch.float64, device=x.device),
        )
        if before is None:
            self.carry, self.losses = self._start(x, y)
        else:
            self.carry = tree_unflatten(before.carry, before.tree)
            self.losses = before.meta_losses[-1] if self.shared else None
        numbers = torch.arange(begin.step, begin.step + length, dtype=torch.float64, device=x.device).unbind()
        ahead = {"inner": 0, "meta": 1}  # a step is scored on the minibatch after it
        self.now = [
            Now(number, {part: chunk.of(index[begin.step + k + ahead[part]]) for part, index in drawn.items()})
            for k, number in enumerate(numbers)
        ]

    def tensors(self) -> list[Tensor]:
        """All that its steps take, always in the same order."""
        return tree_leaves(self._all())

    def fill(self, tensors: list[Tensor]) -> None:
        """Replace what `tensors` gives by other tensors, in the same order."""
        self.carry, first, self.fixed, self.now = tree_unflatten(tensors, tree_structure(self._all()))
        self.losses = first[0] if first else None

    def _all(self) -> tuple[Carry, list[Tensor], Fixed, list[Now]]:
        return self.carry, [] if self.losses is None else [self.losses], self.fixed, self.now

    def course(self) -> Course:
        """The course that begins here."""
        course = Course(*tree_flatten(self.carry), self.losses)
        if self.losses is not None:
            course.flags.append((~self.fixed.alive | (self.losses <= self.fixed.bar), [IN_ORDER]))
        return course

    def signature(self) -> tuple[object, ...]:
        """What must be equal for a compiled step to be reused, because the step does not check what it is given. The
        carry's layout is not part of it: it is changed to the step's."""
        carry = ((t.shape, t.dtype, t.device) for t in tree_leaves(self.carry))
        given = ((t.shape, t.stride(), t.dtype, t.device) for t in tree_leaves((self.fixed, self.now[0])))
        trees = tree_structure((self.carry, self.fixed, self.now[0]))
        return *carry, *given, str(trees), self.shared

    def _start(self, x: Tensor, y: Tensor) -> tuple[Carry, Tensor | None]:
        """The carry to begin with, and the losses there if all steps see the same rows."""
        params, state = self.play.batch.trained(self.begin.params), self.begin.state
        since = torch.as_tensor(state.since, dtype=torch.float64, device=x.device)
        gradient: Params = {}
        losses = None
        if self.shared:
            batch = self.play.batch
            own = {k: p.detach().requires_grad_() for k, p in params.items()}
            with torch.enable_grad():
                losses = batch.losses(stacked_forward(batch.network, own, x, self.fixed.constants), y)
                slopes = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
            gradient, losses = dict(zip(own, slopes, strict=True)), losses.detach()
        return Carry(dict(params), gradient, [] if losses is None else [losses], state.tensors(), since), losses

    def window(self, course: Course) -> Window:
        """The window of a course that has been played."""
        begin = self.begin
        carry: Carry = tree_unflatten(course.carry, course.tree)
        left = iter(carry.state)
        now = begin.state.map(lambda _: next(left))
        if self.play.inner.moments == "reset":
            now = replace(now, since=int(carry.since))
        step = begin.step + len(course.meta_losses)
        stopped_at = torch.where(begin.alive, step, begin.stopped_at)
        end = replace(begin, params={**begin.params, **carry.params}, state=now, step=step, stopped_at=stopped_at)
        first = course.begin_losses
        inner = course.inner_losses if first is None else [first, *course.meta_losses[:-1]]
        losses, inner_losses, norms = (torch.stack(t) for t in (course.meta_losses, inner, course.norms))
        return Window(losses, inner_losses, norms, end)
