"""The reference: the same meta-training one task at a time, in plain torch, as published code does it.

A network's parameters are plain tensors of one task; each inner step calls `torch.autograd.grad`; the losses of a
window are summed and differentiated task by task, and one step of Adam follows. Nothing of metatele is used but the
workload's numbers, so that at equal tasks the learned weights come out equal to rounding.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, leaky_relu

from benchmarks.plain_tensor import TensorTrajectory
from benchmarks.plain_trajectory import Memory, Rule, Trajectory, minibatches
from benchmarks.variants import lstm_weights
from benchmarks.workloads import Workload
from metatele.task.batch import MetaBatch

TINY = 1e-20  # under roots and logarithms
SLOPE, NORM = 0.1, 0.2  # of the LeakyReLU; bound on the norm of the dense teleport's T
BETAS = (0.9, 0.95)
MOST_TASKS = 8  # of an iteration that is timed


class DenseTrajectory(Trajectory):
    """The paper's LSTM(update,tele) on its regression task: theta <- g . (theta + f)."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        w_in, w_out = self.params
        return 0.5 * (leaky_relu(x @ w_in.T, SLOPE) @ w_out.T - y).square().sum()

    def start(self) -> list[Memory]:
        return [rule.start(1, self.x) for rule in self.rules]

    def window(self, length: int) -> Tensor:
        self.here: Tensor | None = None
        return super().window(length)

    def step(self) -> Tensor:
        # What scores a step is what the next one descends.
        here = self.loss(self.x, self.y) if self.here is None else self.here
        gradient = torch.autograd.grad(here, self.params, create_graph=self.second, retain_graph=True)
        features = self._features(torch.cat([g.flatten() for g in gradient]))
        f, self.memories[0] = self.rules[0](features, self.memories[0])
        algebra, self.memories[1] = self.rules[1](features, self.memories[1])
        w_in, w_out = (
            p + 0.1 * part.view_as(p) for p, part in zip(self.params, f[0].split(self._sizes()), strict=True)
        )
        norm = (algebra.square().sum() + 1e-30).sqrt()
        t = algebra.view(len(w_in), len(w_in)) * (NORM * (norm / NORM).tanh() / norm)
        self.params = self._act(torch.linalg.matrix_exp(t), w_in, w_out)
        self.here = self.loss(self.x, self.y)
        return self.here

    def _sizes(self) -> list[int]:
        return [p.numel() for p in self.params]

    def _features(self, flat: Tensor) -> Tensor:
        norm = (flat.square().sum() + 1e-30).sqrt()
        return torch.cat([flat / norm * math.sqrt(len(flat)), norm.log().view(1) / 5]).unsqueeze(0)

    def _act(self, g: Tensor, w_in: Tensor, w_out: Tensor) -> list[Tensor]:
        """W_in <- sigma^-1(g sigma(W_in X)) X^-1 and W_out <- W_out g^-1, X with data as columns."""
        moved = leaky_relu(g @ leaky_relu(w_in @ self.x.T, SLOPE), 1 / SLOPE)
        return [torch.linalg.solve(self.x.T, moved, left=False), torch.linalg.solve(g, w_out, left=False)]


