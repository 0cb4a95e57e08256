"""The engine 'higher': a differentiable trajectory of the inner loop, unrolled step by step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatele.errors import ConfigError
from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer, InnerState
from metatele.support.checks import at_least
from metatele.support.messages import first_line
from metatele.symmetry import ProductGroup
from metatele.task import MetaBatch, Part
from metatele.task.params import Params, map_params
from metatele.task.stack import StackedNetwork
from metatele.unroll.guard import check_group
from metatele.unroll.higher.cores import cores_played
from metatele.unroll.higher.inner_step import DifferentiableInnerStep, InnerStep, higher
from metatele.unroll.memory import keep_freed_memory
from metatele.unroll.trajectory import Position, Score, Scored, Window
from metatele.unroll.weights import add_to_weights


class LinkedWindow(NamedTuple):
    """A window with the ends of its graph, by which windows can be chained by hand.

    Attributes:
        window: the window.
        incoming, outgoing: the floating-point tensors of the positions at which it begins and ends, in one order.
    """

    window: Window
    incoming: tuple[Tensor, ...]
    outgoing: tuple[Tensor, ...]


class Unroll:
    """Plays the trajectories of one meta-batch with one inner optimizer (see `metatele.unroll.Engine`).

    Args:
        inner: the inner optimizer; it is bound to the meta-batch's network.
        batch: the tasks.
        steps: length of the trajectory, which its parts see as `Point.horizon`; None if they are not told.
        second_order: whether the meta-gradient passes through the inner gradients.
        adjoint_clip: what a relative change of one step of one task may change in its meta-loss, as far as the
            meta-gradient knows (see `clip_adjoints`); None for the exact gradient.

    Attributes:
        group: the network's group; on the data of the inner part, if all steps see them.
        index: row numbers [B, rows] of each part's minibatch at each step; None for the full batch.
    Raises: what `InnerOptimizer.bind` raises; ConfigError if steps is below 1.
    """

    def __init__(
        self,
        inner: InnerOptimizer,
        batch: MetaBatch,
        steps: int | None,
        second_order: bool = False,
        adjoint_clip: float | None = None,
    ) -> None:
        if steps is not None:
            at_least(1, steps=steps)
        self.inner, self.batch, self.steps, self.second_order = inner, batch, steps, second_order
        self.adjoint_clip = adjoint_clip
        parts: tuple[Part, ...] = ("inner", "meta")
        self.index = {part: batch.minibatches(part) for part in parts}
        if all(p.device.type == "cpu" for p in batch.params.values()):
            keep_freed_memory()
        group: ProductGroup = inner.bind(batch.network, batch.trained(batch.params))
        self.group = group.on(batch.inputs["inner"]) if self.index["inner"] is None else group

    @property
    def most(self) -> float | None:
        """What a step of one task may change in the meta-loss, a mean over the tasks (see `clip_adjoints`)."""
        return None if self.adjoint_clip is None else self.adjoint_clip / self.batch.tasks

    def start(self) -> Position:
        """The position before the first step."""
        params, index = self.batch.params, self.index["inner"]
        check_group(self.group, self.batch, None if index is None else index[0])
        loss = self.evaluate(params, "inner")
        return Position(
            params=params,
            state=self.inner.start(self.batch.trained(params), self.group, self.batch.seeds),
            step=0,
            alive=torch.ones(self.batch.tasks, dtype=torch.bool, device=loss.device),
            stopped_at=torch.zeros(self.batch.tasks, dtype=torch.int64, device=loss.device),
            initial_loss=loss,
        )

    @torch.no_grad()
    def evaluate(self, params: Params, part: Part) -> Tensor:
        """Loss of each task on all rows of a part, [B]."""
        x, y = self.batch.rows(part)
        return self.batch.losses(self.batch.predict(params, x), y)

    def window(self, begin: Position, length: int, differentiable: bool = True) -> Window:
        """Play `length` steps from a position; see `Engine.window`."""
        with cores_played(self.inner):
            return self._window(begin, length, differentiable)

    def linked_window(self, begin: Position, length: int) -> LinkedWindow:
        """Play a window differentiably, and give it with the ends of its graph."""
        with cores_played(self.inner):
            return self._linked_window(begin, length)

    def gradient(self, begin: Position, length: int, score: Score, piece: int | None = None) -> Scored:
        """Play a window and add the gradient of its meta-loss to that of the learned weights; see `Engine.gradient`."""
        if begin.all_diverged:
            rest = Window.at_rest(begin, length)
            return Scored(rest, score(rest).item())
        with self._differentiated_twice():
            return self._gradient(begin, length, score, piece)

    def _gradient(self, begin: Position, length: int, score: Score, piece: int | None) -> Scored:
        if piece is not None and piece < length:
            return self._gradient_in_pieces(begin, length, score, piece)
        with cores_played(self.inner, tapped=True) as taps:
            window = self._window(begin, length, True)
        loss = score(window)
        loss.backward()
        add_to_weights(taps.gradients([tap.grad for tap in taps.leaves()]))
        return Scored(window.detach(), loss.item())

    @contextmanager
    def _differentiated_twice(self) -> Iterator[None]:
        """In second order, inside, attention goes by its plain kernel, the only one that has a second derivative.

        Raises: ConfigError for an operation that has none.
        """
        if not self.second_order:
            yield
            return
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        except (RuntimeError, NotImplementedError) as error:
            if "derivative" not in str(error) and "double backward" not in str(error):
                raise
            raise ConfigError(
                f"unroll.second_order: an operation in {type(self.batch.family).__name__} has no second derivative "
                f"({first_line(error)}); set unroll.second_order to false"
            ) from error

    def _gradient_in_pieces(self, begin: Position, length: int, score: Score, piece: int) -> Scored:
        """What `gradient` gives, to rounding: the window is played without a graph, then, from the last piece to the
        first, each piece is played again with its graph."""
        begins, played, position = [], [], begin
        while position.step < begin.step + length:
            begins.append(position)
            steps = min(piece, begin.step + length - position.step)
            played.append(self.window(position, steps, differentiable=False))
            position = played[-1].end
        window = Window.join(played)
        losses = window.meta_losses.requires_grad_()
        loss = score(window)
        (slopes,) = torch.autograd.grad(loss, losses)
        self._backward(begins, slopes.split([len(w.meta_losses) for w in played]))
        return Scored(window.detach(), loss.item())

    def _backward(self, begins: list[Position], slopes: tuple[Tensor, ...]) -> None:
        """Add the gradient of the sum of slopes times meta-losses [K, B] to that of the learned weights.

        Args:
            begins: where each piece of the window begins.
            slopes: of each piece.
        """
        weights = [p for p in self.inner.parameters() if p.requires_grad]
        adjoint: list[Tensor] = []  # the gradient with respect to where the piece before ended
        for begin, slope in zip(reversed(begins), reversed(slopes), strict=True):
            with cores_played(self.inner, tapped=True) as taps:
                window, incoming, outgoing = self._linked_window(begin, len(slope))
            outputs = [(window.meta_losses, slope), *zip(outgoing, adjoint, strict=bool(adjoint))]
            outputs = [(t, g) for t, g in outputs if t.requires_grad]
            asked = [*weights, *incoming, *taps.leaves()]
            grads = torch.autograd.grad([t for t, _ in outputs], asked, [g for _, g in outputs], allow_unused=True)
            of_weights, of_ends = grads[: len(weights)], grads[len(weights) :][: len(incoming)]
            adjoint = [torch.zeros_like(t) if grad is None else grad for t, grad in zip(incoming, of_ends, strict=True)]
            # A copy, because weights that are added to each other may be given one tensor.
            add_to_weights((p, g.clone()) for p, g in zip(weights, of_weights, strict=True) if g is not None)
            add_to_weights(taps.gradients(grads[len(weights) + len(incoming) :]))

    def _window(self, begin: Position, length: int, differentiable: bool) -> Window:
        with self._patched(begin, differentiable) as (network, steps):
            return self._play(begin, length, differentiable, network, steps)

    def _linked_window(self, begin: Position, length: int) -> LinkedWindow:
        begin = replace(begin, state=begin.state.map(_leaf))
        with self._patched(begin, True) as (network, steps):
            window = self._play(begin, length, True, network, steps)
            incoming = _floating(cast(list[Tensor], network.init_fast_params), begin.state)
            return LinkedWindow(window, incoming, _floating(steps.params.values(), steps.inner_state))

    @contextmanager
    def _patched(self, begin: Position, differentiable: bool) -> Iterator[tuple[nn.Module, DifferentiableInnerStep]]:
        """The network at a position, patched by `higher`, and the inner optimizer to go on with."""
        network = StackedNetwork(self.batch.network, self.batch.trained(begin.params), self.batch.constants)
        whole = self._landscape(*self.batch.rows("inner"))
        unseen = self.batch.judged_by_unseen
        opt = InnerStep(network, self.inner, self.group, begin, whole, self.steps, self.most, unseen)
        with higher.innerloop_ctx(network, opt, copy_initial_weights=False, track_higher_grads=differentiable) as pair:
            yield pair

    def _play(
        self,
        begin: Position,
        length: int,
        differentiable: bool,
        network: nn.Module,
        steps: DifferentiableInnerStep,
    ) -> Window:
        """Play a window on a patched network."""
        shared, bar = self.batch.shares_meta, begin.bar
        meta_losses, inner_losses, norms = [], [], []
        for k in range(begin.step, begin.step + length):
            if k == begin.step or not shared:
                losses, here = self._losses(network, "inner", k)
            steps.watch(losses, bar, k)
            norms.append(steps.step(losses, here, self.second_order and differentiable))
            inner_losses.append(losses.detach())
            if shared:  # the next step's inner losses are this step's meta-losses
                losses, here = self._losses(network, "inner", k + 1)
                meta_losses.append(losses)
            else:
                meta_losses.append(self._losses(network, "meta", k + 1)[0])
            steps.watch(meta_losses[-1], bar, k + 1)
        end = Position(
            params=begin.params | map_params(torch.detach, steps.params),
            state=steps.inner_state.detach(),
            step=begin.step + length,
            alive=steps.alive,
            stopped_at=steps.stopped_at,
            initial_loss=begin.initial_loss,
        )
        window = Window(torch.stack(meta_losses), torch.stack(inner_losses), torch.stack(norms), end)
        return window if differentiable else window.detach()

    def _losses(self, network: nn.Module, part: Part, step: int) -> tuple[Tensor, Landscape]:
        """Losses [B] on the rows that step `step` uses, and the landscape that these rows give."""
        index = self.index[part]
        x, y = self.batch.rows(part, None if index is None else index[step])
        return self.batch.losses(network(x), y), self._landscape(x, y)

    def _landscape(self, inputs: Tensor, targets: Tensor) -> Landscape:
        batch = self.batch
        return Landscape(batch.network, batch.family.loss, inputs, targets, constants=batch.constants)


def _leaf(tensor: Tensor) -> Tensor:
    """A floating-point tensor as a leaf that can have a gradient; other tensors as they are."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _floating(params: Iterable[Tensor], state: InnerState) -> tuple[Tensor, ...]:
    """The tensors of a position that gradients pass through."""
    return tuple(t for t in (*params, *state.tensors()) if t.is_floating_point())
