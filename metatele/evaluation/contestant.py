"""Who takes part in an evaluation: checkpoints, and the controls that belong to them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metatele.errors import ConfigError, MetateleError, SymmetryError
from metatele.evaluation.tuning import Tuning
from metatele.optimizer import InnerOptimizer
from metatele.symmetry import PositiveScaling, symmetries_of
from metatele.task import MetaBatch
from metatele.teleports import Balance, Stay
from metatele.unroll import Unroll

Kind = Literal["checkpoint", "control", "baseline"]


@dataclass(frozen=True)
class Contestant:
    """One inner optimizer of an evaluation.

    Attributes:
        name: what tables and figures call it; unique within an evaluation.
        inner: the inner optimizer.
        kind: a checkpoint, a control made from one, or a baseline.
        note: what a reader must know to judge it.
        source: the checkpoint that a control was made from.
        tuning: how a baseline's learning rate was found.
    """

    name: str
    inner: InnerOptimizer
    kind: Kind = "checkpoint"
    note: str = ""
    source: str | None = None
    tuning: Tuning | None = None

    @property
    def label(self) -> str:
        """The name, with a baseline's learning rate."""
        return self.name if self.tuning is None else f"{self.name} (lr {self.tuning.lr:g})"


def from_checkpoints(checkpoints: Mapping[str, InnerOptimizer], device: str | torch.device) -> list[Contestant]:
    """Frozen float32 copies of the checkpoints on a device; the originals are left alone."""
    frozen = {
        name: copy.deepcopy(inner).to(device=device, dtype=torch.float32).requires_grad_(False)
        for name, inner in checkpoints.items()
    }
    return [Contestant(name, inner) for name, inner in frozen.items()]


def with_controls(checkpoints: Sequence[Contestant], network: nn.Module) -> list[Contestant]:
    """The checkpoints, each followed by its controls.

    A checkpoint that teleports, but not by the balance rule, gets the same update with its
    teleports off. The first checkpoint that does not teleport (without one, the first that does)
    gets the same update after the balance rule at step 0, if every symmetry of the network is a
    positive scaling.
    """
    resting = [c for c in checkpoints if not c.inner.teleport.moves]
    balanced = next(iter(resting or checkpoints), None) if _scales(network) else None
    out: list[Contestant] = []
    for c in checkpoints:
        out.append(c)
        if c.inner.teleport.moves and not isinstance(c.inner.teleport, Balance):
            note = "the checkpoint's update alone; it was meta-trained together with the teleport"
            inner = InnerOptimizer(c.inner.update, Stay())
            out.append(Contestant(f"{c.name}, teleports off", inner, "control", note, c.name))
        if c is balanced and not isinstance(c.inner.teleport, Balance):
            note = "the checkpoint's update after the balance rule at step 0; it was not meta-trained with the rule"
            inner = InnerOptimizer(c.inner.update, Balance(), "before")
            out.append(Contestant(f"{c.name} + balance", inner, "control", note, c.name))
    return out


def _scales(network: nn.Module) -> bool:
    try:
        return all(isinstance(s, PositiveScaling) for s in symmetries_of(network, "scaling"))
    except SymmetryError:
        return False


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises: ConfigError if two contestants have one name."""
    names = [c.name for c in contestants]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two contestants would be called {name!r}; give the checkpoint another name")


def check_runs(contestants: Sequence[Contestant], batch: MetaBatch) -> None:
    """Play one step of every contestant, so that one that cannot run on the tasks is found at once.

    Raises: the MetateleError that the contestant raises (CheckpointError for another network size,
        SymmetryError for a network without the symmetry), with the contestant's name in front.
    """
    for c in contestants:
        try:
            unroll = Unroll(c.inner, batch, 1)
            unroll.window(unroll.start(), 1, differentiable=False)
        except MetateleError as error:
            raise type(error)(f"{c.name}: {error}") from error


def reference_of(contestants: Sequence[Contestant], wanted: str | None) -> str:
    """The name of the contestant that differences are taken from.

    `wanted` if given; else the first checkpoint without teleportation; else the first control with
    its teleports off; else the first contestant.

    Raises: ConfigError if no contestant is called `wanted`.
    """
    names = [c.name for c in contestants]
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"the reference {wanted!r} is no contestant; use one of {', '.join(map(repr, names))}")
        return wanted
    for kind in ("checkpoint", "control"):
        for c in contestants:
            if c.kind == kind and not c.inner.teleport.moves:
                return c.name
    return names[0]
