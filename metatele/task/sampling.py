"""Drawing meta-batches from a task family, and checking that the family keeps its contract."""

import traceback
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral, Real
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from metatele.errors import MetateleError, TaskError
from metatele.support.messages import named_line
from metatele.support.seeding import derive_seed, generator, seeded
from metatele.task.batch import MetaBatch
from metatele.task.contract import check_batch
from metatele.task.family import PARTS, Part, Split, TaskFamily
from metatele.task.mixture import TaskMixture
from metatele.task.stack import unwrapped

Answer = TypeVar("Answer")
MEMBERS_TRIED = 4  # meta-batches of a mixture that are drawn twice, to see whether they are equal


def sample_meta_batch(
    family: TaskFamily, split: Split, indices: Iterable[int], seed: int = 0, number: int | None = None
) -> MetaBatch:
    """Draw the tasks with the given indices of one split.

    Task i of a split depends on (seed, split, i) only, so the splits are disjoint streams and a
    task does not depend on how a meta-batch is put together. The tasks come from
    `family.for_split(split)`.

    Args:
        number: of the meta-batch, on which the member of a `TaskMixture` depends; nothing else does.
    Raises: TaskError if the family breaks its contract (see `TaskFamily`).
    """
    if not isinstance(family, TaskFamily):
        raise TaskError(f"expected an instance of TaskFamily, got {family!r}")
    if split not in get_args(Split):
        raise TaskError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    family = _restricted(family if number is None else member_of(family, split, seed, number), split)
    network = build_network(family)
    structure = {k: v.clone() for k, v in _tensors(network).items()}
    draws, drawn, seeds = [], [], []
    numbers = list(indices)
    for i in numbers:
        name = f"task {i} of the {split} split"
        task_seed = derive_seed("task", seed, split, i)
        stream = torch.Generator().manual_seed(task_seed)
        # A family may build networks, whose constructors draw from the global generator.
        with seeded(derive_seed("global", task_seed)):
            draws.append(_sample_checked(family, stream, name))
            for k, v in _tensors(network).items():
                v.copy_(structure[k])
            _call(family, "initialise", partial(family.initialise, network, stream))
        drawn.append({k: v.clone() for k, v in _tensors(network).items()})
        seeds.append(task_seed)
    if not draws:
        raise TaskError(f"a meta-batch needs at least one task, got indices={numbers}")
    _check_same_shapes(family, draws)
    cuts = _cuts(family, len(draws[0][0]))
    if family.shuffle and cuts["inner"].stop < len(draws[0][0]):  # where all rows are inner ones their order is nothing
        draws = [_shuffled(pair, task_seed) for pair, task_seed in zip(draws, seeds, strict=True)]
    x, y = (torch.stack(list(side)) for side in zip(*draws, strict=True))
    inputs, targets = ({part: side[:, cut] for part, cut in cuts.items()} for side in (x, y))
    for part in PARTS:  # parts without rows of their own share the inner tensors
        if inputs[part].shape[1] == 0:
            inputs[part], targets[part] = inputs["inner"], targets["inner"]
    buffers = {k: _stacked(family, k, [one[k] for one in drawn]) for k in drawn[0]}
    params = {k: buffers.pop(k) for k, _ in network.named_parameters()}
    frozen = frozenset(k for k, p in network.named_parameters() if not p.requires_grad)
    own = torch.tensor(seeds, dtype=torch.int64)
    batch = MetaBatch(family, split, network, params, inputs, targets, own, frozen, buffers)
    check_batch(batch, numbers)
    return batch


def member_of(family: TaskFamily, split: Split, seed: int, number: int) -> TaskFamily:
    """The family that meta-batch `number` of a split is drawn from: a member of a `TaskMixture`, or the family itself.

    Raises: TaskError.
    """
    while isinstance(family, TaskMixture):
        stream = generator("member", seed, split, number)
        with seeded(derive_seed("global member", seed, split, number)):
            found = _call(family, "member", partial(family.member, stream))
        if not isinstance(found, TaskFamily):
            raise TaskError(f"{type(family).__name__}.member() must return a task family, got {found!r}")
        family = found
    return family


def check_members(family: TaskMixture, seed: int) -> None:
    """Draw a few meta-batches of a mixture twice. Raises: TaskError if they differ, or as `sample_meta_batch` does."""
    for number in range(MEMBERS_TRIED):
        first, again = (sample_meta_batch(family, "train", [0], seed, number) for _ in range(2))
        if not _equal(first, again):
            raise TaskError(
                f"{type(family).__name__}.member() gives other families for equal generator states; draw every random "
                "number from the generator that is passed in"
            )


def _equal(a: MetaBatch, b: MetaBatch) -> bool:
    """Whether two meta-batches have equal tasks."""
    mine, theirs = ([*x.params.values(), *x.inputs.values(), *x.targets.values()] for x in (a, b))
    alike = [(x.dtype, x.shape) for x in mine] == [(y.dtype, y.shape) for y in theirs]
    return alike and all(map(torch.equal, mine, theirs))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a network, detached."""
    return {k: v.detach() for k, v in (*network.named_parameters(), *network.named_buffers())}


def _stacked(family: TaskFamily, name: str, values: list[Tensor]) -> Tensor:
    """One parameter or buffer of all tasks, [B, ...]."""
    if any(v.shape != values[0].shape for v in values):
        raise TaskError(
            f"{type(family).__name__}: {name!r} of the network has other shapes in other tasks: "
            f"{sorted({tuple(v.shape) for v in values})[:2]}; all tasks of a family need the same shapes"
        )
    return torch.stack(values)


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
        network = unwrapped(_call(family, "network", family.network))
    name = f"{type(family).__name__}.network()"
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise TaskError(f"{name} must return an nn.Module with parameters, got {network!r}")
    if not any(p.requires_grad for p in network.parameters()):
        raise TaskError(f"{name} has frozen parameters only (requires_grad=False), so that there is nothing to train")
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
    for side, t in (("inputs", x), ("targets", y)):
        if t.layout != torch.strided:
            raise TaskError(f"{where}: {side} are {t.layout}, which is not supported; give dense tensors (to_dense())")
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or len(x) == 0:
        raise TaskError(
            f"{where}: inputs {tuple(x.shape)} and targets {tuple(y.shape)} must have the same number of "
            "rows (at least 1)"
        )
    for side, t in (("inputs", x), ("targets", y)):
        if t.is_floating_point() and not bool(t.isfinite().all()):
            raise TaskError(f"{where}: {side} hold {int((~t.isfinite()).sum())} values that are NaN or infinite")
    return x.detach(), y.detach()


def _shuffled(pair: tuple[Tensor, Tensor], task_seed: int) -> tuple[Tensor, Tensor]:
    """A task's rows in random order."""
    order = torch.randperm(len(pair[0]), generator=generator("order of rows", task_seed)).to(pair[0].device)
    return pair[0][order], pair[1][order.to(pair[1].device)]


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
    if size is not None and not (isinstance(size, Integral) and size >= 1):
        raise TaskError(f"{name}.batch_size must be a whole number of at least 1 or None, got {size!r}")
    meta, test = (round(f * rows) for f in fractions[1:])
    inner = rows - meta - test
    for part, fraction, count in zip(PARTS, fractions, (inner, meta, test), strict=True):
        if fraction > 0 and count < 1:
            raise TaskError(f"{name}: {rows} rows split by {tuple(fractions)} leave none for the {part} part")
    return {"inner": slice(0, inner), "meta": slice(inner, inner + meta), "test": slice(inner + meta, rows)}
