"""A window's compiled steps recorded as CUDA graphs: a few launches instead of thousands that a GPU would wait for."""

import copy

import torch
from torch import Tensor

from metatele.unroll.compiled.deck import Course, Deck
from metatele.unroll.compiled.gradients import Gradients
from metatele.unroll.compiled.player import Player
from metatele.unroll.compiled.step import Weights


class GraphedWindow:
    """The steps of a window, recorded once, forward and back, and played again for other decks of the same signature.

    The learned weights are read in place, so they must not change between a `forward` and its `backward`.

    Args:
        player: plays the steps; nothing that it keeps may have been made before.
        deck: an example.
        weights: the learned weights.
    """

    def __init__(self, player: Player, deck: Deck, weights: Weights) -> None:
        self._deck = copy.copy(deck)
        self._deck.fill([t.clone() for t in deck.tensors()])
        self._slopes = deck.fixed.bar.new_zeros(deck.length, deck.chunk.tasks)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.no_grad():
            with torch.cuda.graph(self._forward):
                self._course = self._deck.course()
                played = player.forward(self._deck, self._course, 0, deck.length, gradient=True)
            with torch.cuda.graph(self._backward, pool=self._forward.pool()):
                sums = Gradients(weights)
                player.backward(played, self._slopes, None, sums)
                self._total = sums.total()

    @torch.no_grad()
    def forward(self, deck: Deck) -> Course:
        """Play a deck's steps."""
        torch._foreach_copy_(self._deck.tensors(), deck.tensors())
        self._forward.replay()
        return self._course.copy()

    @torch.no_grad()
    def backward(self, slopes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight, its gradient) of the deck that was played last, given the gradient of its meta-losses, [K, B]."""
        self._slopes.copy_(slopes)
        self._backward.replay()
        return [(weight, gradient.clone()) for weight, gradient in self._total]  # the next replay writes over it
