"""Classification with minibatches in JAX: what the inner loops on digits share."""

import jax
from jax import Array

from benchmarks.jax_inner import to_jax
from metatele.task.batch import MetaBatch
from metatele.task.family import Part

Rows = tuple[Array, Array]  # inputs [..., n, d] and one-hot targets [..., n, classes]


def rows_of(batch: MetaBatch, classes: int) -> dict[Part, Rows]:
    """All rows of each part, every array beginning with B."""
    out: dict[Part, Rows] = {}
    parts: tuple[Part, ...] = ("inner", "meta")
    for part in parts:
        x, y = map(to_jax, batch.rows(part))
        out[part] = x, jax.nn.one_hot(y, classes, dtype=x.dtype)
    return out


def minibatches_of(batch: MetaBatch, steps: int) -> dict[Part, Array]:
    """The row numbers that each step uses, [B, steps, rows]."""
    out: dict[Part, Array] = {}
    starts: dict[Part, int] = {"inner": 0, "meta": 1}  # a step is scored on the minibatch after it
    for part, first in starts.items():
        drawn = batch.minibatches(part)
        assert drawn is not None
        out[part] = to_jax(drawn.first(first + steps)[first:].transpose(0, 1).int())
    return out


def take(rows: Rows, index: Array) -> Rows:
    """A minibatch."""
    return rows[0][index], rows[1][index]


def cross_entropy(logits: Array, targets: Array) -> Array:
    """The mean over rows [n, classes] of one-hot targets."""
    return -(targets * jax.nn.log_softmax(logits)).sum(1).mean()
