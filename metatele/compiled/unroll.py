"""Windows of a trajectory played by compiled steps, with their meta-gradients."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metatele.compiled.chunks import join, split
from metatele.compiled.deck import Course, Deck, backward
from metatele.compiled.gradients import Gradients
from metatele.compiled.programs import Programs, Step, compile_step
from metatele.compiled.step import IN_ORDER, StepFunction, Weights
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

    def start(self) -> Position:
        """The position before the first step."""
        return self.plain.start()

    def window(self, begin: Position, length: int, differentiable: bool = False) -> Window:
        """Play `length` steps from a position; see `Unroll.window`. With a graph, `higher` plays them."""
        if differentiable:
            return self.plain.window(begin, length)
        windows = []
        given = self._given()
        for deck in self._decks(begin, length):
            course = Course(deck.carry)
            deck.run(self._find, given, 0, course, length, gradient=False)
            if not self._holds(deck, course):
                return self.plain.window(begin, length, differentiable=False)
            windows.append(deck.window(course))
        return _joined(windows, begin)

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
        decks, given, sums = self._decks(begin, length), self._given(), Gradients(self.weights)
        windows, total = [], list[float]()
        alive = [int(deck.begin.alive.sum()) for deck in decks]
        for deck, here in zip(decks, alive, strict=True):
            found = self._deck_gradient(deck, given, score, here / max(sum(alive), 1), piece or length, sums)
            if found is None:
                return None
            window, loss = found
            windows.append(window)
            total += [] if loss is None else [loss]
        sums.write()
        return _joined(windows, begin), sum(total) if total else None

    def _deck_gradient(
        self, deck: Deck, given: "_Given", score: Score, share: float, piece: int, sums: Gradients
    ) -> tuple[Window, float | None] | None:
        """The same for some tasks, which have a share in the meta-loss."""
        course, begins, whole = Course(deck.carry), list[list[Tensor]](), piece >= deck.length
        for first in range(0, deck.length, piece):
            begins.append(course.carry)
            deck.run(self._find, given, first, course, min(first + piece, deck.length), gradient=whole)
        if not self._holds(deck, course):
            return None
        window = deck.window(course)
        losses = window.meta_losses.requires_grad_()
        loss = score(window)
        if loss is None:
            losses.requires_grad_(False)
            return window, None
        (slopes,) = torch.autograd.grad(share * loss, losses)
        losses.requires_grad_(False)
        adjoint: list[Tensor] | None = None
        for i, slope in reversed(list(enumerate(slopes.split(piece)))):
            if not whole:
                course = Course(begins[i])
                deck.run(self._find, given, i * piece, course, i * piece + len(slope), gradient=True)
            adjoint = backward(course, slope, adjoint, sums)
        return window, share * float(loss.detach())

    def _decks(self, begin: Position, length: int) -> list[Deck]:
        return [Deck(self.plain, chunk, begin, length) for chunk in split(begin, bool(self.weights.cores))]

    def _given(self) -> "_Given":
        return _Given(self.programs, self.weights)

    def _find(self, deck: Deck, k: int, gradient: bool) -> Step:
        """The compiled step of a deck's k-th step, made if there is none yet."""
        play, weights = self.plain, self.weights
        active = play.inner.teleport.active(deck.begin.step + k)
        second_order = play.second_order and gradient

        def make() -> Step:
            cores = weights.cores
            products = sum(2 * len(core.lstm_cells) + 1 for core in cores)
            taps = sum(len(core.lstm_cells) + 1 for core in cores)
            shape = deck.shape(len(weights.others) + 2 * products + taps, taps)
            state = deck.begin.state
            function = StepFunction(play.inner, play.batch, play.group, state, second_order, active, shape)
            return compile_step(function, weights, self.programs, (deck.carry, deck.fixed, deck.now[k]), gradient)

        return self.programs.find((active, *deck.signature()), second_order if gradient else None, make)

    def _holds(self, deck: Deck, course: Course) -> bool:
        """Whether what a course took for granted holds; says so if it is not what tasks that diverge explain."""
        broken = deck.broken(course)
        if broken not in (None, "", IN_ORDER):
            warnings.warn(
                f"unroll.engine 'compiled' took for granted that {broken}, which does not hold: windows like this one "
                "are played by 'higher', too, and take longer",
                stacklevel=2,
            )
        return broken is None


class _Given:
    """The learned weights, and taps, that steps take during one window: made once for each kind of step."""

    def __init__(self, programs: Programs, weights: Weights) -> None:
        self._programs, self._weights = programs, weights
        self._found: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step) -> list[Tensor]:
        if id(step) not in self._found:
            self._found[id(step)] = [*self._programs.weights(self._weights, step.rows), *step.taps]
        return self._found[id(step)]


def _joined(windows: Sequence[Window], begin: Position) -> Window:
    """The window of all tasks, from those of the chunks."""
    if len(windows) == 1:
        return windows[0]
    losses, inner_losses, norms = (
        torch.cat([getattr(w, name) for w in windows], 1) for name in ("meta_losses", "inner_losses", "gradient_norms")
    )
    return Window(losses, inner_losses, norms, [], join([w.end for w in windows], begin))
