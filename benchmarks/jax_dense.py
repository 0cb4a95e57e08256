"""The dense workload's inner loop in JAX: LSTM(update,tele) on the paper's regression.

What makes it fast, each against plain autodiff of a scan with metatele's formulas:

- The meta-gradient is taken with respect to `taps`, zeros added to the gates, and not to the weights: each
  weight's gradient is then one product over all steps of a window, instead of a sum of one per step.
- exp(T) and its inverse exp(-T) come together from the even and odd parts of one Taylor series, long enough to
  be exact to rounding for every T that the teleport can choose; no solve is left in a step.
- The data's inverse is computed once a trajectory. A step's loss and the next step's gradient share a forward pass.
"""

from functools import partial
from math import factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.jax_inner import Tree, Weights, advance, part_of, score, to_jax
from metatele import DenseTeleport, DenseUpdate, InnerOptimizer, UnrollSettings
from metatele.task.batch import MetaBatch

SLOPE = 0.1  # of the network's LeakyReLU
EPS = 1e-30  # under the root of a norm
PREFIXES = ("update.rule.core.", "teleport.rule.core.")
Memory = tuple[tuple[Array, Array], ...]  # (h, c) of each cell


class Params(NamedTuple):
    """The networks' weights, [B, h, d] and [B, o, h]."""

    w_in: Array
    w_out: Array


class Data(NamedTuple):
    """Initial weights, and the data transposed, one column per row, [B, d, n] and [B, o, n]."""

    params: Params
    x: Array
    y: Array


class Carry(NamedTuple):
    """What a step hands to the next; the gradient is that at the parameters."""

    params: Params
    gradient: Params
    memories: tuple[Memory, Memory]


class State(NamedTuple):
    """What a window hands to the next; inverse is that of x."""

    carry: Carry
    initial: Array
    inverse: Array


class Dense:
    """See `InnerLoop`. All tasks are stacked, so that every product with an LSTM's weights is one of matrices.

    Args:
        inner: DenseUpdate and DenseTeleport, "after", with normalised inputs and learned sizes.
        batch: tasks of PaperRegression.
        unroll: length of the window, first or second order.
    """

    def __init__(self, inner: InnerOptimizer, batch: MetaBatch, unroll: UnrollSettings) -> None:
        assert isinstance(inner.update, DenseUpdate)
        assert isinstance(inner.teleport, DenseTeleport)
        self.unroll, self.scale, self.norm = unroll, inner.update.scale, inner.teleport.norm
        self.sizes = [(part.layers, part.hidden) for part in (inner.update, inner.teleport)]
        w_in, w_out = batch.params.values()
        x, y = (to_jax(t.mT.contiguous()) for t in batch.rows("inner"))
        self.data = Data(Params(to_jax(w_in), to_jax(w_out)), x, y)

    def start(self, data: Data) -> State:
        losses, gradient = _losses_and_gradient(data.params, data)
        shape, dtype = (len(data.x),), data.x.dtype
        update, teleport = (
            tuple((jnp.zeros((*shape, hidden), dtype), jnp.zeros((*shape, hidden), dtype)) for _ in range(layers))
            for layers, hidden in self.sizes
        )
        return State(Carry(data.params, gradient, (update, teleport)), losses, jnp.linalg.inv(data.x))

    def window(self, weights: Weights, data: Data, state: State, first: Array) -> tuple[Weights, Array, State]:
        parts = [part_of(weights, prefix) for prefix in PREFIXES]

        def play(taps: Tree) -> tuple[Array, Tree]:
            step = partial(self._step, parts, data, state.inverse)
            end, (losses, seen) = lax.scan(step, state.carry, taps)
            return score(losses, state.initial), (losses, seen, end)

        rows = (self.unroll.window, len(data.x))
        taps = [_map_biases(lambda bias: jnp.zeros((*rows, len(bias)), bias.dtype), part) for part in parts]
        slopes, (losses, seen, end) = jax.grad(play, has_aux=True)(taps)
        gradient: Weights = {}
        for prefix, slope, inputs in zip(PREFIXES, slopes, seen, strict=True):
            gradient |= {prefix + name: g for name, g in _weight_gradients(slope, inputs).items()}
        return gradient, losses, State(end, state.initial, state.inverse)

    def _step(
        self, parts: list[Weights], data: Data, inverse: Array, carry: Carry, taps: list[list[Array]]
    ) -> tuple[Carry, Tree]:
        """One step of all tasks: the update, then the teleport by the T chosen where the step began."""
        gradient = carry.gradient if self.unroll.second_order else lax.stop_gradient(carry.gradient)
        features = _features(gradient)
        (f, update, saw), (t, teleport, saw_too) = (
            _lstm(*one, features) for one in zip(parts, carry.memories, taps, strict=True)
        )
        w_in, w_out = carry.params
        cut = w_in[0].size
        w_in = w_in + self.scale * f[:, :cut].reshape(w_in.shape)
        w_out = w_out + self.scale * f[:, cut:].reshape(w_out.shape)
        g, back = _exp_and_inverse(self._algebra(t, w_in.shape[1]), self.norm)
        hidden = g @ jax.nn.leaky_relu(w_in @ data.x, SLOPE)
        params = Params(jax.nn.leaky_relu(hidden, 1 / SLOPE) @ inverse, w_out @ back)
        losses, gradient = _losses_and_gradient(params, data)
        return Carry(params, gradient, (update, teleport)), (losses, (saw, saw_too))

    def _algebra(self, flat: Array, width: int) -> Array:
        """The Lie algebra elements [B, h, h]: T / |T| * norm * tanh(|T| / norm)."""
        size = _norm(flat)
        return (flat * (self.norm * jnp.tanh(size / self.norm) / size)).reshape(-1, width, width)


