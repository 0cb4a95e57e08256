"""A differentiable trajectory of the inner loop, window by window."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer, InnerState
from metatele.support.checks import at_least
from metatele.symmetry import ProductGroup
from metatele.task.batch import MetaBatch
from metatele.task.family import Part
from metatele.task.params import Params, map_params
from metatele.task.stack import StackedNetwork, stacked_forward
from metatele.unroll.higher.inner_step import DifferentiableInnerStep, InnerStep, higher
from metatele.unroll.trajectory import DIVERGENCE, Position, Window


class Unroll:
    """Plays the trajectories of one meta-batch with one inner optimizer.

    Args:
        inner: the inner optimizer; it is bound to the meta-batch's network.
        batch: the tasks.
        steps: length of the trajectory (minibatches are drawn for so many steps).
        second_order: whether the meta-gradient passes through the inner gradients.

    Attributes:
        group: the network's group.
        index: row numbers [steps + 1, B, rows] of the minibatches of each part; None for the full batch.
    Raises: what `InnerOptimizer.bind` raises; ConfigError if steps is below 1.
    """

    def __init__(self, inner: InnerOptimizer, batch: MetaBatch, steps: int, second_order: bool = False) -> None:
        at_least(1, steps=steps)
        self.inner, self.batch, self.steps, self.second_order = inner, batch, steps, second_order
        self.group: ProductGroup = inner.bind(batch.network, batch.params)
        drawn = {part: batch.minibatches(part, steps + 1) for part in ("inner", "meta")}
        device = batch.inputs["inner"].device
        self.index = {part: None if rows is None else rows.to(device) for part, rows in drawn.items()}

    def start(self) -> Position:
        """The position before the first step."""
        params = self.batch.params
        loss = self.evaluate(params, "inner")
        return Position(
            params=params,
            state=self.inner.start(params, self.group, self.batch.seeds),
            step=0,
            alive=torch.ones(self.batch.tasks, dtype=torch.bool, device=loss.device),
            stopped_at=torch.zeros(self.batch.tasks, dtype=torch.int64, device=loss.device),
            initial_loss=loss,
        )

    @torch.no_grad()
    def evaluate(self, params: Params, part: Part) -> Tensor:
        """Loss of each task on all rows of a part, [B]."""
        x, y = self.batch.rows(part)
        return self.batch.losses(stacked_forward(self.batch.network, params, x), y)

    def window(
        self,
        begin: Position,
        length: int,
        differentiable: bool = True,
        record: bool = False,
        replay: Sequence[Params] | None = None,
        linked: bool = False,
    ) -> Window:
        """Play `length` steps from a position.

        Args:
            begin: where to start; the window's graph does not reach beyond it.
            length: number of steps K.
            differentiable: keep the graph from the meta-losses to the learned weights.
            record: keep the inner gradients in the result.
            replay: inner gradients to use in place of those of the losses, one for each step.
            linked: give the ends of the graph, too, so that windows can be chained by hand.
        """
        if linked:
            begin = replace(begin, state=begin.state.map(_leaf))
        shared = self.batch.shares_meta
        bar = DIVERGENCE * (begin.initial_loss.abs() + 1)
        meta_losses, inner_losses, norms, gradients = [], [], [], []
        with self.inner.window(length), self._patched(begin, differentiable) as (patched, diffopt):
            for k in range(length):
                step = begin.step + k
                if k == 0 or not shared:
                    losses, here = self._losses(patched, "inner", step)
                diffopt.watch(losses, bar, step)
                held = None if replay is None else replay[k]
                used, norm = diffopt.step(losses, here, self.second_order and differentiable, held)
                inner_losses.append(losses.detach())
                norms.append(norm)
                if record:
                    gradients.append(map_params(torch.detach, used))
                if shared:  # the next step's inner losses are this step's meta-losses
                    losses, here = self._losses(patched, "inner", step + 1)
                    meta_losses.append(losses)
                else:
                    meta_losses.append(self._losses(patched, "meta", step + 1)[0])
                diffopt.watch(meta_losses[-1], bar, step + 1)
            if linked:
                incoming = _floating(cast(list[Tensor], patched.init_fast_params), begin.state)
                outgoing = _floating(diffopt.params.values(), diffopt.inner_state)
            end = Position(
                params=map_params(torch.detach, diffopt.params),
                state=diffopt.inner_state.detach(),
                step=begin.step + length,
                alive=diffopt.alive,
                stopped_at=diffopt.stopped_at,
                initial_loss=begin.initial_loss,
            )
        scored = torch.stack(meta_losses)
        scored = scored if differentiable else scored.detach()
        ends = (incoming, outgoing) if linked else ()
        return Window(scored, torch.stack(inner_losses), torch.stack(norms), gradients, end, *ends)

    @contextmanager
    def _patched(self, begin: Position, differentiable: bool) -> Iterator[tuple[nn.Module, DifferentiableInnerStep]]:
        """The network at a position, patched by `higher`, and the inner optimizer to go on with."""
        network = StackedNetwork(self.batch.network, begin.params)
        opt = InnerStep(
            network,
            self.inner,
            self.group,
            begin.state,
            begin.alive,
            begin.stopped_at,
            begin.step,
            self._landscape(*self.batch.rows("inner")),
        )
        with higher.innerloop_ctx(network, opt, copy_initial_weights=False, track_higher_grads=differentiable) as pair:
            yield pair

    def _losses(self, network: nn.Module, part: Part, step: int) -> tuple[Tensor, Landscape]:
        """Losses [B] on the rows that step `step` uses, and the landscape that these rows give."""
        index = self.index[part]
        x, y = self.batch.rows(part, None if index is None else index[step])
        return self.batch.losses(network(x), y), self._landscape(x, y)

    def _landscape(self, inputs: Tensor, targets: Tensor) -> Landscape:
        return Landscape(self.batch.network, self.batch.family.loss, inputs, targets)


def _leaf(tensor: Tensor) -> Tensor:
    """A tensor that a gradient can be asked of, where it has numbers that have one."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _floating(params: Iterable[Tensor], state: InnerState) -> tuple[Tensor, ...]:
    """The tensors of a position that gradients pass through."""
    return tuple(t for t in (*params, *state.tensors()) if t.is_floating_point())
