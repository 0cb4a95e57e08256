"""The tensor workload's inner loop in JAX: one LSTM for all parameter tensors, on digits.

What makes it fast, each against plain autodiff of a scan over steps with all tasks stacked:

- The tasks of a window are played a few at a time (a scan that adds up their meta-gradients), so that what is made of
  their coordinates stays in the cache.
- A task's parameters, moments and gradient are flat vectors; the directions are the rows of one matrix. They are
  rematerialised: making them again costs less than writing them for every step.
- The gradient of the directions' inner products is one product for each tensor, not two.
- Nothing teleports, so that the last step is kept as it is, not as a covector.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks import tensor_numbers as numbers
from benchmarks.jax_inner import Tree, Weights, advance, part_of, score, to_jax
from benchmarks.jax_minibatches import Rows, cross_entropy, minibatches_of, rows_of, take
from benchmarks.tensor_numbers import GRADIENT, LAST, MANY, PARAMS, Clock, Shapes
from metatele import InnerOptimizer, TensorUpdate, UnrollSettings
from metatele.task.batch import MetaBatch
from metatele.task.family import Part

TOGETHER = 4  # tasks that are played at the same time
ROWS, COLUMNS = np.triu_indices(MANY, 1)
ADAM = np.eye(PARAMS)[0]  # the weights of the directions before learning

Course = tuple[Array, Array, Array]


class Tasks(NamedTuple):
    """What belongs to the tasks; every array begins with B.

    Attributes:
        begin: root mean square of each tensor where the state began, [B, T].
    """

    params: Array
    begin: Array
    rows: dict[Part, Rows]
    minibatches: dict[Part, Array]  # the row numbers that each step uses, [B, steps, rows]


class Data(NamedTuple):
    """A meta-batch, and what depends on the step."""

    tasks: Tasks
    clock: Clock


class Moments(NamedTuple):
    """Means of gradients and of their squares, not corrected for their zero start, [n]."""

    fast: Array
    slow: Array
    long: Array
    short: Array


class Carry(NamedTuple):
    """What a step hands to the next.

    Attributes:
        params, last: parameters, and the step that led to them, [n].
        first: log size of the gradient at the first step, [T].
        slopes: along the last step where it was taken, [T].
        course: the first loss; means of the loss's logarithm, of two spans.
        h, c: of the LSTM, [T, hidden].
    """

    params: Array
    last: Array
    moments: Moments
    first: Array
    slopes: Array
    course: Course
    h: Array
    c: Array


class State(NamedTuple):
    """What a window hands to the next; every array begins with B."""

    carry: Carry
    initial: Array


class Units(NamedTuple):
    """What the directions are measured in, [T, MANY] and [T]; logarithms of sizes, [T]."""

    scale: Array
    step: Array
    power: Array
    growth: Array


class PerTensor:
    """See `InnerLoop`. The methods with an underscore are for one task.

    Args:
        inner: TensorUpdate with its default settings, but for `hidden` and `lr`; no teleport.
        batch: classification tasks with minibatches, for a ReLU network.
        unroll: lengths of the trajectory and the window, first or second order.
    """

    def __init__(self, inner: InnerOptimizer, batch: MetaBatch, unroll: UnrollSettings) -> None:
        assert isinstance(inner.update, TensorUpdate)
        self.unroll, self.hidden, self.lr = unroll, inner.update.hidden, inner.update.lr
        self.shapes = [p.shape[1:] for p in batch.params.values()]
        self.cuts = np.cumsum([shape.numel() for shape in self.shapes])[:-1].tolist()
        params = jnp.concatenate([to_jax(p.flatten(1)) for p in batch.params.values()], 1)
        as_jax = partial(jnp.asarray, dtype=params.dtype)
        self.about: Shapes = jax.tree.map(as_jax, numbers.shape_numbers(self.shapes))
        squares = jax.vmap(self._sums)(jnp.square(params)) / self.about.counts
        rms = jnp.sqrt(squares + numbers.LEAST_SQUARE)
        begin = jnp.where(squares > numbers.LEAST_SQUARE, rms, self.about.begin)
        rows, steps = rows_of(batch, self.shapes[-1].numel()), unroll.longest
        drawn = minibatches_of(batch, steps)
        amounts = drawn["inner"].shape[2], rows["inner"][0].shape[1], params.shape[1], len(batch.own_parts) > 1
        clock = jax.tree.map(as_jax, numbers.clock(steps, *amounts))
        self.data = Data(Tasks(params, begin, rows, drawn), clock)

    def start(self, data: Data) -> State:
        tasks = data.tasks
        none, zeros = jnp.zeros_like(tasks.begin), jnp.zeros_like(tasks.params)
        blank = jnp.zeros((*none.shape, self.hidden), none.dtype)
        initial = jax.vmap(self._loss)(tasks.params, tasks.rows["inner"])
        course = (jnp.zeros_like(initial),) * 3
        return State(Carry(tasks.params, zeros, Moments(*[zeros] * 4), none, none, course, blank, blank), initial)

    def window(self, weights: Weights, data: Data, state: State, first: Array) -> tuple[Weights, Array, State]:
        tasks, length, many = data.tasks, self.unroll.window, len(data.tasks.params)
        clock = jax.tree.map(lambda c: lax.dynamic_slice_in_dim(c, first, length), data.clock)
        drawn = {k: lax.dynamic_slice_in_dim(i, first, length, 1) for k, i in tasks.minibatches.items()}

        def play(part: Weights, task: Tree) -> tuple[Array, Tree]:
            rows, index, size, begin = task
            end, losses = lax.scan(partial(self._step, part, rows, size), begin.carry, (index, clock))
            return score(losses, begin.initial), (losses, State(end, begin.initial))

        def total(weights: Weights, block: Tree) -> tuple[Array, Tree]:
            scores, seen = jax.vmap(play, (None, 0))(part_of(weights, "update.core."), block)
            return scores.sum() / many, seen

        def add(sums: Weights, block: Tree) -> tuple[Weights, Tree]:
            gradient, seen = jax.grad(total, has_aux=True)(weights, block)
            return jax.tree.map(jnp.add, sums, gradient), seen

        together = max(k for k in range(1, TOGETHER + 1) if many % k == 0)
        everything = tasks.rows, drawn, tasks.begin, state
        blocks = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), everything)
        gradient, seen = lax.scan(add, jax.tree.map(jnp.zeros_like, weights), blocks)
        losses, end = jax.tree.map(lambda x: x.reshape(many, *x.shape[2:]), seen)
        return gradient, losses.T, end

    def _step(
        self, part: Weights, rows: dict[Part, Rows], begin: Array, carry: Carry, now: tuple[dict[Part, Array], Clock]
    ) -> tuple[Carry, Array]:
        """One step, and the loss after it."""
        index, clock = now
        here = jax.value_and_grad(self._loss)(carry.params, take(rows["inner"], index["inner"]))
        loss, gradient = here if self.unroll.second_order else lax.stop_gradient(here)
        moments = _moved(carry.moments, gradient)
        directions = self._split(_directions(moments, gradient, carry))  # T times [MANY, entries]
        products = jnp.stack([_products(x) for x in directions])
        units = self._units(products, self._sums(moments.short), begin, clock)
        begins = clock.time == 0
        first = jnp.where(begins, units.power, carry.first)
        course, went = _course(carry.course, loss, begins)
        features = self._features(products, units, (units.power - first) / 3, carry.slopes, clock, went)
        out, h, c = _lstm(part, features, carry.h, carry.c)
        out, differs = jnp.split(out, 2, 1)
        mix = self._mix(out + clock.progress[-1] * differs, units)
        step = jnp.concatenate([w @ x[:LAST] for w, x in zip(mix, directions, strict=True)])
        slopes = jnp.sum(products[:, GRADIENT, :LAST] * mix, 1)
        params = carry.params + step
        loss = self._loss(params, take(rows["meta"], index["meta"]))
        return Carry(params, step, moments, first, slopes, course, h, c), loss

    def _split(self, flat: Array) -> list[Array]:
        """What belongs to each tensor, from [..., n]."""
        return jnp.split(flat, self.cuts, -1)

    def _sums(self, flat: Array) -> Array:
        """The sum of each tensor's entries, [T]."""
        return jnp.stack([x.sum() for x in self._split(flat)])

    def _loss(self, flat: Array, rows: Rows) -> Array:
        """Cross-entropy of a ReLU network."""
        x, targets = rows
        tensors = [p.reshape(shape) for p, shape in zip(self._split(flat), self.shapes, strict=True)]
        for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
            x = jax.nn.relu(x @ weight.T + bias)
        return cross_entropy(x @ tensors[-2].T + tensors[-1], targets)

    def _units(self, products: Array, squares: Array, begin: Array, clock: Clock) -> Units:
        """squares: the sum of each tensor's short second moment, [T]."""
        about = self.about
        power = jnp.sqrt(squares / (clock.short * about.counts) + numbers.LEAST_SQUARE)
        square = products[:, PARAMS, PARAMS] / about.counts
        unit = jnp.sqrt(square + jnp.square(numbers.FLOOR * begin))
        step = self.lr * about.step * unit
        one = jnp.ones_like(unit)
        divisors = jnp.stack([one, one, one, one, power, power, unit, step], 1)
        growth = jnp.log(square / jnp.square(begin) + numbers.FLOOR**2) / 2
        return Units(clock.factors / divisors, step, jnp.log(power), growth)

    def _features(
        self, products: Array, units: Units, change: Array, before: Array, clock: Clock, went: Array
    ) -> Array:
        """What the LSTM sees, [T, inputs].

        Args:
            change: how the gradient's size has changed, [T].
            before: the slopes along the last step where it was taken, [T].
            went: how the loss has gone, [3].
        """
        about, after = self.about, products[:, GRADIENT, LAST]
        scale = units.scale / jnp.sqrt(about.counts)[:, None]
        gram = products * scale[:, :, None] * scale[:, None]
        size = jnp.sqrt(jnp.diagonal(gram, axis1=1, axis2=2) + numbers.LEAST_SIZE)
        cosines = (gram / (size[:, :, None] * size[:, None]))[:, ROWS, COLUMNS]
        square = products[:, PARAMS, PARAMS] / about.counts
        absolute = jnp.log(square * about.fan_in + numbers.FLOOR**4) / 6
        columns = jnp.stack([change, units.growth, absolute, *_secant(after, before)], 1)
        own = jnp.concatenate([cosines, jnp.log(size) / 2, columns, about.features], 1)
        secant = jnp.stack(_secant(after.sum(), before.sum()))
        mean = jnp.concatenate([own.mean(0), clock.time[None], clock.progress, secant, went])
        return jnp.concatenate([own, jnp.broadcast_to(mean, (len(own), len(mean)))], 1)

    def _mix(self, out: Array, units: Units) -> Array:
        """The weights of the directions in the step, [T, LAST], from the LSTM's outputs."""
        chosen, relative, absolute, log_size = jnp.split(out, [PARAMS, PARAMS + 1, PARAMS + 2], 1)
        size = -units.step[:, None] * jnp.exp(5 * jnp.tanh(log_size / 2.5))
        pull = 2 * (jnp.tanh(relative) * units.scale[:, PARAMS : PARAMS + 1] + jnp.tanh(absolute))
        return size * jnp.concatenate([(ADAM + 2 * jnp.tanh(chosen)) * units.scale[:, :PARAMS], pull], 1)