def _losses_and_gradient(params: Params, data: Data) -> tuple[Array, Params]:
    """Losses [B] and their gradients."""

    def total(p: Params) -> tuple[Array, Array]:
        error = p.w_out @ jax.nn.leaky_relu(p.w_in @ data.x, SLOPE) - data.y
        losses = 0.5 * jnp.sum(jnp.square(error), (1, 2))
        return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(params)
    return losses, gradient


def _norm(rows: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(rows), 1, keepdims=True) + EPS)


def _features(gradient: Params) -> Array:
    """The gradient's direction, and the logarithm of its norm, [B, n + 1]."""
    flat = jnp.concatenate([g.reshape(len(g), -1) for g in gradient], 1)
    norm = _norm(flat)
    return jnp.concatenate([flat / norm * flat.shape[1] ** 0.5, jnp.log(norm) / 5], 1)


def _map_biases(fn: Tree, part: Weights) -> list[Array]:
    """fn of one bias of each cell and of the head's: each has the shape of the outputs that a tap is added to."""
    cells = sum(name.endswith("bias_ih") for name in part)
    return [fn(part[f"cells.{i}.bias_ih"]) for i in range(cells)] + [fn(part["head.bias"])]


def _lstm(part: Weights, memory: Memory, taps: list[Array], x: Array) -> tuple[Array, Memory, list[tuple[Array, ...]]]:
    """Outputs, the next memory, and the inputs of each product, the taps being added to its outputs."""
    after, seen = [], []
    for i, (h, c) in enumerate(memory):
        w_x, w_h, b_x, b_h = (part[f"cells.{i}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        seen.append((x, h))
        x, c = advance(x @ w_x.T + h @ w_h.T + (b_x + b_h) + taps[i], c, 1)
        after.append((x, c))
    return x @ part["head.weight"].T + part["head.bias"] + taps[-1], tuple(after), [*seen, (x,)]


def _weight_gradients(slopes: list[Array], seen: list[tuple[Array, ...]]) -> Weights:
    """The gradients of an LSTM's weights from those of its taps and the inputs of its products, [K, B, ...]."""
    out: Weights = {}
    for i, (slope, inputs) in enumerate(zip(slopes, seen, strict=True)):
        rows = slope.reshape(-1, slope.shape[-1])
        kinds, prefix = (("_ih", "_hh"), f"cells.{i}.") if len(inputs) == 2 else (("",), "head.")
        for kind, x in zip(kinds, inputs, strict=True):
            out[f"{prefix}weight{kind}"] = rows.T @ x.reshape(-1, x.shape[-1])
            out[f"{prefix}bias{kind}"] = rows.sum(0)
    return out


def _exp_and_inverse(t: Array, norm: float) -> tuple[Array, Array]:
    """exp(T) and exp(-T), exact to rounding for |T| <= norm: cosh(T) +- sinh(T), each a polynomial in T^2."""
    last, rounding = 1, float(jnp.finfo(t.dtype).eps) / 4
    while norm ** (2 * last + 2) / factorial(2 * last + 2) > rounding:
        last += 1
    one, square = jnp.eye(t.shape[-1], dtype=t.dtype), t @ t
    # Horner's rule; its first product is by a multiple of the identity.
    even, odd = square / factorial(2 * last), square / factorial(2 * last + 1)
    for k in reversed(range(1, last)):
        even, odd = square @ (even + one / factorial(2 * k)), square @ (odd + one / factorial(2 * k + 1))
    even, odd = even + one, t @ (odd + one)
    return even + odd, even - odd
