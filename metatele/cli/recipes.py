"""The contestants of a comparison that are meta-trained, each made of the configured optimizer."""

import copy
from collections.abc import Iterable
from typing import NamedTuple

from metatele.errors import ConfigError, SymmetryError
from metatele.evaluation.contestants.rules import try_out
from metatele.optimizer import InnerOptimizer
from metatele.support.messages import first_line
from metatele.symmetry import Kind
from metatele.task import MetaBatch, TaskFamily, sample_meta_batch
from metatele.teleports import OrbitTeleport
from metatele.teleports.rules import Rule, rules

WITH, WITHOUT = "teleport", "no-teleport"


class Recipe(NamedTuple):
    """What to do to the configured optimizer; plain data, which another process can be sent.

    Attributes:
        name: of the contestant: `WITH` its teleport, `WITHOUT`, or with the closed-form rule of this name in its place.
        symmetry: on which group the rule acts.
    """

    name: str
    symmetry: Kind = "auto"

    def change(self, given: InnerOptimizer) -> InnerOptimizer:
        """The contestant, with the update of the configured optimizer."""
        if self.name == WITH:
            return given
        if self.name == WITHOUT:
            return InnerOptimizer(given.update)
        (rule,) = (rule for rule in rules() if rule.name == self.name)
        return InnerOptimizer(given.update, rule.make(self.symmetry))


def possible_recipes(inner: InnerOptimizer, families: list[TaskFamily], controls: Iterable[Rule]) -> list[Recipe]:
    """The contestants that can be meta-trained from the configured optimizer, each tried out for one step before any
    time is spent.

    Raises: ConfigError if there would be nothing to compare; SymmetryError if the optimizer itself cannot run.
    """
    if not inner.teleport.moves:
        teleport = type(inner.teleport).__name__
        raise ConfigError(
            f"compare needs an optimizer that teleports, and {teleport} does not; set optimizer.teleport, or use "
            "meta-train"
        )
    batches = [sample_meta_batch(family, "train", range(1), number=0) for family in families]
    found = []
    for name in (WITH, WITHOUT):
        if _learned(name, inner):
            recipe = Recipe(name)
            try_out(recipe.change(copy.deepcopy(inner)), batches)
            found.append(recipe)
    for rule in controls:
        if _learned(rule.name, inner):
            symmetry = _symmetry_of(rule, inner, batches)
            if symmetry is not None:
                found.append(Recipe(rule.name, symmetry))
    return found


def _learned(name: str, inner: InnerOptimizer) -> bool:
    """Whether a contestant has something to meta-train; it is printed if not."""
    learned = (inner if name == WITH else inner.update).learned
    if not learned:
        print(f"{name}: left out, because {type(inner.update).__name__} alone has nothing to meta-train")
    return bool(learned)


def _symmetry_of(rule: Rule, inner: InnerOptimizer, batches: list[MetaBatch]) -> Kind | None:
    """On which group a closed-form rule takes the teleport's place: on the teleport's own, or, where the rule cannot
    act on that, on positive scaling; None, and the reason is printed, if on neither."""
    kind: Kind = inner.teleport.symmetry if isinstance(inner.teleport, OrbitTeleport) else "auto"
    reasons = []
    for symmetry in dict.fromkeys((kind, *rule.kind.symmetries[1:])):
        try:
            groups = try_out(Recipe(rule.name, symmetry).change(copy.deepcopy(inner)), batches)
        except SymmetryError as error:
            reasons.append(first_line(error))
            continue
        if not any(map(rule.kind.differs_on, groups)):
            print(f"{rule.name}: left out, because {rule.kind.otherwise}")
            return None
        if reasons:
            print(f"{rule.name}: on symmetry {symmetry!r}, because it cannot act on {kind!r} ({reasons[0]})")
        return symmetry
    print(f"{rule.name}: left out, because the network has no such rule ({reasons[0]})")
    return None
