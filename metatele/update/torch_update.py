"""Any optimizer of torch.optim as an update, on stacked parameters."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.parts.point import Point, State
from metatele.parts.torch_state import split_state
from metatele.support.messages import first_line
from metatele.task.params import Params, map_params
from metatele.update.base import Update

# These treat every entry of a tensor by itself, so that a whole stack is one tensor to them.
ELEMENT_WISE = frozenset(
    "SGD Adagrad RMSprop Adam AdamW NAdam RAdam Adamax Adadelta ASGD Rprop".split()  # noqa: SIM905 - easier to read
)
REFUSED = {
    "LBFGS": "it evaluates the loss several times in a step, through a closure, which an update does not get",
    "SparseAdam": "it takes sparse gradients, and those of an inner loop are dense; use Adam",
}

TorchState = dict[str, dict[str, Tensor]]  # {parameter: {key: tensor}}
Slot = tuple[str, str]  # one tensor of it: parameter, key


class TorchUpdate(Update):
    """f = the step of an optimizer of torch.optim, each task by itself.

    Its means of gradients and of squared gradients are carried along by teleports (see
    `metatele.parts.torch_state`), which treat a penalty that torch adds to the gradient (the weight_decay of
    SGD or Adam, not of AdamW) as a part of the gradient. RMSprop with centered=True needs teleports that
    act diagonally (scaling): others may leave it the root of a negative variance.

    No gradient passes through its steps: gradient, parameters and moments are detached. To
    meta-train through an update, use GradientDescent, Momentum, Adam or a learned one.

    Args:
        optimizer: name of a class in torch.optim, such as "AdamW". Element-wise ones act on all tasks
            at once; any other (Adafactor, Muon) on one task after the other.
        options: its keyword arguments, as {"lr": 1e-3, "weight_decay": 0.1}; torch's own defaults for the rest.
    Raises: ConfigError if torch has no such optimizer, refuses the options or, at the first step,
        the parameters (Muon takes matrices only).
    """

    def __init__(self, optimizer: str = "SGD", options: dict[str, Any] = {}) -> None:  # noqa: B006 - read only
        super().__init__()
        _check_options(options)
        self.optimizer, self.options = optimizer, dict(options)
        self._class = _find(optimizer)
        self._layouts: dict[Any, _Layout] = {}
        # A matrix, because Muon takes nothing else; on the CPU, also where a checkpoint is built on meta.
        self._build([torch.zeros(1, 1, device="cpu")])

    def start(self, params: Params) -> State:
        return self._layout(params).pack(None, 0)

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        layout = self._layout(point.params)
        before, count = layout.unpack(state)
        params, gradient = (map_params(torch.detach, p) for p in (point.params, point.gradient))
        # Some optimizers treat their first step specially, so there torch makes the state itself.
        step = self._step if self.optimizer in ELEMENT_WISE else self._step_each
        new, after = step(params, gradient, before if count else None)
        return map_params(torch.sub, new, params), layout.pack(after, count + 1)

    def _build(self, params: list[Tensor]) -> torch.optim.Optimizer:
        return _refusing(self.optimizer, self.options, lambda: self._class(params, **self.options))

    def _step(self, params: Params, gradient: Params, state: TorchState | None) -> tuple[Params, TorchState]:
        """torch's step from a state, or the first one: the new parameters and state."""
        new = map_params(torch.clone, params)
        optimizer = self._build(list(new.values()))
        for name, p in new.items():
            p.grad = gradient[name].clone()  # some write into it (SGD with nesterov and foreach)
            if state is not None:
                optimizer.state[p] = {key: t.detach().clone() for key, t in state[name].items()}
        optimizer.step()
        # The tensors themselves are returned, without their gradients.
        return map_params(torch.detach, new), {name: dict(optimizer.state[p]) for name, p in new.items()}

    def _step_each(self, params: Params, gradient: Params, state: TorchState | None) -> tuple[Params, TorchState]:
        """What `_step` gives, one task after the other; the scalars of the state are then stacked, too, [B]."""
        tasks = range(len(next(iter(params.values()))))
        steps = [
            self._step(
                {k: p[i] for k, p in params.items()},
                {k: g[i] for k, g in gradient.items()},
                None if state is None else {k: {key: t[i] for key, t in s.items()} for k, s in state.items()},
            )
            for i in tasks
        ]
        new = {k: torch.stack([p[k] for p, _ in steps]) for k in params}
        keys = {k: list(s) for k, s in steps[0][1].items()}
        return new, {k: {key: torch.stack([s[k][key] for _, s in steps]) for key in keys[k]} for k in params}

    def _layout(self, params: Params) -> "_Layout":
        """Where the tensors of the torch state stand in a `State`; found by one step on zeros."""
        shape = tuple((name, p.shape, p.dtype, p.device) for name, p in params.items())
        if shape not in self._layouts:
            zeros = map_params(torch.zeros_like, params)
            step = self._step if self.optimizer in ELEMENT_WISE else self._step_each
            _, example = _refusing(self.optimizer, self.options, lambda: step(zeros, zeros, None))
            self._layouts[shape] = _Layout(example, zeros)
        return self._layouts[shape]


