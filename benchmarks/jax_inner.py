"""What the JAX contestant's two inner loops share."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from torch import Tensor

from metatele import MetaSettings

Weights = dict[str, Array]  # the learned weights, by their names and in their layout in torch
Tree = Any  # a pytree of arrays


class InnerLoop(Protocol):
    """One workload's inner loop.

    Attributes:
        data: the meta-batch, an argument of what is compiled, so that nothing made of it is a constant.
    """

    data: Tree

    def start(self, data: Tree) -> Tree:
        """The state before the first step."""

    def window(self, weights: Weights, data: Tree, state: Tree, first: Array) -> tuple[Weights, Array, Tree]:
        """Play the window that begins at step `first`.

        Returns: the meta-gradient; the meta-losses [K, B]; the state at the window's end.
        """


def to_jax(tensor: Tensor) -> Array:
    """A copy of a torch tensor, in its own precision."""
    return jnp.array(tensor.detach().numpy(), copy=True)


def part_of(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def advance(gates: Array, c: Array, axis: int) -> tuple[Array, Array]:
    """An LSTM cell's next h and c from its gates, which lie one after the other along an axis."""
    i, f, candidate, o = jnp.split(gates, 4, axis)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(candidate)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def score(losses: Array, initial: Array) -> Array:
    """The log meta-loss."""
    return jnp.mean(jnp.log(losses + MetaSettings.floor * initial))
