"""Which closed-form rules can act on a network, tried out."""

from collections.abc import Iterable

from metatele.errors import MetateleError
from metatele.optimizer import InnerOptimizer
from metatele.symmetry import ProductGroup
from metatele.task import MetaBatch
from metatele.teleports.rules import CanonicalTeleport
from metatele.unroll import Unroll
from metatele.update import GradientDescent


def try_out(inner: InnerOptimizer, batches: Iterable[MetaBatch]) -> list[ProductGroup]:
    """Run one step on each meta-batch, and return the groups of their networks.

    Raises: SymmetryError if its teleport cannot act there.
    """
    groups = []
    for batch in batches:
        play = Unroll(inner, batch, 1)
        play.window(play.start(), 1, differentiable=False)
        groups.append(play.group)
    return groups


def applicable_rules(batch: MetaBatch) -> tuple[str, ...]:
    """The class names of the closed-form rules that can act on the network of some tasks and do not coincide with
    another rule there."""
    return tuple(rule.__name__ for rule in CanonicalTeleport.named.values() if _acts(rule, batch))


def _acts(rule: type[CanonicalTeleport], batch: MetaBatch) -> bool:
    """Whether a rule can act on some tasks, and is not another rule there: on the first of its groups on which it runs
    without making every task diverge."""
    for symmetry in rule.symmetries:
        try:
            unroll = Unroll(InnerOptimizer(GradientDescent(1e-6), rule(symmetry=symmetry)), batch, 1)
            end = unroll.window(unroll.start(), 1, differentiable=False).end
        except MetateleError:
            continue
        if not end.all_diverged:
            return rule.differs_on(unroll.group)
    return False