class _Layout:
    """Converts between the state of a torch optimizer, {parameter: {key: tensor}}, and a `State`.

    The memory holds the number of steps and then every tensor that teleports leave alone.

    Args:
        example: a torch state, from a step on zeros.
        params: the parameters {name: [B, ...]}.
    """

    def __init__(self, example: TorchState, params: Params) -> None:
        kinds = {name: split_state(state) for name, state in example.items()}
        self.covectors = self._shared([kinds[name].covectors for name in params])
        self.squares = self._shared([kinds[name].squares for name in params])
        carried = {*self.covectors, *self.squares}
        self.memory: list[Slot] = [(n, key) for n, state in example.items() for key in state if key not in carried]
        self.blank = {n: {key: torch.zeros_like(t) for key, t in state.items()} for n, state in example.items()}

    @staticmethod
    def _shared(keys: list[tuple[str, ...]]) -> list[str]:
        """The keys that every parameter has: a teleport carries all parameters together."""
        return [key for key in keys[0] if all(key in other for other in keys)]

    def pack(self, state: TorchState | None, count: int) -> State:
        """The `State` after `count` steps, made of placeholders if there is no torch state yet."""
        full = self.blank if state is None else state
        return State(
            tuple({n: full[n][key] for n in full} for key in self.covectors),
            tuple({n: full[n][key] for n in full} for key in self.squares),
            (torch.tensor(count), *(full[n][key] for n, key in self.memory)),
        )

    def unpack(self, state: State) -> tuple[TorchState, int]:
        """The torch state and the number of steps."""
        count, *memory = state.memory
        full: TorchState = {name: {} for name in self.blank}
        for keys, kept in ((self.covectors, state.covectors), (self.squares, state.squares)):
            for key, values in zip(keys, kept, strict=True):
                for name, value in values.items():
                    full[name][key] = value
        for (name, key), value in zip(self.memory, memory, strict=True):
            full[name][key] = value
        return full, int(count)


def _check_options(options: object) -> None:
    try:
        if isinstance(options, Mapping) and all(isinstance(key, str) for key in options):
            json.dumps(options)
            return
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"options must map names to plain numbers, strings and lists, got {options!r}")


def _find(name: object) -> type[torch.optim.Optimizer]:
    """The class of this name in torch.optim. Raises: ConfigError."""
    base = torch.optim.Optimizer
    known = {n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, base) and c != base}
    if isinstance(name, str) and name in REFUSED:
        raise ConfigError(f"optimizer {name!r} cannot be an update: {REFUSED[name]}")
    if not isinstance(name, str) or name not in known:
        usable = ", ".join(sorted(known.keys() - REFUSED))
        raise ConfigError(f"optimizer must be the name of a class in torch.optim ({usable}), got {name!r}")
    return known[name]


def _refusing(optimizer: str, options: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` returns. Raises: ConfigError for what torch refuses."""
    try:
        return make()
    except ConfigError:
        raise
    except (ValueError, TypeError, AssertionError, KeyError, IndexError, RuntimeError) as error:
        raise ConfigError(f"torch.optim.{optimizer} with options {dict(options)!r}: {first_line(error)}") from error
