"""Drawing meta-batches from a task family, and checking that the family keeps its contract."""

import traceback
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Real
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from metatele.errors import MetateleError, TaskError
from metatele.support.messages import named_line
from metatele.support.seeding import derive_seed, seeded
from metatele.task.batch import MetaBatch
from metatele.task.family import PARTS, Part, Split, TaskFamily
from metatele.task.stack import stacked_forward

Answer = TypeVar("Answer")


def sample_meta_batch(family: TaskFamily, split: Split, indices: Iterable[int], seed: int = 0) -> MetaBatch:
    """Draw the tasks with the given indices of one split.

    Task i of a split depends on (seed, split, i) only, so the splits are disjoint streams and a
    task does not depend on how a meta-batch is put together. The tasks come from
    `family.for_split(split)`.

    Raises: TaskError if the family breaks its contract (see `TaskFamily`).
    """
    if not isinstance(family, TaskFamily):
        raise TaskError(f"expected an instance of TaskFamily, got {family!r}")
    if split not in get_args(Split):
        raise TaskError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    family = _restricted(family, split)
    network = build_network(family)
    structure = {k: v.clone() for k, v in network.state_dict().items()}
    draws, weights, seeds = [], [], []
    for i in indices:
        name = f"task {i} of the {split} split"
        task_seed = derive_seed("task", seed, split, i)
        stream = torch.Generator().manual_seed(task_seed)
        # A family may build networks, whose constructors draw from the global generator.
        with seeded(derive_seed("global", task_seed)):
            draws.append(_sample_checked(family, stream, name))
            network.load_state_dict(structure)
            _call(family, "initialise", partial(family.initialise, network, stream))
        weights.append({k: p.detach().clone() for k, p in network.named_parameters()})
        seeds.append(task_seed)
    if not draws:
        raise TaskError(f"a meta-batch needs at least one task, got indices={indices}")
    _check_same_shapes(family, draws)
    cuts = _cuts(family, len(draws[0][0]))
    x, y = (torch.stack(list(side)) for side in zip(*draws, strict=True))
    inputs, targets = ({part: side[:, cut] for part, cut in cuts.items()} for side in (x, y))
    for part in PARTS:  # parts without rows of their own share the inner tensors
        if inputs[part].shape[1] == 0:
            inputs[part], targets[part] = inputs["inner"], targets["inner"]
    params = {k: torch.stack([w[k] for w in weights]) for k in weights[0]}
    batch = MetaBatch(family, split, network, params, inputs, targets, torch.tensor(seeds, dtype=torch.int64))
    _check_loss(batch)
    return batch


def _restricted(family: TaskFamily, split: Split) -> TaskFamily:
    """The family of one split."""
    with seeded(derive_seed("for_split", split)):  # whatever it draws, equal splits give equal families
        found = _call(family, "for_split", partial(family.for_split, split))
    if not isinstance(found, TaskFamily):
        raise TaskError(f"{type(family).__name__}.for_split({split!r}) must return a task family, got {found!r}")
    return found