class SizeFreeTrajectory(Trajectory):
    """An LSTM shared by all coordinates, and one shared by all neurons, on an MLP: theta <- g . theta + f."""

    def __init__(self, batch: MetaBatch, task: int, rules: Sequence[Rule], steps: int, second: bool) -> None:
        super().__init__(batch, task, rules, steps, second)
        self.meta = batch.inputs["meta"][task], batch.targets["meta"][task]
        self.mean = self.square = [torch.zeros_like(p) for p in self.params]
        self.rows = [minibatches(batch, part, steps + 1, task) for part in ("inner", "meta")]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        w_in, b_in, w_out, b_out = self.params
        return cross_entropy((x @ w_in.T + b_in).relu() @ w_out.T + b_out, y)

    def start(self) -> list[Memory]:
        coordinates = sum(p.numel() for p in self.params)
        both = zip(self.rules, (coordinates, len(self.params[0])), strict=True)
        return [rule.start(rows, self.x) for rule, rows in both]

    def window(self, length: int) -> Tensor:
        self.mean, self.square = ([m.detach() for m in moment] for moment in (self.mean, self.square))
        return super().window(length)

    def step(self) -> Tensor:
        inner, meta = (rows[self.taken + k] for k, rows in enumerate(self.rows))
        here = self.loss(self.x[inner], self.y[inner])
        gradient = list(torch.autograd.grad(here, self.params, create_graph=self.second))
        gradient = self._move(gradient)
        self.params = [p + f for p, f in zip(self.params, self._propose(gradient), strict=True)]
        return self.loss(self.meta[0][meta], self.meta[1][meta])

    def _move(self, gradient: list[Tensor]) -> list[Tensor]:
        """Scale the neurons; the gradient where they are then, the moments carried along likewise."""
        out, self.memories[1] = self.rules[1](self._neuron_features(gradient), self.memories[1])
        g = out.squeeze(1).tanh().exp()
        self.params = _scaled(self.params, g)
        self.mean, self.square = _scaled(self.mean, 1 / g), _scaled(self.square, 1 / g.square())
        return _scaled(gradient, 1 / g)

    def _neuron_features(self, gradient: list[Tensor]) -> Tensor:
        (w_in, b_in), (dw_in, db_in) = self.params[:2], gradient[:2]
        (p_in, p_out), (g_in, g_out) = _norms(self.params), _norms(gradient)
        activity = (g_in * g_out).log() / 2
        columns = [
            (p_in / p_out).log() / 2,
            (p_in * p_out).log() / 2,
            (g_in / g_out).log() / 2,
            activity - activity.mean(),
            ((w_in * dw_in).sum(1) + b_in * db_in) / (p_in * g_in),
            torch.full_like(p_in, math.log1p(self.taken) / 3),
        ]
        return torch.stack(columns, dim=1)

    def _propose(self, gradient: list[Tensor]) -> list[Tensor]:
        """Adam's direction corrected, and its step sizes chosen, coordinate by coordinate."""
        (b1, b2), step = BETAS, self.taken + 1
        self.mean = [b1 * m + (1 - b1) * g for m, g in zip(self.mean, gradient, strict=True)]
        self.square = [b2 * v + (1 - b2) * g.square() for v, g in zip(self.square, gradient, strict=True)]
        g, mean, square, w = (_flat(t) for t in (gradient, self.mean, self.square, self.params))
        root = (square / (1 - b2**step) + TINY).sqrt()
        direction = mean / (1 - b1**step) / root
        size = (g.square().mean() + TINY).sqrt()
        scale = _flat([(p.square().mean() + TINY).sqrt().expand_as(p) for p in self.params])
        columns = [
            direction,
            g / root,
            (root / size).log() / 3,
            (size.log() / 5).expand_as(g),
            w / scale,
            torch.full_like(g, math.log1p(self.taken) / 3),
        ]
        out, self.memories[0] = self.rules[0](torch.stack(columns, dim=1), self.memories[0])
        f = -0.01 * (3 * out[:, 1].tanh()).exp() * (direction + 3 * out[:, 0])
        return [part.view_as(p) for part, p in zip(f.split([p.numel() for p in self.params]), self.params, strict=True)]


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _scaled(tensors: list[Tensor], g: Tensor) -> list[Tensor]:
    w_in, b_in, w_out, b_out = tensors
    return [g.unsqueeze(1) * w_in, g * b_in, w_out / g, b_out]


def _norms(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Norms of each neuron's incoming weights, with its bias, and of its outgoing ones."""
    w_in, b_in, w_out, _ = tensors
    return (w_in.square().sum(1) + b_in.square() + TINY).sqrt(), (w_out.square().sum(0) + TINY).sqrt()


KINDS: dict[str, type[Trajectory]] = {
    "dense": DenseTrajectory,
    "size-free": SizeFreeTrajectory,
    "tensor": TensorTrajectory,
}


class PlainTraining:
    """One call is one iteration of meta-training: one trajectory of every task, a meta-update after each window.

    Attributes:
        weights: the learned ones, the update's and then the teleport's, if it has any.
        tasks: of the meta-batch.
    """

    def __init__(self, workload: Workload, tasks: int, dtype: torch.dtype = torch.float32) -> None:
        inner, batch = workload.problem(tasks)
        self.unroll, self.batch, meta = workload.unroll, batch.to(dtype), workload.meta(tasks)
        self.kind = KINDS[workload.name]
        self.rules = [Rule({k: w.to(dtype) for k, w in found.items()}) for found in lstm_weights(inner)]
        self.weights = [w for rule in self.rules for w in rule.parameters()]
        self.adam = torch.optim.Adam(self.weights, lr=meta.lr)
        self.clip, self.tasks = meta.clip or math.inf, tasks

    def __call__(self) -> None:
        steps, window, second = self.unroll.longest, self.unroll.window, self.unroll.second_order
        tasks = [self.kind(self.batch, b, self.rules, steps, second) for b in range(self.batch.tasks)]
        for _ in range(0, steps, window):
            self.adam.zero_grad()
            for task in tasks:
                (task.window(window) / (window * len(tasks))).backward()
            torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
            self.adam.step()


def prepare(workload: Workload, tasks: int) -> PlainTraining:
    """Meta-training of this workload, one task at a time; of a few tasks only, which take equally long each."""
    return PlainTraining(workload, min(tasks, MOST_TASKS))