def _moved(moments: Moments, gradient: Array) -> Moments:
    """The moments after a gradient."""
    seen = [gradient, gradient, jnp.square(gradient), jnp.square(gradient)]
    betas = *numbers.MOMENTA, *numbers.SQUARES
    return Moments(*(b * m + (1 - b) * x for b, m, x in zip(betas, moments, seen, strict=True)))


@jax.checkpoint
def _directions(moments: Moments, gradient: Array, carry: Carry) -> Array:
    """The directions, [MANY, n]."""
    fast, slow, long, short = moments
    over, lately = (lax.rsqrt(square + numbers.LEAST_SQUARE) for square in (long, short))
    rows = [fast * over, fast * lately, gradient * lately, slow * over, fast, gradient, carry.params, carry.last]
    return jnp.stack(rows)


@jax.custom_vjp
def _products(rows: Array) -> Array:
    """The inner products of rows, [MANY, MANY]."""
    return rows @ rows.T


def _products_forward(rows: Array) -> tuple[Array, Array]:
    return _products(rows), rows


def _products_backward(rows: Array, slopes: Array) -> tuple[Array]:
    return ((slopes + slopes.T) @ rows,)


_products.defvjp(_products_forward, _products_backward)


def _course(course: Course, loss: Array, begins: Array) -> tuple[Course, Array]:
    """The course with a loss, and what it shows: where the loss stands, how it has fallen, how the last one differs."""
    first, fast, slow = course
    first = jnp.where(begins, loss, first)
    size = jnp.where(jnp.abs(first) > numbers.SOLVED, jnp.abs(first), 1)
    relative = loss / size + (1 - first / size)
    now = jnp.log(jnp.clip(relative, 0, numbers.MOST_LOSS) + numbers.LEAST_LOSS)
    fast, slow = (b * mean + (1 - b) * now for b, mean in ((numbers.FAST, fast), (numbers.SLOW, slow)))
    return (first, fast, slow), jnp.stack([fast / 4, jnp.tanh(fast - slow), jnp.tanh(now - fast)])


def _secant(after: Array, before: Array) -> list[Array]:
    """How the slopes along a step changed, as a point on the circle."""
    size = jnp.sqrt(jnp.square(after) + jnp.square(before) + numbers.LEAST_SLOPE)
    return [-after / size, -before / size]


def _lstm(part: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    """Outputs [T, outputs] and the next h and c."""
    w_x, w_h, b_x, b_h = (part[f"cells.0.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, c = advance(x @ w_x.T + h @ w_h.T + (b_x + b_h), c, 1)
    return h @ part["head.weight"].T + part["head.bias"], h, c
