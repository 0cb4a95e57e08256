"""The gradient of a window's meta-loss with respect to the learned weights, all at once or piece by piece."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from metatele.unroll.compiled import CompiledUnroll
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Position, Window

Score = Callable[[Window], Tensor | None]  # a window's meta-loss, or None if all tasks have diverged


def play_window(
    play: Unroll | CompiledUnroll, begin: Position, length: int, score: Score, piece: int | None
) -> tuple[Window, float | None]:
    """Play a window and add the gradient of its meta-loss to the `grad` of the learned weights.

    Args:
        play: plays the trajectories.
        begin: where the window begins.
        length: its number of steps.
        score: gives the meta-loss.
        piece: steps of which the graph is held at a time; the whole window if None.
    Returns: the window, without its graph, and its meta-loss; None, and no gradient, if all tasks have diverged.
    """
    if isinstance(play, CompiledUnroll):
        found = play.gradient(begin, length, score, piece)
        if found is not None:
            return found
        play = play.plain
    if piece is not None and piece < length:
        return _in_pieces(play, begin, length, score, piece)
    window = play.window(begin, length)
    loss = score(window)
    if loss is not None:
        loss.backward()
    return _without_graph(window), None if loss is None else loss.item()


def _in_pieces(play: Unroll, begin: Position, length: int, score: Score, piece: int) -> tuple[Window, float | None]:
    """The same, to rounding: played once without a graph, then backwards, each piece anew with its graph."""
    begins, played, position = [], [], begin
    while position.step < begin.step + length:
        begins.append(position)
        played.append(play.window(position, min(piece, begin.step + length - position.step), differentiable=False))
        position = played[-1].end
    losses, inner_losses, norms = (
        torch.cat([getattr(w, name) for w in played]) for name in ("meta_losses", "inner_losses", "gradient_norms")
    )
    window = Window(losses.requires_grad_(), inner_losses, norms, [], position)
    loss = score(window)
    if loss is not None:
        (slopes,) = torch.autograd.grad(loss, losses)
        _backward(play, begins, slopes.split([len(w.meta_losses) for w in played]))
    return _without_graph(window), None if loss is None else loss.item()


def _backward(play: Unroll, begins: list[Position], slopes: tuple[Tensor, ...]) -> None:
    """Add the gradient of the sum of slopes times meta-losses [K, B] to that of the learned weights."""
    weights = [p for p in play.inner.parameters() if p.requires_grad]
    adjoint: list[Tensor] = []  # the gradient with respect to where the piece before ended
    for begin, slope in zip(reversed(begins), reversed(slopes), strict=True):
        window = play.window(begin, len(slope), linked=True)
        outputs = [(window.meta_losses, slope), *zip(window.outgoing, adjoint, strict=bool(adjoint))]
        outputs = [(t, g) for t, g in outputs if t.requires_grad]
        grads = torch.autograd.grad(
            [t for t, _ in outputs],
            [*weights, *window.incoming],
            [g for _, g in outputs],
            allow_unused=True,
        )
        ends = zip(window.incoming, grads[len(weights) :], strict=True)
        adjoint = [torch.zeros_like(t) if grad is None else grad for t, grad in ends]
        for weight, grad in zip(weights, grads, strict=False):
            if grad is not None:
                # A copy, because weights that are added to each other may be given one tensor.
                weight.grad = grad.clone() if weight.grad is None else weight.grad.add_(grad)


def _without_graph(window: Window) -> Window:
    return replace(window, meta_losses=window.meta_losses.detach())
