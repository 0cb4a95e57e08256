"""Checkpoints on a network on which their teleports cannot act."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

from metatele.errors import SymmetryError
from metatele.evaluation.contestants.contestant import Contestant
from metatele.optimizer import InnerOptimizer
from metatele.symmetry import movable
from metatele.task import MetaBatch


def idle_where_nothing_moves(contestants: Sequence[Contestant], batch: MetaBatch) -> list[Contestant]:
    """The contestants; those whose teleports find no symmetry in the tasks' network take part with the update alone,
    which a warning and their note say.

    Args:
        contestants: the meta-trained ones.
        batch: tasks of the family.
    """
    return [_idle(c, batch) for c in contestants]


def _idle(contestant: Contestant, batch: MetaBatch) -> Contestant:
    try:
        for inner in contestant.seeds:
            movable(inner.teleport.group(batch.network), batch.network, batch.trained(batch.params))
    except SymmetryError as error:
        why = f"its teleports stay idle: {str(error).partition(';')[0]}"
        warnings.warn(f"{contestant.name}: {why}", stacklevel=2)
        note = f"{contestant.note}; {why}" if contestant.note else why
        return replace(contestant, seeds=tuple(InnerOptimizer(inner.update) for inner in contestant.seeds), note=note)
    return contestant
