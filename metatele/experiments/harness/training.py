"""Training B networks side by side with one inner optimizer, without meta-gradients."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import vmap

from metatele.landscape import Landscape, LossFunction
from metatele.optimizer import InnerOptimizer
from metatele.parts.point import Point
from metatele.support.seeding import generator, seeded
from metatele.task.params import Params, map_params, task_norm
from metatele.task.stack import stacked_forward

Rows = tuple[Tensor, Tensor]  # inputs [B, n, ...] and targets [B, n, ...]
ROWS_AT_A_TIME = 50_000  # rows scored at a time, over all networks


@dataclass(frozen=True)
class Problem:
    """What B networks are trained on.

    Attributes:
        network: the network for one task.
        loss_function: (predictions, targets) of one task -> scalar.
        train: the rows to train on; expanded views where all networks share them.
        validation: unseen rows, or None.
        batch_size: rows in a minibatch, or None for all rows at every step.
    """

    network: nn.Module
    loss_function: LossFunction
    train: Rows
    validation: Rows | None = None
    batch_size: int | None = None

    @property
    def epoch(self) -> int:
        """Steps in an epoch; the rows left over are dropped."""
        return 1 if self.batch_size is None else max(1, self.train[0].shape[1] // self.batch_size)

    @property
    def landscape(self) -> Landscape:
        """The losses on all training rows."""
        return Landscape(self.network, self.loss_function, *self.train)

    def select(self, tasks: Tensor | slice) -> "Problem":
        """The problem of some of the networks."""
        validation = None if self.validation is None else (self.validation[0][tasks], self.validation[1][tasks])
        return replace(self, train=(self.train[0][tasks], self.train[1][tasks]), validation=validation)


@dataclass(frozen=True)
class Curves:
    """One training run of B networks, recorded at regular steps, including the start and the end.

    Attributes:
        step: at which steps, [K].
        train: loss on all training rows, [K, B].
        validation: loss on the validation rows, [K, B], or None.
        accuracy: share of validation rows whose largest output is the target, [K, B], or None.
        gradient_norm: norm of the gradient of the training loss over all rows, [K, B].
        seconds: time of training until then, all networks together, scoring not counted, [K].
        params: the parameters at the end, {name: [B, ...]}.
    """

    step: Tensor
    train: Tensor
    validation: Tensor | None
    accuracy: Tensor | None
    gradient_norm: Tensor
    seconds: Tensor
    params: Params


def initial_params(network: nn.Module, seeds: list[int]) -> Params:
    """Fresh initial parameters of a network, one draw a seed, {name: [B, ...]}.

    All layers that have a `reset_parameters` draw anew.
    """
    draws = []
    for seed in seeds:
        with seeded(seed):
            for module in network.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        draws.append({k: p.detach().clone() for k, p in network.named_parameters()})
    return {k: torch.stack([d[k] for d in draws]) for k in draws[0]}


def minibatches(problem: Problem, seeds: list[int], steps: int) -> Tensor | None:
    """Rows for each step, [steps, B, batch_size], epoch by epoch without replacement; None for all rows."""
    size, rows = problem.batch_size, problem.train[0].shape[1]
    if size is None:
        return None

    def draw(seed: int) -> Tensor:
        stream = generator("experiment minibatch", seed)
        epochs = [
            torch.randperm(rows, generator=stream)[: problem.epoch * size] for _ in range(-(-steps // problem.epoch))
        ]
        return torch.cat(epochs).reshape(-1, size)[:steps]

    return torch.stack([draw(s) for s in seeds], dim=1)


def train_stack(
    inner: InnerOptimizer,
    problem: Problem,
    params: Params,
    seeds: list[int],
    steps: int,
    record: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Curves:
    """Train B networks for a number of steps.

    Args:
        inner: the inner optimizer; it is bound to the problem's network.
        problem: what to train on.
        params: where to start, {name: [B, ...]}.
        seeds: one for each network: its minibatches and its teleports' random draws. Equal seeds
            give equal minibatches, whatever the optimizer.
        steps, record: number of steps, and the number between two records of the curves.
        clock: what tells the time of `Curves.seconds`; `time.process_time` does not count what other
            processes do on the same cores.
    """
    group = inner.bind(problem.network, params)
    state = inner.start(params, group, torch.tensor(seeds))
    index = minibatches(problem, seeds, steps)
    whole, spent, scores = problem.landscape, 0.0, []
    task = torch.arange(len(seeds)).unsqueeze(1)
    for step in range(steps + 1):
        if step % record == 0 or step == steps:
            scores.append((step, spent, *score(problem, params)))
        if step == steps:
            break
        begin = clock()
        here = whole
        if index is not None:
            rows = index[step].to(whole.inputs.device)
            here = replace(whole, inputs=whole.inputs[task, rows], targets=whole.targets[task, rows])
        point = Point(params, here.gradient(params), here.inputs, step, here, whole, steps)
        with torch.no_grad():
            alive = task_norm(params).isfinite() & task_norm(point.gradient).isfinite()
            params, state = inner.step(point, group, state, alive)
        params = map_params(torch.detach, params)
        spent += clock() - begin
    columns = list(zip(*scores, strict=True))
    validation, accuracy = (None if column[0] is None else torch.stack(column) for column in columns[3:5])
    return Curves(
        step=torch.tensor(columns[0]),
        seconds=torch.tensor(columns[1]),
        train=torch.stack(columns[2]),
        validation=validation,
        accuracy=accuracy,
        gradient_norm=torch.stack(columns[5]),
        params=params,
    )


def score(problem: Problem, params: Params) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Training loss, validation loss, validation accuracy and gradient norm, each [B], over all rows.

    Networks are scored in chunks, so that memory stays bounded.
    """
    networks = len(problem.train[0])
    rows = max(side[0].shape[1] for side in (problem.train, problem.validation) if side is not None)
    size = max(1, ROWS_AT_A_TIME // rows)
    chunks = [slice(i, i + size) for i in range(0, networks, size)]
    parts = [_score(problem.select(chunk), map_params(lambda p, c=chunk: p[c], params)) for chunk in chunks]
    train_loss, validation, accuracy, norm = zip(*parts, strict=True)
    return torch.cat(train_loss), _cat(validation), _cat(accuracy), torch.cat(norm)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _score(problem: Problem, params: Params) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """`score` for networks that fit into memory together."""
    gradient = problem.landscape.gradient(params)
    with torch.no_grad():
        train_loss = problem.landscape.loss(params)
        if problem.validation is None:
            return train_loss, None, None, task_norm(gradient)
        x, y = problem.validation
        predictions = stacked_forward(problem.network, params, x)
        validation = vmap(problem.loss_function)(predictions, y)
        accuracy = None
        if not y.is_floating_point():
            accuracy = (predictions.argmax(-1) == y).float().mean(1)
    return train_loss, validation, accuracy, task_norm(gradient)
