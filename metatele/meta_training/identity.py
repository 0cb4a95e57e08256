"""What must be the same for a run to be gone on with, or shared: its settings, and its tasks to rounding."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from metatele.support.checks import plain_numbers
from metatele.support.seeding import generator
from metatele.task.family import TaskFamily
from metatele.task.sampling import sample_meta_batch

Sketch = list[list[float]]
ROUNDING = 1e-5  # of a tensor's norm; processors and libraries of other kinds draw and multiply with other last digits


def sketch_of(tensors: Iterable[Tensor]) -> Sketch:
    """[norm, product with a random direction, always the same] of each tensor: alike for tensors that are equal to
    rounding, and for hardly any others."""
    sketch = []
    for i, tensor in enumerate(tensors):
        x = tensor.detach().cpu().double().reshape(-1).nan_to_num(0, 0, 0)
        direction = torch.randn(len(x), generator=generator("sketch", i), dtype=torch.float64)
        sketch.append([float(x.norm()), float(x @ direction)])
    return sketch


def alike(a: Sketch, b: Sketch) -> bool:
    """Whether two sketches are of tensors that are equal to rounding."""
    return len(a) == len(b) and all(
        max(abs(x[0] - y[0]), abs(x[1] - y[1])) <= ROUNDING * (x[0] + y[0]) for x, y in zip(a, b, strict=True)
    )


def identity_of(family: TaskFamily, seed: int) -> dict[str, Any]:
    """A family's class, its plain attributes, as far as JSON can hold them, whether its rows are shuffled, and a sketch
    of its first tasks, on which all of its arguments have a say."""
    batch = sample_meta_batch(family, "train", range(2), seed, number=0)
    values = {k: plain_numbers(v) for k, v in vars(family).items()}
    plain = {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str, list, tuple, type(None)))}
    name = f"{type(family).__module__}.{type(family).__qualname__}"
    tensors = [t for part in (batch.params, batch.buffers, batch.inputs, batch.targets) for t in part.values()]
    cut = len(batch.own_parts) > 1  # where all rows are inner ones their order is nothing
    return {"class": name, **plain, "shuffle": cut and bool(family.shuffle), "tasks": sketch_of(tensors)}


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What has changed between two records of settings, in words; None if nothing has.

    Args:
        before: of a saved run; one from before there were sketches, or shuffled rows, has none.
        now: the present one.
    """
    before, now = copy.deepcopy(before), copy.deepcopy(now)
    sketches = [[family.pop("tasks", None) for family in _families(record)] for record in (before, now)]
    for family in _families(before):
        family.setdefault("shuffle", False)
    old, new = _leaves(before), _leaves(now)
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if changed:
        return f"{changed[0]} was {old.get(changed[0])!r}, now {new.get(changed[0])!r}"
    for i, (a, b) in enumerate(zip(*sketches, strict=False)):
        if isinstance(a, list) and not alike(a, b):
            return f"the tasks of family.{i} are others than they were, though its plain arguments are the same"
    return None


def _families(record: dict[str, Any]) -> list[dict[str, Any]]:
    families = record.get("family")
    return [f for f in families if isinstance(f, dict)] if isinstance(families, list) else []


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """{dotted name: value} of everything inside nested mappings and lists."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, inner in items for k, v in _leaves(inner, f"{name}.{key}" if name else str(key)).items()}