def build_network(family: TaskFamily) -> nn.Module:
    """The family's network, checked to have parameters that can be trained."""
    with seeded(0):  # a network's constructor draws weights; they are replaced, the stream is kept
        network = _call(family, "network", family.network)
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise TaskError(f"{type(family).__name__}.network() must return an nn.Module with parameters, got {network!r}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        raise TaskError(f"{type(family).__name__}.network() has lazy layers; give them their sizes")
    return network


def _call(family: TaskFamily, method: str, call: Callable[[], Answer]) -> Answer:
    """Call a method that a user wrote. Raises: TaskError, in one line that says where, for any error in it."""
    try:
        return call()
    except MetateleError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise TaskError(
            f"{type(family).__name__}.{method}() raised {named_line(error)} ({last.filename}:{last.lineno})"
        ) from error


def _sample_checked(family: TaskFamily, stream: torch.Generator, name: str) -> tuple[Tensor, Tensor]:
    """One task's data, held to the contract of `TaskFamily.sample`. Raises: TaskError."""
    where = f"{type(family).__name__}.sample() of {name}"
    drawn = _call(family, "sample", partial(family.sample, stream))
    if not (isinstance(drawn, (tuple, list)) and len(drawn) == 2 and all(isinstance(t, Tensor) for t in drawn)):
        inside = ", ".join(type(t).__name__ for t in drawn) if isinstance(drawn, (tuple, list)) else ""
        got = f"{type(drawn).__name__}({inside})" if inside else type(drawn).__name__
        raise TaskError(f"{where} must return two tensors (inputs, targets), got {got}")
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
    """Which rows belong to which part; none for a part whose fraction is 0."""
    fractions, size, name = family.parts, family.batch_size, type(family).__name__
    three = isinstance(fractions, (tuple, list)) and len(fractions) == 3 and all(isinstance(f, Real) for f in fractions)
    # Written so that a NaN fails.
    if not (three and min(fractions) >= 0 and fractions[0] > 0 and abs(sum(fractions) - 1) <= 1e-6):
        raise TaskError(f"{name}.parts must be three fractions (inner > 0, meta, test) that sum to 1, got {fractions}")
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise TaskError(f"{name}.batch_size must be a whole number of at least 1 or None, got {size!r}")
    meta, test = (round(f * rows) for f in fractions[1:])
    inner = rows - meta - test
    for part, fraction, count in zip(PARTS, fractions, (inner, meta, test), strict=True):
        if fraction > 0 and count < 1:
            raise TaskError(f"{name}: {rows} rows split by {tuple(fractions)} leave none for the {part} part")
    return {"inner": slice(0, inner), "meta": slice(inner, inner + meta), "test": slice(inner + meta, rows)}


def _check_loss(batch: MetaBatch) -> None:
    """The network and the loss must run on the data and give a finite scalar with a gradient."""
    name = type(batch.family).__name__
    x, y = batch.rows("inner")
    first = {k: p[:1].requires_grad_() for k, p in batch.params.items()}
    try:
        loss = batch.losses(stacked_forward(batch.network, first, x[:1]), y[:1])
    except Exception as error:
        raise TaskError(
            f"{name}: the network and the loss do not run on inputs {tuple(x.shape[1:])} and targets "
            f"{tuple(y.shape[1:])}: {named_line(error)}"
        ) from error
    if loss.shape != (1,):
        raise TaskError(f"{name}.loss() must return a scalar, got shape {tuple(loss.shape[1:])}")
    if not loss.requires_grad:
        raise TaskError(f"{name}.loss() does not depend on the network's parameters")
    if not bool(loss.isfinite().all()):
        raise TaskError(f"{name}.loss() is {loss.item()} at the initial weights; it must be finite")
    _check_broadcasting(batch, first, x, y)
    if batch.family.measures_accuracy:
        _check_accuracy(batch, first, x, y)


def _check_accuracy(batch: MetaBatch, params: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
    """The accuracy must run where the loss does, stacked, and give a fraction."""
    name = f"{type(batch.family).__name__}.accuracy()"
    predictions = stacked_forward(batch.network, params, x[:1]).detach()
    try:
        fraction = batch.accuracies(predictions, y[:1])
    except Exception as error:
        shapes = f"predictions {tuple(predictions.shape[1:])} and targets {tuple(y.shape[1:])}"
        message = f"{name} does not run on {shapes}: {named_line(error)}"
        raise TaskError(message) from error
    if fraction.shape != (1,):
        raise TaskError(f"{name} must return a scalar, got shape {tuple(fraction.shape[1:])}")
    if not 0 <= fraction.item() <= 1:
        raise TaskError(f"{name} must be in [0, 1], got {fraction.item():g}")


def _check_broadcasting(batch: MetaBatch, params: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
    """Predictions [n, 1] minus targets [n] broadcast to [n, n]: every prediction is then compared with
    every target. It shows in the gradient at the first prediction, which then depends on the last target."""
    predictions = stacked_forward(batch.network, params, x[:1]).detach()
    n = y.shape[1]
    if not (y.is_floating_point() and n > 1 and y.shape[1:] == (n,) and predictions.shape[1:] == (n, 1)):
        return
    other = y[:1].clone()
    other[:, -1] += 1
    slopes = []
    for targets in (y[:1], other):
        leaf = predictions.clone().requires_grad_()
        slopes.append(torch.autograd.grad(batch.losses(leaf, targets).sum(), leaf)[0][:, 0])
    if not torch.equal(*slopes):
        raise TaskError(
            f"{type(batch.family).__name__}.loss(): predictions ({n}, 1) and targets ({n},) broadcast to ({n}, {n}); "
            f"let sample() return targets of shape ({n}, 1)"
        )
