"""Teleporting the replicas of data-parallel training: all go where the first one goes."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from metatele.support.digests import digest_of
from metatele.support.ranks import present

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
    ranks = present()
    if ranks.size == 1 or len(set(ranks.gather(digest_of(dict(model.named_parameters()))))) > 1:
        return find()  # models of their own
    return ranks.from_first(lambda: tree_map(_on_cpu, find()))


def _on_cpu(value: object) -> object:
    return value.detach().cpu() if isinstance(value, Tensor) else value
