"""Playing the steps of a deck one after the other, and back."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metatele.unroll.compiled.deck import Course, Deck
from metatele.unroll.compiled.gradients import Gradients
from metatele.unroll.compiled.program import following
from metatele.unroll.compiled.programs import Programs, Step, compile_step
from metatele.unroll.compiled.step import StepFunction, Weights
from metatele.unroll.higher.unroll import Unroll


class Played(NamedTuple):
    """One step that was played: with what, and what its backward pass needs."""

    step: Step
    saved: list[Tensor]
    seen: list[list[Tensor]]


class Player:
    """Plays steps with the learned weights as they are when they are first asked for: one player plays one window.

    Args:
        play: the meta-batch.
        weights: the learned weights.
        programs: where compiled steps are held.
    """

    def __init__(self, play: Unroll, weights: Weights, programs: Programs) -> None:
        self._play, self._weights, self._programs = play, weights, programs
        self._given: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def forward(self, deck: Deck, course: Course, first: int, last: int, gradient: bool) -> list[Played]:
        """Play steps first, ..., last - 1 from where a course stands, and add what they give to it.

        Args:
            gradient: whether `backward` is to go back.
        Returns: what `backward` takes; nothing without a gradient.
        """
        out, acted, fixed = [], None, tree_leaves(deck.fixed)
        for k in range(first, last):
            if deck.acts[k] is not acted:
                acted = deck.acts[k]
                step = self._find(deck, acted, gradient)
                course.carry, given = step.laid(course.carry), self._weights_for(step)
            found, saved = step.program.forward([*course.carry, *fixed, *deck.now[k].tensors, *given])
            gave = step.gave
            course.carry = found[: len(step.strides)]
            course.meta_losses.append(found[gave.meta_losses])
            course.inner_losses += [found[place] for place in gave.inner_losses]
            course.norms.append(found[gave.norms])
            course.flags.append((found[gave.flags], step.presumed))
            if gradient:
                out.append(Played(step, saved, [found[places] for places in step.seen]))
        return out

    @staticmethod
    @torch.no_grad()
    def backward(played: list[Played], slopes: Tensor, adjoint: list[Tensor] | None, sums: Gradients) -> list[Tensor]:
        """The backward pass of steps that were played.

        Args:
            played: the steps, which are removed from the list one by one.
            slopes: the gradient of their meta-losses, [K, B].
            adjoint: that of the carry where they ended; None for zeros.
            sums: what the gradients of the learned weights are added to.
        Returns: the gradient of the carry where they began.
        """
        adjoint = played[-1].step.zeros if adjoint is None else adjoint
        before: Step | None = None
        for slope in reversed(slopes.unbind()):
            step, saved, seen = played.pop()
            if step is not before:
                adjoint, before = step.laid(adjoint), step
            found = step.program.backward(saved, [*adjoint, slope])
            adjoint = list(step.zeros)
            for i, gradient in zip(step.floating, found, strict=False):
                if gradient is not None:
                    adjoint[i] = gradient
            others = len(step.floating) + step.others
            sums.add(found[len(step.floating) : others], found[others:], seen, step.taps)
        return adjoint

    def _weights_for(self, step: Step) -> list[Tensor]:
        """The learned weights, and taps, as a step's program takes them."""
        if id(step) not in self._given:
            learned = self._programs.learned(self._weights, step.rows)
            self._given[id(step)] = tree_leaves((learned, step.taps))
        return self._given[id(step)]

    def _find(self, deck: Deck, active: bool, gradient: bool) -> Step:
        """The compiled step, made if there is none yet."""
        play, weights = self._play, self._weights
        second_order = play.second_order and gradient

        def make() -> Step:
            with following():
                state = deck.begin.state
                function = StepFunction(play.inner, play.batch, play.group, state, second_order, active, play.most)
            return compile_step(function, weights, self._programs, (deck.carry, deck.fixed, deck.now[0]), gradient)

        return self._programs.find(
            (active, *weights.flags, play.most, *deck.signature()), second_order if gradient else None, make
        )
