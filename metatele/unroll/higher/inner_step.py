"""An inner optimizer as an optimizer of `higher`."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)  # higher 0.2.1 has two of them, at its first import
    import higher

from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, map_params, select_tasks, task_norm
from metatele.task.stack import StackedNetwork
from metatele.unroll.adjoints import clip_adjoints
from metatele.unroll.trajectory import Position


class InnerStep(torch.optim.Optimizer):
    """Holds an inner optimizer and its state until `higher` makes a `DifferentiableInnerStep` of it.

    Args:
        network: the stacked network whose parameters are to be trained.
        inner: the inner optimizer.
        group: the network's group, from `InnerOptimizer.bind`.
        begin: where the tasks stand; those that have diverged stay there.
        whole: the losses on all rows that the tasks train on.
        horizon: the number of steps that the trajectory is to have, or None.
        most: see `clip_adjoints`; None for no clipping.
        unseen: see `Point`.
    """

    def __init__(
        self,
        network: StackedNetwork,
        inner: InnerOptimizer,
        group: ProductGroup,
        begin: Position,
        whole: Landscape,
        horizon: int | None,
        most: float | None = None,
        unseen: bool | None = None,
    ) -> None:
        super().__init__(network.parameters(), {})
        self.names, self.inner, self.group, self.begin, self.whole = network.names, inner, group, begin, whole
        self.horizon, self.most, self.unseen = horizon, most, unseen

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        raise NotImplementedError("an inner step is taken through higher.innerloop_ctx")


class _Gate:
    """Knows which tasks have not diverged, and since when; its hooks let no gradient pass into parameters at which a
    task was no longer in order, nor out of the step in which it diverged if that is not finite.

    It is an object apart from the optimizer, because a hook that held the optimizer, which holds the
    parameters, would be a cycle through autograd's graph, which Python cannot collect.
    """

    def __init__(self, alive: Tensor, stopped_at: Tensor) -> None:
        self.alive, self.stopped_at = alive, stopped_at

    def close(self, good: Tensor) -> None:
        """Count the tasks that are not good, [B], as diverged."""
        self.alive = self.alive & good

    def watch(self, good: Tensor, step: int) -> None:
        """Likewise, of the losses at a step."""
        self.close(good)
        self.stopped_at = torch.where(self.alive, step, self.stopped_at)

    def at(self, step: int) -> Callable[[Tensor], Tensor]:
        """The hook of parameters from which the step of this number starts."""

        def hook(grad: Tensor) -> Tensor:
            if bool(self.alive.all()):
                return grad
            whole = self.alive | grad.reshape(len(grad), -1).isfinite().all(1)
            passes = whole & (self.stopped_at >= step)
            return select_tasks(passes, {"": grad}, {"": torch.zeros_like(grad)})[""]

        return hook


class DifferentiableInnerStep(higher.optim.DifferentiableOptimizer):
    """One step of an inner optimizer on `higher`'s patched network.

    A task that has diverged is frozen: its parameters stay, and no gradient passes through it from then on, so
    that its non-finite numbers cannot reach the meta-gradient.
    """

    def __init__(self, other: InnerStep, *args: Any, **kwargs: Any) -> None:
        super().__init__(other, *args, **kwargs)
        self.names, self.inner, self.group, self.horizon = other.names, other.inner, other.group, other.horizon
        self._most, self._unseen = other.most, other.unseen
        self.inner_state, self.step_count = other.begin.state, other.begin.step
        self._gate = _Gate(other.begin.alive, other.begin.stopped_at)
        self._whole = self._landscape = other.whole
        self._losses = other.begin.initial_loss

    @property
    def alive(self) -> Tensor:
        """Which tasks have not diverged, [B]."""
        return self._gate.alive

    @property
    def stopped_at(self) -> Tensor:
        """The last step at which each task's loss was in order, [B]."""
        return self._gate.stopped_at

    @property
    def params(self) -> Params:
        """The current parameters of the patched network, {name: [B, ...]}."""
        return dict(zip(self.names, self._fmodel.fast_params, strict=True))

    def watch(self, losses: Tensor, bar: Tensor, step: int) -> None:
        """Note which tasks are still in order at a step: their losses [B] are at most bar [B]."""
        self._gate.watch(losses.detach() <= bar, step)  # a NaN is not <= either

    def step(self, losses: Tensor, landscape: Landscape, second_order: bool) -> Tensor:
        """Take one step for all tasks.

        Args:
            losses: the loss of each task at the current parameters, [B].
            landscape: what gave the losses.
            second_order: whether to differentiate through the inner gradient.
        Returns: the norm of each task's gradient, [B], detached.
        """
        gradient = self.gradient(losses, second_order)
        norm = task_norm(map_params(torch.detach, gradient))
        self._gate.close(norm.isfinite())
        if not bool(self.alive.all()):
            gradient = select_tasks(self.alive, gradient, {k: torch.zeros_like(g) for k, g in gradient.items()})
            norm = torch.where(self.alive, norm, 0)
        self._landscape = landscape
        self._losses = self.shown(losses, second_order)
        self._update([list(gradient.values())])
        return norm

    def shown(self, losses: Tensor, second_order: bool) -> Tensor:
        """The losses as the inner optimizer sees them (see `Point`), [B]."""
        return torch.where(self.alive, losses if second_order else losses.detach(), 0)

    def gradient(self, losses: Tensor, second_order: bool) -> Params:
        """The gradient of each task's loss [B] with respect to its current parameters, {name: [B, ...]}."""
        params = self.params
        # Tasks share nothing, so the gradient of the sum is each task's own gradient.
        grads = torch.autograd.grad(
            losses.sum(),
            list(params.values()),
            create_graph=second_order,
            retain_graph=self._track_higher_grads,
            materialize_grads=True,  # zeros for parameters that the loss does not depend on
        )
        return dict(zip(params, grads, strict=True))

    def _update(self, grouped_grads: list[Iterable[Tensor]], **kwargs: Any) -> None:
        """Take the inner optimizer's step from these gradients: what `higher` asks of its optimizers."""
        params = self.params
        gradient = dict(zip(self.names, grouped_grads[0], strict=True))
        here, step = self._landscape, self.step_count
        point = Point(params, gradient, here.inputs, step, here, self._whole, self.horizon, self._losses, self._unseen)
        with torch.set_grad_enabled(self._track_higher_grads):
            new, self.inner_state = self.inner.step(point, self.group, self.inner_state, self.alive)
        # Whatever parameters a step starts from, their squares are finite: so are all features.
        self._gate.close(task_norm(map_params(torch.detach, new)).isfinite())
        if not bool(self.alive.all()):
            new = select_tasks(self.alive, new, params)
        if self._most is not None and self._track_higher_grads:
            new, self.inner_state = clip_adjoints(new, self.inner_state, params, self._most)
        self.step_count += 1
        self._fmodel.update_params([self._leave(p) for p in new.values()])

    def _leave(self, param: Tensor) -> Tensor:
        """A parameter tensor as the next step starts from it."""
        if not self._track_higher_grads:
            return param.detach().requires_grad_()
        # A tensor of its own: what an action passes on may have entered the other moved parameters,
        # and the inner gradient is the partial one.
        param = param.view_as(param)
        if param.requires_grad:
            param.register_hook(self._gate.at(self.step_count))
        else:  # nothing is learned upstream: the next inner gradient still needs a leaf
            param.requires_grad_()
        return param


higher.register_optim(InnerStep, DifferentiableInnerStep)
