"""Windows of a trajectory played by compiled steps, with their meta-gradients."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatele.compiled.chunks import join, split
from metatele.compiled.deck import Course, Deck
from metatele.compiled.gradients import Gradients, add_to_weights
from metatele.compiled.player import Player
from metatele.compiled.programs import Programs
from metatele.compiled.step import IN_ORDER, Weights
from metatele.unroll import Position, Unroll, Window

Score = Callable[[Window], Tensor | None]  # a window's meta-loss, a mean over its tasks, or None if all have diverged


class CompiledUnroll:
    """Plays the trajectories of one meta-batch as `Unroll` does, by compiled steps.

    A compiled step takes for granted that no task diverges that has not diverged before, and what else a task family or
    an optimizer presumes (see `metatele.presume`). At the end of a window this is checked; a window in which it did not
    hold is to be played by `higher`.

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
        player, courses, windows = self._player(), [], []
        for deck in self._decks(begin, length):
            course = deck.course()
            player.forward(deck, course, 0, length, gradient=False)
            if not _holds(course):
                return self.plain.window(begin, length, differentiable=False)
            courses.append(course)
            windows.append(deck.window(course))
        return self._joined(windows, courses, begin)

    def gradient(
        self, begin: Position, length: int, score: Score, piece: int | None = None
    ) -> tuple[Window, float | None] | None:
        """Play a window and add the gradient of its meta-loss to the `grad` of the learned weights.

        Args:
            begin, length: the window.
            score: gives the meta-loss.
            piece: steps whose results are held for the backward pass at a time; the whole window if None.
        Returns: the window and its meta-loss, None if all tasks have diverged; nothing at all, and no gradient, if what
            the steps took for granted did not hold.
        """
        decks, sums, player = self._decks(begin, length), Gradients(self.weights), self._player()
        courses, windows, losses = [], [], list[float]()
        alive = [int(deck.begin.alive.sum()) for deck in decks]
        for deck, here in zip(decks, alive, strict=True):
            share = here / max(sum(alive), 1)  # in a mean over all tasks
            found = _deck_gradient(player, deck, score, share, piece or length, sums)
            if found is None:
                return None
            course, window, loss = found
            courses.append(course)
            windows.append(window)
            losses += [] if loss is None else [loss]
        add_to_weights(sums.total())
        return self._joined(windows, courses, begin), sum(losses) if losses else None

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


def _deck_gradient(
    player: Player, deck: Deck, score: Score, share: float, piece: int, sums: Gradients
) -> tuple[Course, Window, float | None] | None:
    """Play a window of some tasks, which have a share in the meta-loss, and back."""
    course, begins, whole = deck.course(), list[list[Tensor]](), piece >= deck.length
    for first in range(0, deck.length, piece):
        begins.append(course.carry)
        played = player.forward(deck, course, first, min(first + piece, deck.length), gradient=whole)
    if not _holds(course):
        return None
    window = deck.window(course)
    losses = window.meta_losses.detach().requires_grad_()
    loss = score(_with_losses(window, losses))
    if loss is None:
        return course, window, None
    (slopes,) = torch.autograd.grad(share * loss, losses)
    adjoint: list[Tensor] | None = None
    for i, slope in reversed(list(enumerate(slopes.split(piece)))):
        if not whole:
            again = Course(begins[i], None)
            played = player.forward(deck, again, i * piece, i * piece + len(slope), gradient=True)
        adjoint = player.backward(played, slope, adjoint, sums)
    return course, window, share * loss.item()


def _with_losses(window: Window, losses: Tensor) -> Window:
    return Window(losses, window.inner_losses, window.gradient_norms, [], window.end)


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
