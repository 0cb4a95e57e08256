"""The same meta-training in JAX, as an expert would write it for a CPU.

One compiled function is a whole iteration: a scan over windows, each with its meta-update, around a scan over
steps; learned weights and Adam's moments are donated from call to call. What else makes it fast is told in `jax_dense`,
`jax_size_free` and `jax_tensor`. Measured and left out, as no faster beyond the noise: one call for each window, the
inner scan unrolled, wider vectors (prefer_vector_width), oneDNN, XNNPACK. Fast-math gave about 5% or less; it is left
out because it lets the compiler assume that no number is NaN.

It computes what `MetaTrainer` does, but needs no care for tasks that diverge, since none does in these workloads,
and takes the minibatches' row numbers ready-made. Losses and gradients agree to rounding; float32 trajectories
drift apart from there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.jax_dense import Dense
from benchmarks.jax_inner import InnerLoop, Tree, Weights, to_jax
from benchmarks.jax_size_free import SizeFree
from benchmarks.jax_tensor import PerTensor
from benchmarks.workloads import Workload
from metatele import (
    CoordinateUpdate,
    DenseUpdate,
    InnerOptimizer,
    MetaSettings,
    TensorUpdate,
    UnrollSettings,
    Update,
)
from metatele.task.batch import MetaBatch

BETAS, EPS = (0.9, 0.999), 1e-8


class Learner(NamedTuple):
    """What an iteration hands to the next: the learned weights, Adam's moments, the updates done."""

    weights: Weights
    mean: Weights
    square: Weights
    updates: Array


@dataclass
class Contestant:
    """One iteration of meta-training a call, on the same tasks each time, blocking until it is done.

    Attributes:
        run: the compiled iteration: (learner, data) to the next learner and the meta-losses.
        learner: where meta-training stands.
        data: the meta-batch.
        compile_seconds: what compiling took.
        losses: the meta-losses of the last iteration, [steps, B].
    """

    run: Callable[[Learner, Tree], tuple[Learner, Array]]
    learner: Learner
    data: Tree
    compile_seconds: float
    losses: Array | None = field(default=None, init=False)

    def __call__(self) -> None:
        self.learner, self.losses = jax.block_until_ready(self.run(self.learner, self.data))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The learned weights, by their names in torch."""
        return {name: np.asarray(w) for name, w in self.learner.weights.items()}


def prepare(workload: Workload, tasks: int) -> Contestant:
    """The contestant for a workload and a size of meta-batch, in float32, compiled."""
    return compile_for(*workload.problem(tasks), workload.unroll, workload.meta(tasks))


def compile_for(inner: InnerOptimizer, batch: MetaBatch, unroll: UnrollSettings, meta: MetaSettings) -> Contestant:
    """The contestant for an inner optimizer and a meta-batch, in their precision (float64 needs JAX's x64 mode)."""
    loop = inner_loop(inner, batch, unroll)
    weights = learned_weights(inner)
    mean, square = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
    learner = Learner(weights, mean, square, jnp.zeros((), next(iter(weights.values())).dtype))
    begin = time.perf_counter()
    run = jax.jit(_iteration(loop, unroll, meta), donate_argnums=0).lower(learner, loop.data).compile()
    return Contestant(run, learner, loop.data, time.perf_counter() - begin)


def inner_loop(inner: InnerOptimizer, batch: MetaBatch, unroll: UnrollSettings) -> InnerLoop:
    """The inner loop that plays what an inner optimizer does on a meta-batch."""
    kinds: dict[type[Update], Callable[..., InnerLoop]]
    kinds = {DenseUpdate: Dense, CoordinateUpdate: SizeFree, TensorUpdate: PerTensor}
    return kinds[type(inner.update)](inner, batch, unroll)


def learned_weights(inner: InnerOptimizer) -> Weights:
    """Copies of an inner optimizer's weights."""
    return {name: to_jax(p) for name, p in inner.named_parameters()}


def _iteration(
    loop: InnerLoop, unroll: UnrollSettings, meta: MetaSettings
) -> Callable[[Learner, Tree], tuple[Learner, Array]]:
    """One trajectory with a meta-update after every window, to be compiled."""
    if unroll.longest % unroll.window:
        raise ValueError(
            f"a trajectory must be whole windows, got {unroll.longest} steps in windows of {unroll.window}"
        )

    def iteration(learner: Learner, data: Tree) -> tuple[Learner, Array]:
        def window(carry: tuple[Learner, Tree], first: Array) -> tuple[tuple[Learner, Tree], Array]:
            learner, state = carry
            gradient, losses, state = loop.window(learner.weights, data, state, first)
            return (_meta_update(learner, gradient, meta), state), losses

        firsts = jnp.arange(0, unroll.longest, unroll.window)
        (learner, _), losses = lax.scan(window, (learner, loop.start(data)), firsts)
        return learner, losses.reshape(unroll.longest, -1)

    return iteration


def _meta_update(learner: Learner, gradient: Weights, meta: MetaSettings) -> Learner:
    """A step of Adam with the gradient clipped by its global norm, by torch's formulas."""
    assert meta.clip is not None
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradient.values()))
    clip = jnp.minimum(meta.clip / (norm + 1e-6), 1)
    (b1, b2), updates = BETAS, learner.updates + 1
    mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * clip * g, learner.mean, gradient)
    square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(clip * g), learner.square, gradient)
    rate, correction = meta.lr / (1 - b1**updates), jnp.sqrt(1 - b2**updates)

    def step(w: Array, m: Array, v: Array) -> Array:
        return w - rate * m / (jnp.sqrt(v) / correction + EPS)

    return Learner(jax.tree.map(step, learner.weights, mean, square), mean, square, updates)
