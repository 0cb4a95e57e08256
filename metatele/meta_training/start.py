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
        parts = ", ".join(_unlike(mine, theirs) for mine, theirs in pairs if mine.learned)
        raise ConfigError(f"meta.start: {source} has learned nothing that the optimizer could begin with: {parts}")
    for mine, theirs in fitting:
        mine.load_state_dict(theirs.state_dict())


def _fits(mine: OptimizerPart, theirs: OptimizerPart) -> bool:
    shapes, others = ({k: v.shape for k, v in part.state_dict().items()} for part in (mine, theirs))
    return mine.learned and type(mine) is type(theirs) and shapes == others


def _unlike(mine: OptimizerPart, theirs: OptimizerPart) -> str:
    """What keeps one part from beginning with another, in words."""
    if type(mine) is not type(theirs):
        return f"{type(theirs).__name__}, not {type(mine).__name__}"
    own, others = mine.arguments(), theirs.arguments()
    differ = [f"{name} {others[name]!r}, not {own[name]!r}" for name in own if own[name] != others[name]]
    return f"{type(mine).__name__} with {'; '.join(differ) or 'weights of other sizes'}"
