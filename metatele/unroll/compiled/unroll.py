"""The engine 'compiled': windows of a trajectory played by compiled steps, with their meta-gradients."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from metatele.optimizer import InnerOptimizer
from metatele.support.messages import named_line
from metatele.task import MetaBatch
from metatele.teleports import Stay
from metatele.unroll.compiled.chunks import join, split
from metatele.unroll.compiled.deck import Course, Deck
from metatele.unroll.compiled.gradients import Gradients
from metatele.unroll.compiled.graphs import GraphedWindow
from metatele.unroll.compiled.player import Player
from metatele.unroll.compiled.program import CannotFollowError
from metatele.unroll.compiled.programs import Programs
from metatele.unroll.compiled.step import IN_ORDER, Weights
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Score, Scored, Window
from metatele.unroll.weights import add_to_weights

Either = TypeVar("Either")
CHECKED = 50  # steps without a gradient after which their presumptions are checked


class CompiledUnroll:
    """Plays the trajectories of one meta-batch by compiled steps (see `metatele.unroll.Engine`).

    A compiled step takes for granted that no task diverges that has not diverged before, and what else a task family or
    an optimizer presumes (see `metatele.support.presume`). At the end of a window this is checked. A window in which it
    did not hold is played again by `higher`, and so is what cannot be compiled.

    Args:
        programs: holds what is compiled, for other meta-batches of the family, too.
        inner, batch, steps, second_order, adjoint_clip: see `metatele.unroll.Unroll`.
    Raises: what `Unroll` raises.
    """

    def __init__(
        self,
        programs: Programs,
        inner: InnerOptimizer,
        batch: MetaBatch,
        steps: int | None,
        second_order: bool = False,
        adjoint_clip: float | None = None,
    ) -> None:
        self.plain = Unroll(inner, batch, steps, second_order, adjoint_clip)
        self.programs, self.weights = programs, Weights(inner)
        self._last: tuple[Position, list[Course]] | None = None  # where the last window ended

    def start(self) -> Position:
        """The position before the first step."""
        return self.plain.start()

    def window(self, begin: Position, length: int, differentiable: bool = True) -> Window:
        """Play `length` steps from a position; see `Engine.window`. With a graph, `higher` plays them."""
        if differentiable:
            return self.plain.window(begin, length)
        played, position = list[Window](), begin
        for first in range(0, length, CHECKED):
            steps = min(CHECKED, length - first)
            compiled = partial(self._window, position, steps)
            played.append(self._play(compiled, partial(self.plain.window, position, steps, differentiable=False)))
            position = played[-1].end
        return Window.join(played)

    def gradient(self, begin: Position, length: int, score: Score, piece: int | None = None) -> Scored:
        """Play a window and add the gradient of its meta-loss to that of the learned weights; see `Engine.gradient`."""
        given = (begin, length, score, piece)
        if begin.all_diverged:
            return self.plain.gradient(*given)
        return self._play(partial(self._gradient, *given), partial(self.plain.gradient, *given))

    def _play(self, compiled: Callable[[], Either], plain: Callable[[], Either]) -> Either:
        """What compiled steps give, or what `higher` gives where they cannot be made or have presumed too much."""
        if self.programs.refused:
            return plain()
        try:
            self._check()
            return compiled()
        except PresumptionError:
            return plain()
        except CannotFollowError as reason:
            self.programs.refused = True
            warnings.warn(
                f"unroll.engine 'compiled' cannot follow {_name(self.plain)}, so that 'higher' plays them: {reason}",
                stacklevel=4,
            )
            return plain()

    def _check(self) -> None:
        """Raises: CannotFollowError if compiled steps would leave something out."""
        if self.plain.inner.teleport.has_listener:
            raise CannotFollowError("its teleports have an observer")

    def _window(self, begin: Position, length: int) -> Window:
        player, courses, windows = self._player(), [], []
        for deck in self._decks(begin, length):
            course = deck.course()
            player.forward(deck, course, 0, length, gradient=False)
            check(course)
            courses.append(course)
            windows.append(deck.window(course))
        return self._joined(windows, courses, begin)

    def _gradient(self, begin: Position, length: int, score: Score, piece: int | None) -> Scored:
        """What `gradient` gives, by compiled steps. Raises: CannotFollowError, PresumptionError."""
        decks = self._decks(begin, length)
        shares = [deck.chunk.tasks / deck.chunk.whole for deck in decks]  # in a mean over all tasks
        graph = self._graph(decks[0]) if _recordable(begin) and (piece is None or piece >= length) else None
        if graph is not None:
            total, found = _graphed(graph, decks[0], score)
        else:
            player, sums = self._player(), Gradients(self.weights)
            found = [
                _deck_gradient(player, d, score, s, piece or length, sums) for d, s in zip(decks, shares, strict=True)
            ]
            total = sums.total()
        add_to_weights(total)
        window = self._joined([s.window for s in found], [s.course for s in found], begin)
        return Scored(window, sum(s.loss for s in found))

    def _graph(self, deck: Deck) -> GraphedWindow | None:
        """The window of all tasks as CUDA graphs; None if it cannot be recorded."""
        key = (*deck.acts, *self.weights.flags, self.plain.second_order, self.plain.most, *deck.signature())
        return self.programs.window(key, lambda: self._record(deck))

    def _record(self, deck: Deck) -> GraphedWindow | None:
        """Record a window; it is played once before, which compiles what is not yet compiled."""
        player = self._player()
        played = player.forward(deck, deck.course(), 0, deck.length, gradient=True)
        slopes = deck.fixed.bar.new_zeros(deck.length, deck.chunk.tasks)
        player.backward(played, slopes, None, Gradients(self.weights))
        try:
            return GraphedWindow(self._player(), deck, self.weights)
        except RuntimeError as error:
            warnings.warn(
                f"unroll.engine 'compiled' cannot record {_name(self.plain)} as CUDA graphs, so that each operation is "
                f"launched by itself, which takes longer: {named_line(error)}",
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
            joined = Window(
                torch.cat([w.meta_losses for w in windows], 1),
                torch.cat([w.inner_losses for w in windows], 1),
                torch.cat([w.gradient_norms for w in windows], 1),
                join([w.end for w in windows], begin),
            )
        self._last = joined.end, courses
        return joined


def _recordable(begin: Position) -> bool:
    return begin.alive.device.type == "cuda"


def _graphed(graph: GraphedWindow, deck: Deck, score: Score) -> tuple[list[tuple[Tensor, Tensor]], list["_DeckScore"]]:
    """Play a window of all tasks, and back, by CUDA graphs."""
    scored = _scored(deck, graph.forward(deck), score, 1.0)
    return ([] if scored.slopes is None else graph.backward(scored.slopes)), [scored]


def _deck_gradient(player: Player, deck: Deck, score: Score, share: float, piece: int, sums: Gradients) -> "_DeckScore":
    """Play a window of some tasks, which have a share in the meta-loss, forward and backward."""
    course, begins, whole = deck.course(), list[list[Tensor]](), piece >= deck.length
    for first in range(0, deck.length, piece):
        begins.append(course.carry)
        played = player.forward(deck, course, first, min(first + piece, deck.length), gradient=whole)
    scored = _scored(deck, course, score, share)
    if scored.slopes is None:
        return scored
    adjoint: list[Tensor] | None = None
    for i, slopes in reversed(list(enumerate(scored.slopes.split(piece)))):
        if not whole:
            again = Course(begins[i], course.tree, None)
            played = player.forward(deck, again, i * piece, i * piece + len(slopes), gradient=True)
        adjoint = player.backward(played, slopes, adjoint, sums)
    return scored


class _DeckScore(NamedTuple):
    """A window of some tasks.

    Attributes:
        course, window: what it was.
        loss: its share of the meta-loss.
        slopes: the gradient of that, [K, B]; None if all of the tasks have diverged, which then have none.
    """

    course: Course
    window: Window
    loss: float
    slopes: Tensor | None


def _scored(deck: Deck, course: Course, score: Score, share: float) -> _DeckScore:
    """Score a course. Raises: PresumptionError if what it took for granted does not hold."""
    check(course)
    window = deck.window(course)
    losses = window.meta_losses.detach().requires_grad_()
    loss = score(replace(window, meta_losses=losses))
    if window.end.all_diverged:
        return _DeckScore(course, window, share * loss.item(), None)
    (slopes,) = torch.autograd.grad(share * loss, losses)
    return _DeckScore(course, window, share * loss.item(), slopes)


def _name(play: Unroll) -> str:
    """What plays which tasks, in words."""
    parts = [type(p).__name__ for p in (play.inner.update, play.inner.teleport) if not isinstance(p, Stay)]
    return f"{' and '.join(parts)} on {type(play.batch.family).__name__}"


class PresumptionError(Exception):
    """What compiled steps took for granted does not hold."""


def check(course: Course) -> None:
    """Check what a course took for granted. Warns if it does not hold for another reason than diverging tasks.

    Raises: PresumptionError if it does not hold.
    """
    broken = course.broken()
    if broken is None:
        return
    if broken != IN_ORDER:
        warnings.warn(
            f"unroll.engine 'compiled' took for granted that {broken}, which does not hold: windows like this one are "
            "played by 'higher', too, and take longer",
            stacklevel=2,
        )
    raise PresumptionError(broken)
