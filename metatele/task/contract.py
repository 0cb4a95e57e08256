"""What the network, the loss and the accuracy of drawn tasks must do."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metatele.errors import TaskError
from metatele.support.messages import named_line
from metatele.support.seeding import generator
from metatele.task.batch import MetaBatch
from metatele.task.family import Part

Measure = Callable[[Tensor, Tensor], Tensor]
ORDERS, MOST_ORDERS = 4, 40  # random orders of a task's rows that are tried, and if they make no difference


def check_batch(batch: MetaBatch, numbers: Sequence[int]) -> None:
    """Run the network, the loss and the accuracy on all parts of all tasks.

    Args:
        batch: the tasks.
        numbers: their numbers in their split, for errors.
    Raises: TaskError, which names the task and the part, if they do not run; if the loss is no scalar with a gradient;
        if it is finite for no task; if predictions and targets are broadcast against each other.
    """
    first = _first_finite(batch)
    _check_first(_task(batch, first), numbers[first])
    for part in batch.own_parts:
        _check_part(batch, part, numbers)
        _warn_of_unseen_labels(batch, part, numbers)


@torch.no_grad()
def begins_finite(batch: MetaBatch) -> Tensor:
    """Which tasks have a finite loss on all their rows before the first step, [B]."""
    sides = (batch.rows(part) for part in batch.own_parts)
    losses = [batch.losses(batch.predict(batch.params, x), y) for x, y in sides]
    return torch.stack(losses).isfinite().all(0)


def _first_finite(batch: MetaBatch) -> int:
    """The first task that begins with a finite loss; the first one if there is none, or if they do not run."""
    try:
        return int(begins_finite(batch).to(torch.uint8).argmax())
    except Exception:
        return 0


def _check_first(batch: MetaBatch, number: int) -> None:
    """A task, alone in its meta-batch, gives a finite scalar with a gradient."""
    name = type(batch.family).__name__
    x, y = batch.rows("inner")
    params = {k: p.detach().requires_grad_() for k, p in batch.trained(batch.params).items()}
    before = {k: b.clone() for k, b in batch.buffers.items()}
    with torch.enable_grad():
        try:
            predictions = batch.predict(params, x)
            loss = batch.losses(predictions, y)
        except Exception as error:
            raise TaskError(
                f"{name}: the network and the loss do not run on inputs {tuple(x.shape[1:])} and targets "
                f"{tuple(y.shape[1:])}, the inner rows of task {number} of the {batch.split} split: {named_line(error)}"
            ) from error
    changed = next((k for k, b in batch.buffers.items() if not torch.equal(b, before[k])), None)
    if changed is not None:
        raise TaskError(f"{name}: the network changes its buffer {changed!r}; call eval() on its batch norm layers")
    if loss.shape != (1,):
        raise TaskError(f"{name}.loss() must return a scalar, got shape {tuple(loss.shape[1:])}")
    if not loss.requires_grad:
        raise TaskError(f"{name}.loss() does not depend on the network's parameters")
    if not bool(loss.isfinite().all()):
        raise TaskError(f"{name}.loss() is {loss.item()} at the initial weights; it must be finite")
    predictions = tree_map(torch.detach, predictions)
    _check_pairing(batch, "loss", predictions, y)
    if batch.family.measures_accuracy:
        _check_accuracy(batch, predictions, y)
        _check_pairing(batch, "accuracy", predictions, y)


def _check_accuracy(batch: MetaBatch, predictions: Tensor, y: Tensor) -> None:
    """The accuracy runs where the loss does, stacked, and gives a fraction."""
    name = f"{type(batch.family).__name__}.accuracy()"
    try:
        fraction = batch.accuracies(predictions, y)
    except Exception as error:
        outputs = tree_map(lambda t: tuple(t.shape[1:]), predictions)
        shapes = f"predictions {outputs} and targets {tuple(y.shape[1:])}"
        message = f"{name} does not run on {shapes}: {named_line(error)}"
        raise TaskError(message) from error
    if fraction.shape != (1,):
        raise TaskError(f"{name} must return a scalar, got shape {tuple(fraction.shape[1:])}")
    if not 0 <= fraction.item() <= 1:
        raise TaskError(f"{name} must be in [0, 1], got {fraction.item():g}")


@torch.no_grad()
def _check_part(batch: MetaBatch, part: Part, numbers: Sequence[int]) -> None:
    """The network, the loss and the accuracy run on one part of all tasks."""
    name = type(batch.family).__name__
    try:
        _measure(batch, part)
    except Exception as error:
        for i, number in enumerate(numbers):
            try:
                _measure(_task(batch, i), part)
            except Exception as own:
                raise TaskError(
                    f"{name}: the network and the loss do not run on the {part} rows of task {number} of the "
                    f"{batch.split} split: {named_line(own)}"
                ) from own
        raise TaskError(
            f"{name}: the network and the loss run on the {part} rows of each task, but not of {batch.tasks} tasks "
            f"together: {named_line(error)}"
        ) from error


def _measure(batch: MetaBatch, part: Part) -> None:
    x, y = batch.rows(part)
    predictions = batch.predict(batch.params, x)
    batch.losses(predictions, y)
    if batch.family.measures_accuracy:
        batch.accuracies(predictions, y)


_warned: set[str] = set()  # families whose unseen labels have been spoken of


def _warn_of_unseen_labels(batch: MetaBatch, part: Part, numbers: Sequence[int]) -> None:
    """Warn, once for a family, if rows of a part hold labels that the inner rows of their task do not."""
    inner, here, name = batch.targets["inner"], batch.targets[part], type(batch.family).__name__
    labels = inner.dim() == 2 and not (inner.is_floating_point() or inner.is_complex() or inner.dtype == torch.bool)
    if part == "inner" or not labels or name in _warned:
        return
    apart = max(int(inner.max()), int(here.max())) - min(int(inner.min()), int(here.min())) + 1
    offset = apart * torch.arange(batch.tasks, device=inner.device).unsqueeze(1)  # so that tasks share no label
    unseen = ~torch.isin(here.long() + offset, inner.long() + offset)
    if bool(unseen.any()):
        _warned.add(name)
        task, row = unseen.nonzero()[0].tolist()
        cut = "" if batch.family.shuffle else f"; {name}.shuffle is False, with True rows are mixed before they are cut"
        warnings.warn(
            f"{name}: the {part} rows of task {numbers[task]} of the {batch.split} split hold the label "
            f"{int(here[task, row])}, which its inner rows, the ones that are trained on, do not hold{cut}",
            stacklevel=4,
        )


def _task(batch: MetaBatch, i: int) -> MetaBatch:
    """One task of a meta-batch."""
    return batch.take([i])


def _check_pairing(batch: MetaBatch, what: str, predictions: Tensor, targets: Tensor) -> None:
    """Each row's prediction is compared with its own target.

    Predictions [n, 1] and targets [n] broadcast to [n, n], without a word: every prediction is then compared with
    every target, and the mean is the same whichever target belongs to which row. Predictions [n, n] and targets [n] are
    compared column by column, and the mean changes if both have their rows in another order. Either shows in random
    orders of the rows. Where the two shapes do not broadcast, or are equal, a loss may have reasons to look at rows
    together: it is refused only if it is the mean, or the sum, over all pairs.
    """
    if not isinstance(predictions, Tensor):
        return  # several outputs: which one meets the targets is the loss's own affair
    rows, shapes = targets.shape[1], (tuple(predictions.shape[1:]), tuple(targets.shape[1:]))
    if rows < 2:
        return
    broadcast = _broadcast(*shapes)
    measure = batch.losses if what == "loss" else batch.accuracies
    stream = generator("pairing", rows)
    # A loss may want numbers of some range, such as probabilities; an accuracy must see every kind of prediction.
    scale = 0.3 * predictions.abs() + 0.05 if what == "loss" else 2 * predictions.abs().max() + 1
    paired, used = False, False  # whether targets in another order, or other targets, ever make a difference
    for trial in range(MOST_ORDERS):
        seen = predictions + scale * (2 * torch.rand(predictions.shape, generator=stream).to(predictions) - 1)
        order, others = torch.randperm(rows, generator=stream), torch.randint(rows, (rows,), generator=stream)
        order, others, before = order.to(targets.device), others.to(targets.device), measure(seen, targets)
        paired = paired or not _same(measure(seen, targets[:, order]), before)
        used = used or not _same(measure(seen, targets[:, others]), before)
        mixed = broadcast and not _same(measure(seen[:, order], targets[:, order]), before)
        if mixed or (paired and (trial >= ORDERS or not broadcast)):
            break
    unpaired = used and not paired and (broadcast or _over_all_pairs(measure, seen, targets))
    if mixed or unpaired:
        raise TaskError(
            f"{type(batch.family).__name__}.{what}(): rows of the predictions {shapes[0]} are compared with targets of "
            f"other rows, which are {shapes[1]}, as by a broadcast of (n, 1) against (n,); let sample() return "
            f"targets of shape {shapes[0]}, or reshape one of them in {what}()"
        )


def _over_all_pairs(measure: Measure, predictions: Tensor, targets: Tensor) -> bool:
    """Whether a measure of some rows is the mean, or the sum, of what it is for each row's prediction with each row's
    target."""
    some = range(min(targets.shape[1], 4))
    whole = measure(predictions[:, : len(some)], targets[:, : len(some)])
    try:
        pairs = torch.stack([measure(predictions[:, i : i + 1], targets[:, j : j + 1]) for i in some for j in some])
    except Exception:  # it needs more rows than one
        return False
    return pairs.shape[1:] == whole.shape and (_same(pairs.mean(0), whole) or _same(pairs.sum(0), whole))


def _broadcast(p: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Whether two different shapes broadcast."""
    if p == y:
        return False
    try:
        torch.broadcast_shapes(p, y)
    except RuntimeError:
        return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two measures are equal to rounding; those that are not finite tell nothing."""
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        return True
    eps = torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    return bool(((a - b).abs() <= 1e3 * eps * b.abs()).all())
