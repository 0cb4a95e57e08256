"""The hand-designed optimizers that take part in an evaluation."""

from typing import get_args

from metatele.evaluation.contestants.contestant import Contestant
from metatele.optimizer import InnerOptimizer
from metatele.teleports import OptimisedTeleport, RandomTeleport, Stay, Teleport
from metatele.update import HandDesigned
from metatele.update.hand_designed import UpdateRule


def baselines(steps: int, with_teleports: bool) -> list[Contestant]:
    """The hand-designed contestants, not yet tuned. If `with_teleports` is set, each also takes part with a random
    teleport and with an ascent of the gradient norm, once before the first update."""
    teleports: dict[str, Teleport] = {"": Stay()}
    if with_teleports:
        teleports |= {" + random": RandomTeleport(last=0), " + climb": OptimisedTeleport()}
    return [
        Contestant(f"{rule}{suffix}", (InnerOptimizer(HandDesigned(rule, 1e-3, "constant", steps), t),), "baseline")
        for suffix, t in teleports.items()
        for rule in get_args(UpdateRule)
    ]
