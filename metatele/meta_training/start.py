"""Meta-training that begins with what a checkpoint has learned."""

import torch

from metatele.checkpoint import load_checkpoint
from metatele.errors import ConfigError
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart


@torch.no_grad()
def begin_with(inner: InnerOptimizer, source: str) -> None:
    """Give the update and the teleport of an optimizer the weights that those of a checkpoint have learned, where they
    are of the same class and the same size; a part that the checkpoint has not, or that is of another class, stays as
    it is.

    Args:
        inner: the optimizer, bound to a network; changed in place.
        source: see `load_checkpoint`.
    Raises: CheckpointError if there is no such checkpoint; ConfigError if no part of it fits.
    """
    found = load_checkpoint(source)
    pairs = [(inner.update, found.update), (inner.teleport, found.teleport)]
    fitting = [(mine, theirs) for mine, theirs in pairs if _fits(mine, theirs)]
    if not fitting:
        parts = ", ".join(f"{_name(theirs)}, not {_name(mine)}" for mine, theirs in pairs if mine.learned)
        raise ConfigError(f"meta.start: {source} has learned nothing that the optimizer could begin with: {parts}")
    for mine, theirs in fitting:
        mine.load_state_dict(theirs.state_dict())


def _fits(mine: OptimizerPart, theirs: OptimizerPart) -> bool:
    shapes, others = ({k: v.shape for k, v in part.state_dict().items()} for part in (mine, theirs))
    return mine.learned and type(mine) is type(theirs) and shapes == others


def _name(part: OptimizerPart) -> str:
    return f"{type(part).__name__} {part.arguments()}"
