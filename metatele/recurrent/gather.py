"""Weight gradients of a whole window at once: what the steps hand in, and the node that makes gradients of it."""

import abc
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def only_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that cannot be differentiated: `once_differentiable` would let it pass for a constant."""

    @wraps(backward)
    def checked(*args: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the learned weights of a window cannot be differentiated twice: leave create_graph out")
        return backward(*args)

    return checked


class Shares(abc.ABC):
    """What the backward passes of a window's steps hand in towards the weight gradients."""

    weights: Sequence[tuple[Tensor, int]] = ()
    task: int | None = None  # autograd's number of the backward pass that is under way

    def watch(self, weights: Sequence[Tensor]) -> None:
        """Remember the versions of the weights."""
        self.weights = [(w, w._version) for w in weights]

    def enter(self) -> None:
        """To be called first by each step's backward pass.

        Raises: RuntimeError if a weight has been changed since the window.
        """
        if any(w._version != version for w, version in self.weights):
            raise RuntimeError("the learned weights were changed between a window and its backward pass")
        task = torch._C._current_graph_task_id()
        if self.task not in (None, task):
            self.clear()
        self.task = task

    @abc.abstractmethod
    def clear(self) -> None:
        """Forget what an earlier backward pass has handed in."""

    @abc.abstractmethod
    def gradients(self) -> list[Tensor | None]:
        """The gradient of each weight, in the order of the core's parameters."""


class Gather(Function):
    """The last node of a window's backward pass.

    Forward gives an empty tensor, which every step takes as an input: so autograd comes here only when all steps
    have handed in their shares. It must not be kept where `shares` can reach it: that would be a cycle through
    autograd's graph, which Python cannot collect.
    """

    @staticmethod
    def forward(ctx: Any, shares: Shares, *weights: Tensor) -> Tensor:
        ctx.shares = shares
        return weights[0].new_empty(0)

    @staticmethod
    @only_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.shares.gradients()
