"""Windows of a trajectory played by compiled steps, with their meta-gradients."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from metatele.teleports import Stay
from metatele.teleports.base import LISTENERS
from metatele.unroll.compiled.chunks import join, split
from metatele.unroll.compiled.deck import Course, Deck
from metatele.unroll.compiled.gradients import Gradients, add_to_weights
from metatele.unroll.compiled.graphs import GraphedWindow
from metatele.unroll.compiled.player import Player
from metatele.unroll.compiled.program import CannotFollowError, first_line
from metatele.unroll.compiled.programs import Programs
from metatele.unroll.compiled.step import IN_ORDER, Weights
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Window

T = TypeVar("T")
CHECKED = 50  # steps without a gradient after which it is checked what they took for granted

Score = Callable[[Window], Tensor | None]  # a window's meta-loss, a mean over its tasks, or None if all have diverged


class CompiledUnroll:
    """Plays the trajectories of one meta-batch as `Unroll` does, by compiled steps.

    A compiled step takes for granted that no task diverges that has not diverged before, and what else a task family or
    an optimizer presumes (see `metatele.support.presume`). At the end of a window this is checked; a window in which it
    did not hold is to be played by `higher`.

    Args:
        plain: the meta-batch's unroll by `higher`.
        programs: holds what is compiled, for other meta-batches of the family, too.
    """

    def __init__(self, plain: Unroll, programs: Programs) -> None:
        self.plain, self.programs, self.weights = plain, programs, Weights(plain.inner)
        self._last: tuple[Position, list[Course]] | None = None  # where the last window ended

    def start(self) -> Position:
        """The position before the first step."""
        return self.plain.start()

    def window(self, begin: Position, length: int, differentiable: bool = False) -> Window:
        """Play `length` steps from a position; see `Unroll.window`. With a graph, `higher` plays them."""
        if differentiable:
            return self.plain.window(begin, length)
        played, position = list[Window](), begin
        for first in range(0, length, CHECKED):
            steps = min(CHECKED, length - first)
            found = self._followed(partial(self._window, position, steps))
            played.append(self.plain.window(position, steps, differentiable=False) if found is None else found)
            position = played[-1].end
        losses, inner_losses, norms = (
            torch.cat([getattr(w, name) for w in played]) for name in ("meta_losses", "inner_losses", "gradient_norms")
        )
        return Window(losses, inner_losses, norms, [], position)

    def gradient(
        self, begin: Position, length: int, score: Score, piece: int | None = None
    ) -> tuple[Window, float | None] | None:
        """Play a window and add the gradient of its meta-loss to the `grad` of the learned weights.

        Args:
            begin, length: the window.
            score: gives the meta-loss.
            piece: steps whose results are held for the backward pass at a time; the whole window if None.
        Returns: the window and its meta-loss, None if all tasks have diverged; nothing at all, and no gradient, if what
            the steps took for granted did not hold, or if they cannot be compiled.
        """
        return self._followed(lambda: self._gradient(begin, length, score, piece))

    def _followed(self, play: Callable[[], T]) -> T | None:
        """What playing gives; None if steps cannot be compiled."""
        if self.programs.refused:
            return None
        try:
            self._check()
            return play()
        except CannotFollowError as reason:
            self.programs.refused = True
            warnings.warn(
                f"unroll.engine 'compiled' cannot follow {_name(self.plain)}, so that 'higher' plays them: {reason}",
                stacklevel=4,
            )
            return None

    def _check(self) -> None:
        """Raises: CannotFollowError if compiled steps would leave something out."""
        self.programs.check_buffers(self.plain.batch.network)
        if any(getattr(self.plain.inner.teleport, name, None) is not None for name in LISTENERS):
            raise CannotFollowError("somebody listens to its teleports")

    def _window(self, begin: Position, length: int) -> Window | None:
        player, courses, windows = self._player(), [], []
        for deck in self._decks(begin, length):
            course = deck.course()
            player.forward(deck, course, 0, length, gradient=False)
            if not _holds(course):
                return None
            courses.append(course)
            windows.append(deck.window(course))
        return self._joined(windows, courses, begin)

    def _gradient(
        self, begin: Position, length: int, score: Score, piece: int | None
    ) -> tuple[Window, float | None] | None:
        decks = self._decks(begin, length)
        alive = [int(deck.begin.alive.sum()) for deck in decks]
        shares = [here / max(sum(alive), 1) for here in alive]  # in a mean over all tasks
        graph = self._graph(decks[0]) if _recordable(begin) and (piece is None or piece >= length) else None
        if graph is not None:
            total, scored = _graphed(graph, decks[0], score)
        else:
            player, sums = self._player(), Gradients(self.weights)
            scored = [
                _deck_gradient(player, d, score, s, piece or length, sums) for d, s in zip(decks, shares, strict=True)
            ]
            total = sums.total()
        found = [s for s in scored if s is not None]
        if len(found) < len(decks):
            return None
        add_to_weights(total)
        losses = [s.loss for s in found if s.loss is not None]
        window = self._joined([s.window for s in found], [s.course for s in found], begin)
        return window, sum(losses) if losses else None

    def _graph(self, deck: Deck) -> GraphedWindow | None:
        """The window of all tasks as CUDA graphs; None if it cannot be recorded."""
        key = (*deck.acts, *self.weights.flags, self.plain.second_order, *deck.signature())
        return self.programs.window(key, lambda: self._record(deck))

    def _record(self, deck: Deck) -> GraphedWindow | None:
        """Record a window; it is played once before, which compiles what is not yet compiled."""
        player = self._player()
        played = player.forward(deck, deck.course(), 0, deck.length, gradient=True)
        slopes = torch.zeros(deck.length, deck.chunk.tasks, dtype=deck.carry[0].dtype, device=deck.carry[0].device)
        player.backward(played, slopes, None, Gradients(self.weights))
        try:
            return GraphedWindow(self._player(), deck, self.weights)
        except RuntimeError as error:
            warnings.warn(
                f"unroll.engine 'compiled' cannot record {_name(self.plain)} as CUDA graphs, so that each operation is "
                f"launched by itself, which takes longer: {first_line(error)}",
                stacklevel=5,
            )
            return None

    def _player(self) -> Player:
        return Player(self.plain, self.weights, self.programs)

    def _decks(self, begin: Position, length: int) -> list[Deck]:
        chunks = split(begin, bool(self.weights.cores))
        known = self._last[1] if self._last is not None and self._last[0] is begin else [None] * len(chunks)
        return [Deck(self.plain, c, begin, length, k) for c, k in zip(chunks, known, strict=True)]

    def _joined(self, windows: Sequence[Window], courses: list[Course], begin: Position) -> Window:
        """The window of all tasks, from those of the chunks."""
        joined = windows[0]
        if len(windows) > 1:
            losses, inner_losses, norms = (
                torch.cat([getattr(w, name) for w in windows], 1)
                for name in ("meta_losses", "inner_losses", "gradient_norms")
            )
            joined = Window(losses, inner_losses, norms, [], join([w.end for w in windows], begin))
        self._last = joined.end, courses
        return joined


def _recordable(begin: Position) -> bool:
    return begin.alive.device.type == "cuda"


def _graphed(
    graph: GraphedWindow, deck: Deck, score: Score
) -> tuple[list[tuple[Tensor, Tensor]], list["_Scored | None"]]:
    """Play a window of all tasks, and back, by CUDA graphs."""
    scored = _scored(deck, graph.forward(deck), score, 1.0)
    if scored is None or scored.slopes is None:
        return [], [scored]
    return graph.backward(scored.slopes), [scored]


def _deck_gradient(
    player: Player, deck: Deck, score: Score, share: float, piece: int, sums: Gradients
) -> "_Scored | None":
    """Play a window of some tasks, which have a share in the meta-loss, and back."""
    course, begins, whole = deck.course(), list[list[Tensor]](), piece >= deck.length
    for first in range(0, deck.length, piece):
        begins.append(course.carry)
        played = player.forward(deck, course, first, min(first + piece, deck.length), gradient=whole)
    scored = _scored(deck, course, score, share)
    if scored is None or scored.slopes is None:
        return scored
    adjoint: list[Tensor] | None = None
    for i, slopes in reversed(list(enumerate(scored.slopes.split(piece)))):
        if not whole:
            again = Course(begins[i], None)
            played = player.forward(deck, again, i * piece, i * piece + len(slopes), gradient=True)
        adjoint = player.backward(played, slopes, adjoint, sums)
    return scored


class _Scored(NamedTuple):
    """A window of some tasks: what it was, its share of the meta-loss, and the gradient of that, [K, B]; neither if all
    of them have diverged."""

    course: Course
    window: Window
    loss: float | None
    slopes: Tensor | None


def _scored(deck: Deck, course: Course, score: Score, share: float) -> _Scored | None:
    """Score a course; None if what it took for granted does not hold."""
    if not _holds(course):
        return None
    window = deck.window(course)
    losses = window.meta_losses.detach().requires_grad_()
    loss = score(replace(window, meta_losses=losses))
    if loss is None:
        return _Scored(course, window, None, None)
    (slopes,) = torch.autograd.grad(share * loss, losses)
    return _Scored(course, window, share * loss.item(), slopes)


def _name(play: Unroll) -> str:
    """What plays which tasks, in words."""
    parts = [type(p).__name__ for p in (play.inner.update, play.inner.teleport) if not isinstance(p, Stay)]
    return f"{' and '.join(parts)} on {type(play.batch.family).__name__}"


def _holds(course: Course) -> bool:
    """Whether what a course took for granted holds; says so if it is not what tasks that diverge explain."""
    broken = course.broken()
    if broken not in (None, IN_ORDER):
        warnings.warn(
            f"unroll.engine 'compiled' took for granted that {broken}, which does not hold: windows like this one are "
            "played by 'higher', too, and take longer",
            stacklevel=2,
        )
    return broken is None
