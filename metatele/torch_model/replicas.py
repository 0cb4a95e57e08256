"""Teleporting the replicas of data-parallel training: all go where the first one goes."""

from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from metatele.errors import MetateleError

Reached = TypeVar("Reached")


def found_by_first(model: nn.Module, find: Callable[[], Reached]) -> Reached:
    """What `find` gives; if several processes hold the same model, what it gives in the first one, on all of them.

    Replicas see batches of their own, and random teleports draws of their own: each would go to another point, and
    averaging gradients would not bring them together again. Under a process group all processes must call this.

    Args:
        model: the model.
        find: looks for where to go, and changes nothing.
    Raises: what `find` raises, in the first process, in all of them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return find()
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, _digest(model))
    if len(set(digests)) > 1:
        return find()  # models of their own
    answer: list[object] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer = [tree_map(_on_cpu, find()), None]
        except MetateleError as error:
            answer = [None, error]
    dist.broadcast_object_list(answer)
    found, refusal = answer
    if isinstance(refusal, MetateleError):
        raise refusal
    return cast(Reached, found)


def _digest(model: nn.Module) -> str:
    digest = sha256()
    for name, p in model.named_parameters():
        digest.update(name.encode() + p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _on_cpu(value: object) -> object:
    return value.detach().cpu() if isinstance(value, Tensor) else value
