"""Copies of an inner optimizer with learned weights of their own, which play their tasks in one batch."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from metatele.errors import ConfigError
from metatele.landscape import Landscape
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart
from metatele.parts.point import Point, State
from metatele.recurrent import RecurrentCore
from metatele.recurrent.vmapped import VmappedCells
from metatele.symmetry import ProductGroup
from metatele.task.params import Params
from metatele.task.stack import over_tasks
from metatele.teleports import AlgebraTeleport, OrbitTeleport, Teleport
from metatele.update import Update

AnyPart = TypeVar("AnyPart", bound=OptimizerPart)


class Particles:
    """P copies of an inner optimizer, which differ in their learned weights.

    Their tasks are stacked, [P * T, ...], those of one particle side by side. A part that has learned weights is called
    for all particles at once, by vmap over the weights; to everything else these are P * T tasks like any others. What
    such a part keeps in the memory of its state is [P, ...].

    Args:
        inner: the inner optimizer, bound to a network.
        number: P.

    Attributes:
        optimizer: the inner optimizer of all P * T tasks. It shares the parts of `inner` that have no learned weights.
        weights: the learned weights, {name in `inner`: [P, ...]}; to be set before each window.
    Raises: ConfigError for a learned teleport that chooses no group element.
    """

    def __init__(self, inner: InnerOptimizer, number: int) -> None:
        self.number = number
        self.weights: dict[str, Tensor] = {}
        update = self._update(inner.update) if inner.update.learned else inner.update
        teleport = self._teleport(inner.teleport) if inner.teleport.learned else inner.teleport
        self.optimizer = InnerOptimizer(update, teleport, inner.order, inner.moments)

    def _update(self, part: Update) -> Update:
        def start(params: Params) -> State:
            given = self._split(params)
            return self._join(self._call(part, "start", "update", lambda p: _tensors(part.start(p)), given))

        def propose(point: Point, state: State) -> tuple[Params, State]:
            def one(here: Any, before: Any) -> Any:
                step, after = part.propose(_point(point, here), State(*before))
                return step, _tensors(after)

            step, after = self._call(part, "propose", "update", one, self._of_point(point), self._of_state(state))
            return self._flat(step), self._join(after)

        return _with(part, start=start, propose=propose)

    def _teleport(self, part: Teleport) -> Teleport:
        if not isinstance(part, OrbitTeleport):
            raise ConfigError(
                f"meta.estimator: {type(part).__name__} has learned weights but chooses no group element, so that they "
                "cannot be perturbed; derive it from AlgebraTeleport or OrbitTeleport, or use the estimator bptt"
            )
        for name in ("move", "look"):
            if getattr(type(part), name) not in (getattr(OrbitTeleport, name), getattr(AlgebraTeleport, name)):
                raise ConfigError(
                    f"meta.estimator: {type(part).__name__} has a {name} of its own, in which its weights cannot be "
                    "perturbed; write choose or element, or use the estimator bptt"
                )
        chooses = isinstance(part, AlgebraTeleport) and type(part).element is AlgebraTeleport.element
        method = "choose" if chooses else "element"

        def start(params: Params, group: ProductGroup, seeds: Tensor) -> State:
            def one(params: Params, seeds: Tensor) -> Any:
                return _tensors(part.start(params, group, seeds))

            given = self._split((params, seeds))
            return self._join(self._call(part, "start", "teleport", one, *given))

        def chosen(point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
            def one(here: Any, before: Any) -> Any:
                what, after = getattr(part, method)(_point(point, here), group, State(*before))
                return list(what), _tensors(after)

            what, after = self._call(part, method, "teleport", one, self._of_point(point), self._of_state(state))
            return self._flat(what), self._join(after)

        return _with(part, start=start, **{method: chosen})

    def _call(self, part: OptimizerPart, method: str, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function of a part and of trees of tensors [P, ...], for each particle with its own weights.

        Args:
            part: called `name` in the inner optimizer.
            method: which of its methods the function calls.
        Raises: ConfigError for a part that draws random numbers.
        """
        own = {k: w for k, w in self.weights.items() if k.startswith(f"{name}.")}
        holder = _Holder(name, part)

        def one(weights: dict[str, Tensor], *given: Any) -> Any:
            with ExitStack() as stack:
                for core in (m for m in part.modules() if isinstance(m, RecurrentCore)):
                    stack.enter_context(core.played_by(VmappedCells(core)))
                return functional_call(holder, weights, (function, *given))

        try:
            what = getattr(type(part), method)
            return over_tasks(one, what, own, *arguments, many="particles", instead="")
        except RuntimeError as error:
            if "random" not in str(error):
                raise
            raise ConfigError(
                f"meta.estimator: {type(part).__name__}.{method} draws random numbers, as dropout does, which would "
                "differ between the trajectories that are compared; leave that out, or use the estimator bptt"
            ) from error

    def _split(self, tree: Any) -> Any:
        """Tensors [P * T, ...] as [P, T, ...]."""
        return tree_map(lambda t: t.unflatten(0, (self.number, -1)), tree)

    def _flat(self, tree: Any) -> Any:
        """Tensors [P, T, ...] as [P * T, ...]."""
        return tree_map(lambda t: t.flatten(0, 1), tree)

    def _of_point(self, point: Point) -> Any:
        """The tensors of a point, for each particle."""
        scenes = [(s.inputs, s.targets, s.constants) for s in (point.landscape, point.whole) if s is not None]
        losses = [] if point.losses is None else [point.losses]
        return self._split((point.params, point.gradient, point.inputs, scenes, losses))

    def _of_state(self, state: State) -> Any:
        """The tensors of a state, for each particle."""
        return self._split(state.covectors), self._split(state.squares), state.memory

    def _join(self, tensors: Any) -> State:
        """The state of all particles."""
        covectors, squares, memory = tensors
        return State(self._flat(covectors), self._flat(squares), tuple(t.contiguous() for t in memory))


class _Holder(nn.Module):
    """Lets `functional_call` reach any method of a part."""

    def __init__(self, name: str, part: OptimizerPart) -> None:
        super().__init__()
        self.add_module(name, part)

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _with(part: AnyPart, **methods: Callable[..., Any]) -> AnyPart:
    """A copy of a part that has some methods of its own, and shares all else."""
    twin = copy.copy(part)
    twin.__dict__.update(methods)
    return twin


def _tensors(state: State) -> Any:
    return state.covectors, state.squares, state.memory


def _point(like: Point, tensors: Any) -> Point:
    """The point of one particle."""
    params, gradient, inputs, scenes, losses = tensors
    left = iter(scenes)

    def scene(given: Landscape | None) -> Landscape | None:
        if given is None:
            return None
        x, y, constants = next(left)
        return replace(given, inputs=x, targets=y, constants=constants)

    return replace(
        like,
        params=params,
        gradient=gradient,
        inputs=inputs,
        landscape=scene(like.landscape),
        whole=scene(like.whole),
        losses=losses[0] if losses else None,
    )
