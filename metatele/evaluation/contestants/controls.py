"""The controls of a learned teleport that need no meta-training of their own."""

from collections.abc import Callable, Sequence

from torch import nn

from metatele.checkpoint import describe
from metatele.errors import SymmetryError
from metatele.evaluation.contestants.contestant import Contestant, Control
from metatele.evaluation.contestants.learned import same_weights
from metatele.optimizer import InnerOptimizer
from metatele.symmetry import group_of, only_scales
from metatele.task.batch import MetaBatch
from metatele.teleports import Balance, CanonicalTeleport, Recording
from metatele.tuning.step_size import WINDOW
from metatele.unroll.higher.unroll import Unroll

WITH_THE_UPDATE = "with the checkpoint's update, which was meta-trained together with the learned teleport"


def with_controls(
    checkpoints: Sequence[Contestant], train: MetaBatch, steps: int, begin: Callable[[str], None] = lambda name: None
) -> list[Contestant]:
    """The checkpoints, each followed by its controls.

    A checkpoint whose teleport moves, but is no closed-form rule, gets its update with the teleports
    off, unless that is a contestant already; one whose teleport is learned also gets the mean schedule of
    its teleports in their place, and random teleports of their size, both recorded on the tasks given.
    The first checkpoint that does not teleport (without one, the first that does) gets the same update
    after the balance rule at step 0, if every symmetry of the network is a positive scaling.

    Args:
        checkpoints: the meta-trained contestants.
        train: tasks of the train split to record on.
        steps: length of the trajectory to record.
        begin: told the name of a checkpoint before it is recorded.
    """
    resting = [c for c in checkpoints if not c.inner.teleport.moves]
    balanced = next(iter(resting or checkpoints), None) if _scales(train.network) else None
    out: list[Contestant] = []
    for c in checkpoints:
        out.append(c)
        if c.inner.teleport.moves and not isinstance(c.inner.teleport, CanonicalTeleport):
            note = WITH_THE_UPDATE if c.learned_teleport else "the same update"
            off = _control(c, "off", "teleports off", [InnerOptimizer(inner.update) for inner in c.seeds], note)
            out += [off] if not any(_equal(off, other) for other in resting) else []
        if c.learned_teleport:
            begin(c.name)
            out += _played(c, train, steps)
        if c is balanced and not isinstance(c.inner.teleport, Balance):
            note = "the checkpoint's update after the balance rule at step 0; it was not meta-trained with the rule"
            ruled = [InnerOptimizer(inner.update, Balance(), "before") for inner in c.seeds]
            out.append(_control(c, "balance", "balance", ruled, note, " + "))
    return out


def _played(c: Contestant, train: MetaBatch, steps: int) -> list[Contestant]:
    """The mean schedule and the random teleports of a checkpoint; none if its teleport has no Lie algebra elements,
    or if it cannot run, which is then reported as the checkpoint's own outcome."""
    try:
        recordings = [_record(inner, train, steps) for inner in c.seeds]
    except Exception:
        return []
    both = list(zip(c.seeds, recordings, strict=True))
    mean = [InnerOptimizer(i.update, r.mean_schedule(), i.order, i.moments) for i, r in both]
    sized = [InnerOptimizer(i.update, r.sized_random(), i.order, i.moments) for i, r in both]
    device = next(iter(train.params.values())).device
    return [
        _control(
            c,
            "mean schedule",
            "mean schedule",
            [m.to(device) for m in mean],
            f"the mean of its teleports {WITH_THE_UPDATE}",
        ),
        _control(
            c, "random", "random of same size", sized, f"random teleports of the learned ones' size {WITH_THE_UPDATE}"
        ),
    ]


def _record(inner: InnerOptimizer, batch: MetaBatch, steps: int) -> Recording:
    """What the teleport of an inner optimizer chooses, step by step."""
    with Recording(inner.teleport) as recording:
        unroll = Unroll(inner, batch, steps)
        position = unroll.start()
        while position.step < steps and bool(position.alive.any()):
            position = unroll.window(position, min(WINDOW, steps - position.step), differentiable=False).end
    return recording


def _control(
    c: Contestant, control: Control, words: str, seeds: Sequence[InnerOptimizer], note: str, join: str = ", "
) -> Contestant:
    return Contestant(f"{c.name}{join}{words}", tuple(seeds), "control", note, c.name, control, c.budgets)


def _equal(a: Contestant, b: Contestant) -> bool:
    """Whether two contestants are the same optimizers."""
    if len(a.seeds) != len(b.seeds):
        return False
    pairs = zip(a.seeds, b.seeds, strict=True)
    return all(describe(one) == describe(other) and same_weights(one, other) for one, other in pairs)


def _scales(network: nn.Module) -> bool:
    try:
        return only_scales(group_of(network, "scaling"))
    except SymmetryError:
        return False
