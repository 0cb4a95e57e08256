"""Tasks: what a user writes for one task, and the stacked meta-batches made from it."""

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap

from metatele.errors import TaskError
from metatele.params import Params
from metatele.seeding import derive_seed, generator, seeded
from metatele.stack import stacked_forward

Part = Literal["inner", "meta", "test"]
Split = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


class TaskFamily(abc.ABC):
    """A distribution over tasks, written for ONE task and one network.

    Equal generator states must give equal tasks: draw every random number from the generator that
    is passed in. All tasks of a family have data of the same shapes and the same network.

    Attributes:
        parts: the fractions of a task's rows that train the network (inner), that score it during
            meta-training (meta) and that the evaluator reports as unseen data (test). A part with
            fraction 0 uses the inner rows, so (1, 0, 0) is plain optimisation of a training loss.
        batch_size: rows in a minibatch, or None for the full batch at every step.
    """

    parts: tuple[float, float, float] = (1.0, 0.0, 0.0)
    batch_size: int | None = None

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The network to be trained on one task; only its structure is used, not its weights."""

    @abc.abstractmethod
    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one task's data: inputs [n, ...] and targets [n, ...]."""

    @abc.abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The scalar loss of one task's predictions [n, ...] against its targets [n, ...]."""

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Draw initial weights into `network`, in place. Default: each layer's own
        `reset_parameters`, seeded from the generator."""
        with seeded(int(torch.randint(2**62, (), generator=generator))):
            for module in network.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()


@dataclass(frozen=True)
class MetaBatch:
    """B tasks of one family, stacked.

    Attributes:
        family: the family the tasks were drawn from.
        network: the network for one task (its own weights are not used).
        params: initial parameters, {name: [B, ...]}.
        inputs, targets: the rows of each part, {part: [B, n_part, ...]}.
        seeds: one seed per task, [B] int64, for draws that belong to the task.
    """

    family: TaskFamily
    network: nn.Module
    params: Params
    inputs: dict[Part, Tensor]
    targets: dict[Part, Tensor]
    seeds: Tensor

    @property
    def tasks(self) -> int:
        return len(self.seeds)

    @property
    def shares_meta(self) -> bool:
        """Whether the meta part is the inner part itself, seen in full at every step."""
        return self.inputs["meta"] is self.inputs["inner"] and self.family.batch_size is None

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> "MetaBatch":
        """The same tasks with floating-point tensors in `dtype`, all on `device`."""
        moved: dict[int, Tensor] = {}

        def convert(x: Tensor) -> Tensor:
            # One result for one tensor, so that parts that share their rows go on sharing them.
            if id(x) not in moved:
                moved[id(x)] = x.to(device=device, dtype=dtype if x.is_floating_point() else None)
            return moved[id(x)]

        return MetaBatch(
            self.family,
            self.network.to(device=device, dtype=dtype),
            {k: convert(v) for k, v in self.params.items()},
            {k: convert(v) for k, v in self.inputs.items()},
            {k: convert(v) for k, v in self.targets.items()},
            self.seeds,
        )

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The family's loss of each task, [B]."""
        return vmap(self.family.loss)(predictions, targets)

    def minibatches(self, part: Part, steps: int) -> Tensor | None:
        """Row numbers [steps, B, batch_size] for each step, epoch by epoch without replacement, or
        None for the full batch. Depends on each task's own seed only."""
        size, rows = self.family.batch_size, self.inputs[part].shape[1]
        if size is None or size >= rows:
            return None
        each = rows // size  # whole minibatches in an epoch; the rows left over are dropped

        def draw(seed: int) -> Tensor:
            stream = generator("minibatch", part, seed)
            epochs = [torch.randperm(rows, generator=stream)[: each * size] for _ in range(-(-steps // each))]
            return torch.cat(epochs).reshape(-1, size)[:steps]

        return torch.stack([draw(int(s)) for s in self.seeds], dim=1)

    def rows(self, part: Part, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a part, or of its rows index [B, batch_size]."""
        x, y = self.inputs[part], self.targets[part]
        if index is None:
            return x, y
        task = torch.arange(len(index), device=x.device).unsqueeze(1)
        index = index.to(x.device)
        return x[task, index], y[task, index]


def sample_meta_batch(family: TaskFamily, split: Split, indices: Iterable[int], seed: int = 0) -> MetaBatch:
    """Draw the tasks with the given indices of one split.

    Task i of a split depends on (seed, split, i) only, so the splits are disjoint streams and a
    task does not depend on how a meta-batch is put together.

    Raises: TaskError if the family breaks its contract (see `TaskFamily`).
    """
    network = build_network(family)
    draws, weights, seeds = [], [], []
    for i in indices:
        name = f"task {i} of the {split} split"
        task_seed = derive_seed("task", seed, split, i)
        stream = torch.Generator().manual_seed(task_seed)
        with seeded(task_seed):  # a family may build networks, whose constructors draw from the global stream
            draws.append(_sample_checked(family, stream, name))
            family.initialise(network, stream)
        weights.append({k: p.detach().clone() for k, p in network.named_parameters()})
        seeds.append(task_seed)
    if not draws:
        raise TaskError("a meta-batch needs at least one task, got none")
    _check_same_shapes(family, draws)
    cuts = _cuts(family, len(draws[0][0]))
    x, y = (torch.stack(list(side)) for side in zip(*draws, strict=True))
    inputs, targets = ({part: side[:, cut] for part, cut in cuts.items()} for side in (x, y))
    for part in PARTS:  # parts without rows of their own share the inner tensors
        if inputs[part].shape[1] == 0:
            inputs[part], targets[part] = inputs["inner"], targets["inner"]
    params = {k: torch.stack([w[k] for w in weights]) for k in weights[0]}
    batch = MetaBatch(family, network, params, inputs, targets, torch.tensor(seeds, dtype=torch.int64))
    _check_loss(batch)
    return batch


def build_network(family: TaskFamily) -> nn.Module:
    """The family's network, checked to have parameters that can be trained."""
    with seeded(0):  # a network's constructor draws weights; they are replaced, the stream is kept
        network = family.network()
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise TaskError(f"{type(family).__name__}.network() must return an nn.Module with parameters, got {network!r}")
    return network


def _sample_checked(family: TaskFamily, stream: torch.Generator, name: str) -> tuple[Tensor, Tensor]:
    where = f"{type(family).__name__}.sample() of {name}"
    drawn = family.sample(stream)
    if not (isinstance(drawn, tuple) and len(drawn) == 2 and all(isinstance(t, Tensor) for t in drawn)):
        raise TaskError(f"{where} must return two tensors (inputs, targets), got {type(drawn).__name__}")
    x, y = drawn
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or len(x) == 0:
        raise TaskError(
            f"{where}: inputs {tuple(x.shape)} and targets {tuple(y.shape)} must have the same number of "
            "rows (at least 1)"
        )
    for side, t in (("inputs", x), ("targets", y)):
        if t.is_floating_point() and not bool(t.isfinite().all()):
            raise TaskError(f"{where}: {side} hold {int((~t.isfinite()).sum())} values that are NaN or infinite")
    return x.detach(), y.detach()


def _check_same_shapes(family: TaskFamily, draws: list[tuple[Tensor, Tensor]]) -> None:
    shapes = {tuple(tuple(t.shape) for t in pair) for pair in draws}
    if len(shapes) > 1:
        raise TaskError(
            f"{type(family).__name__}.sample() gives different shapes for different tasks: "
            f"{sorted(shapes)[:2]}; all tasks of a family need the same shapes"
        )


def _cuts(family: TaskFamily, rows: int) -> dict[Part, slice]:
    fractions, name = family.parts, type(family).__name__
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise TaskError(f"{name}.parts must be three fractions (inner > 0, meta, test) that sum to 1, got {fractions}")
    if family.batch_size is not None and family.batch_size < 1:
        raise TaskError(f"{name}.batch_size must be at least 1 or None, got {family.batch_size}")
    meta, test = (round(f * rows) for f in fractions[1:])
    inner = rows - meta - test
    if inner < 1:
        raise TaskError(f"{name}: {rows} rows split by {fractions} leave none for the inner part")
    return {"inner": slice(0, inner), "meta": slice(inner, inner + meta), "test": slice(inner + meta, rows)}


def _check_loss(batch: MetaBatch) -> None:
    """The network and the loss must run on the data and give a finite scalar with a gradient."""
    name = type(batch.family).__name__
    x, y = batch.rows("inner")
    first = {k: p[:1].requires_grad_() for k, p in batch.params.items()}
    try:
        loss = batch.losses(stacked_forward(batch.network, first, x[:1]), y[:1])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(
            f"{name}: the network and the loss do not run on inputs {tuple(x.shape[1:])} and targets "
            f"{tuple(y.shape[1:])}: {reason}"
        ) from error
    if loss.shape != (1,):
        raise TaskError(f"{name}.loss() must return a scalar, got shape {tuple(loss.shape[1:])}")
    if not loss.requires_grad:
        raise TaskError(f"{name}.loss() does not depend on the network's parameters")
    if not bool(loss.isfinite().all()):
        raise TaskError(f"{name}.loss() is {loss.item()} at the initial weights; it must be finite")
