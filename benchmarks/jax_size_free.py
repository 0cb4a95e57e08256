"""The size-free workload's inner loop in JAX: coordinate-wise LSTM and neuron-wise teleport on digits.

What makes it fast, each against plain autodiff of a scan over steps with all tasks stacked:

- The tasks of a window are played one after the other (a scan that adds up their meta-gradients), so that one
  task's gates, not all tasks', go through the cache; one task has coordinates enough for efficient products.
- Everything is computed [features, coordinates], so that each gate is contiguous, and the gates are one product
  with (input, h, 1).
- The cells are rematerialised: computing the gates again costs less than writing them for every step.
- A task's parameters, moments and gradient are flat vectors.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.jax_inner import Tree, Weights, advance, part_of, score, to_jax
from benchmarks.jax_minibatches import Rows, cross_entropy, minibatches_of, rows_of, take
from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport, UnrollSettings
from metatele.task.batch import MetaBatch
from metatele.task.family import Part
from metatele.update.size_free import LEAST_SQUARE

Memory = tuple[Array, Array]  # (h, c), each [hidden, coordinates]


class Tasks(NamedTuple):
    """What belongs to the tasks; every array begins with B."""

    params: Array
    rows: dict[Part, Rows]
    minibatches: dict[Part, Array]  # the row numbers that each step uses, [B, steps, rows]


class Data(NamedTuple):
    """A meta-batch, and what depends on the step: the LSTMs' time, and Adam's two corrections, [steps]."""

    tasks: Tasks
    clock: tuple[Array, Array, Array]


class Carry(NamedTuple):
    """What a step hands to the next."""

    params: Array
    mean: Array
    square: Array
    update: Memory
    teleport: Memory


class State(NamedTuple):
    """What a window hands to the next; every array begins with B."""

    carry: Carry
    initial: Array


class SizeFree:
    """See `InnerLoop`. The methods with an underscore are for one task.

    Args:
        inner: CoordinateUpdate and NeuronTeleport of one cell each, "before".
        batch: classification tasks with minibatches, for a ReLU network with one hidden layer.
        unroll: lengths of the trajectory and the window, first or second order.
    """

    def __init__(self, inner: InnerOptimizer, batch: MetaBatch, unroll: UnrollSettings) -> None:
        assert isinstance(inner.update, CoordinateUpdate)
        assert isinstance(inner.teleport, NeuronTeleport)
        self.unroll, self.update, self.teleport = unroll, inner.update, inner.teleport
        self.hidden, self.inputs = batch.params["0.weight"].shape[1:]
        self.outputs = batch.params["2.weight"].shape[1]
        self.sizes = [p[0].numel() for p in batch.params.values()]
        self.data = self._data(batch)

    def _data(self, batch: MetaBatch) -> Data:
        steps, betas = self.unroll.longest, self.update.BETAS
        params = jnp.concatenate([to_jax(p.flatten(1)) for p in batch.params.values()], 1)
        k = np.arange(steps)
        clock = np.log1p(k) / 3, 1 - betas[0] ** (k + 1.0), 1 - betas[1] ** (k + 1.0)
        time, first_correction, second_correction = (jnp.asarray(c, params.dtype) for c in clock)
        tasks = Tasks(params, rows_of(batch, self.outputs), minibatches_of(batch, steps))
        return Data(tasks, (time, first_correction, second_correction))

    def start(self, data: Data) -> State:
        params, zeros = data.tasks.params, jnp.zeros_like(data.tasks.params)

        def memory(hidden: int, coordinates: int) -> Memory:
            blank = jnp.zeros((len(params), hidden, coordinates), params.dtype)
            return blank, blank

        update = memory(self.update.hidden, params.shape[1])
        teleport = memory(self.teleport.hidden, self.hidden)
        initial = jax.vmap(self._loss)(params, data.tasks.rows["inner"])
        return State(Carry(params, zeros, zeros, update, teleport), initial)

    def window(self, weights: Weights, data: Data, state: State, first: Array) -> tuple[Weights, Array, State]:
        length = self.unroll.window
        clock = [lax.dynamic_slice_in_dim(c, first, length) for c in data.clock]
        minibatches = {k: lax.dynamic_slice_in_dim(i, first, length, 1) for k, i in data.tasks.minibatches.items()}

        def play(weights: Weights, task: Tree) -> tuple[Array, Tree]:
            rows, drawn, begin = task
            parts = part_of(weights, "update.core."), part_of(weights, "teleport.core.")
            end, losses = lax.scan(partial(self._step, parts, rows), begin.carry, (drawn, clock))
            return score(losses, begin.initial), (losses, State(end, begin.initial))

        def add(total: Weights, task: Tree) -> tuple[Weights, Tree]:
            gradient, seen = jax.grad(play, has_aux=True)(weights, task)
            return jax.tree.map(jnp.add, total, gradient), seen

        tasks = data.tasks.rows, minibatches, state
        total, (losses, end) = lax.scan(add, jax.tree.map(jnp.zeros_like, weights), tasks)
        return jax.tree.map(lambda g: g / len(losses), total), losses.T, end

    def _step(
        self, parts: tuple[Weights, Weights], rows: dict[Part, Rows], carry: Carry, now: Tree
    ) -> tuple[Carry, Array]:
        """One step: the teleport, which carries gradient and moments along, then the update."""
        index, (time, *corrections) = now
        gradient = jax.grad(self._loss)(carry.params, take(rows["inner"], index["inner"]))
        gradient = gradient if self.unroll.second_order else lax.stop_gradient(gradient)
        out, teleport = _lstm(parts[1], self._neuron_features(carry.params, gradient, time), carry.teleport)
        scales = self._scales(jnp.exp(self.teleport.bound * jnp.tanh(out[0])))
        back = 1 / scales
        params, gradient = scales * carry.params, back * gradient
        (b1, b2), (c1, c2) = self.update.BETAS, corrections
        mean = b1 * back * carry.mean + (1 - b1) * gradient
        square = b2 * jnp.square(back) * carry.square + (1 - b2) * jnp.square(gradient)
        root = jnp.sqrt(square / c2 + LEAST_SQUARE)
        direction = mean / c1 / root
        features = self._coordinate_features(params, gradient, direction, root, time)
        out, update = _lstm(parts[0], features, carry.update)
        params = params - self.update.lr * jnp.exp(3 * jnp.tanh(out[1])) * (direction + 3 * out[0])
        loss = self._loss(params, take(rows["meta"], index["meta"]))
        return Carry(params, mean, square, update, teleport), loss

    def _split(self, flat: Array) -> tuple[Array, Array, Array, Array]:
        """W_in, b_in, W_out, b_out from a vector of all parameters."""
        w_in, b_in, w_out, b_out = jnp.split(flat, np.cumsum(self.sizes)[:-1].tolist())
        return w_in.reshape(self.hidden, self.inputs), b_in, w_out.reshape(self.outputs, self.hidden), b_out

    def _loss(self, flat: Array, rows: Rows) -> Array:
        """Cross-entropy."""
        w_in, b_in, w_out, b_out = self._split(flat)
        return cross_entropy(jax.nn.relu(rows[0] @ w_in.T + b_in) @ w_out.T + b_out, rows[1])

    def _scales(self, g: Array) -> Array:
        """The factor by which the teleport multiplies each parameter, from the neurons' scales."""
        out = jnp.tile(1 / g, self.outputs)
        return jnp.concatenate([jnp.repeat(g, self.inputs), g, out, jnp.ones(self.outputs, g.dtype)])

    def _norms(self, flat: Array) -> tuple[Array, Array]:
        """Norms of each neuron's incoming weights, with its bias, and of its outgoing ones, [h]."""
        w_in, b_in, w_out, _ = self._split(flat)
        incoming = jnp.sum(jnp.square(w_in), 1) + jnp.square(b_in)
        return jnp.sqrt(incoming + LEAST_SQUARE), jnp.sqrt(jnp.sum(jnp.square(w_out), 0) + LEAST_SQUARE)

    def _neuron_features(self, params: Array, gradient: Array, time: Array) -> Array:
        """What the teleport's LSTM sees, [6, h]."""
        (w_in, b_in, *_), (g_in, e_in, *_) = self._split(params), self._split(gradient)
        (into, out), (slope_into, slope_out) = self._norms(params), self._norms(gradient)
        activity = jnp.log(slope_into * slope_out) / 2
        cosine = (jnp.sum(w_in * g_in, 1) + b_in * e_in) / (into * slope_into)
        columns = [
            jnp.log(into / out) / 2,
            jnp.log(into * out) / 2,
            jnp.log(slope_into / slope_out) / 2,
            activity - activity.mean(),
            cosine,
            jnp.full_like(into, time),
        ]
        return jnp.stack(columns)

    def _coordinate_features(self, params: Array, gradient: Array, direction: Array, root: Array, time: Array) -> Array:
        """What the update's LSTM sees, [6, n]."""
        size = jnp.sqrt(jnp.mean(jnp.square(gradient)) + LEAST_SQUARE)
        layers = [jnp.sqrt(jnp.mean(jnp.square(p)) + LEAST_SQUARE) for p in self._split(params)]
        scale = jnp.concatenate([jnp.broadcast_to(s, n) for s, n in zip(layers, self.sizes, strict=True)])
        columns = [
            direction,
            gradient / root,
            jnp.log(root / size) / 3,
            jnp.full_like(params, jnp.log(size) / 5),
            params / scale,
            jnp.full_like(params, time),
        ]
        return jnp.stack(columns)


@jax.checkpoint
def _lstm(part: Weights, x: Array, memory: Memory) -> tuple[Array, Memory]:
    """Outputs [outputs, coordinates] and the next memory."""
    h, c = memory
    w_x, w_h, b_x, b_h = (part[f"cells.0.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    joint = jnp.concatenate([w_x, w_h, (b_x + b_h)[:, None]], 1)
    h, c = advance(joint @ jnp.concatenate([x, h, jnp.ones_like(h[:1])]), c, 0)
    return part["head.weight"] @ h + part["head.bias"][:, None], (h, c)
