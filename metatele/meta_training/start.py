"""Meta-training that begins with what a checkpoint has learned."""

from metatele.checkpoint import load_checkpoint
from metatele.errors import ConfigError
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart


def begin_with(inner: InnerOptimizer, source: str) -> None:
    """Give the update and the teleport of an optimizer the weights that those of a checkpoint have learned, where it
    can begin with them (see `OptimizerPart.begin_with`); a part that cannot stays as it is.

    Args:
        inner: the optimizer, bound to a network; changed in place.
        source: see `load_checkpoint`.
    Raises: CheckpointError if there is no such checkpoint; ConfigError if no part of it fits.
    """
    found = load_checkpoint(source)
    pairs = [(inner.update, found.update), (inner.teleport, found.teleport)]
    began = [mine.begin_with(theirs) for mine, theirs in pairs]
    if not any(began):
        parts = ", ".join(_unlike(mine, theirs) for mine, theirs in pairs if mine.learned)
        raise ConfigError(f"meta.start: {source} has learned nothing that the optimizer could begin with: {parts}")


def _unlike(mine: OptimizerPart, theirs: OptimizerPart) -> str:
    """What keeps one part from beginning with another, in words."""
    if type(mine) is not type(theirs):
        return f"{type(theirs).__name__}, not {type(mine).__name__}"
    own, others = mine.arguments(), theirs.arguments()
    differ = [f"{name} {others[name]!r}, not {own[name]!r}" for name in own if own[name] != others[name]]
    return f"{type(mine).__name__} with {'; '.join(differ) or 'weights of other sizes'}"
