"""What a search along a level set sees at a point, and the report of how far it moved."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatele.errors import ConfigError
from metatele.landscape import Landscape, ObjectiveFunction, Place, value_of
from metatele.task.params import flatten, per_task, unflatten

LEAST_DIVISOR = 1e-30  # added to what may be zero before a division by it


@dataclass(frozen=True)
class Moved:
    """How far a teleport moved each of B tasks; all tensors [B], detached.

    Attributes:
        loss_before, loss_after: the loss on the rows that the search looked at, which it keeps.
        objective_before, objective_after: the objective there.
        undone: whether the task stays exactly where it was, because the search ended outside the
            tolerance or with a worse objective, or met a number that is not finite at its start or end;
            or, in an inner loop, because the task was not alive.
        step_loss_before, step_loss_after: in an inner loop, the loss on the step's own batch, which the
            search does not keep if it looked at other rows. None otherwise.
    """

    loss_before: Tensor
    loss_after: Tensor
    objective_before: Tensor
    objective_after: Tensor
    undone: Tensor
    step_loss_before: Tensor | None = None
    step_loss_after: Tensor | None = None

    def in_step(self, moved: Tensor, loss_before: Tensor, loss_after: Tensor) -> "Moved":
        """The report of an inner step that moved these tasks [B] only, with the losses on its batch [B]."""
        loss = torch.where(moved, self.loss_after, self.loss_before)
        objective = torch.where(moved, self.objective_after, self.objective_before)
        return Moved(self.loss_before, loss, self.objective_before, objective, ~moved, loss_before, loss_after)


@dataclass(frozen=True)
class Spot:
    """What a search knows at a point, for each task; detached.

    Attributes:
        flat: all parameters, [B, n] (see `metatele.task.params.flatten`).
        loss: the loss, [B].
        gain: the objective, with a minus sign where it is to fall, [B].
        gradient, slope: the gradients of the loss and of the gain, [B, n].
    """

    flat: Tensor
    loss: Tensor
    gain: Tensor
    gradient: Tensor
    slope: Tensor

    @property
    def finite(self) -> Tensor:
        """Whether all numbers of a task are finite, [B]."""
        columns = [self.flat, self.gradient, self.slope, self.loss.unsqueeze(1), self.gain.unsqueeze(1)]
        return torch.cat(columns, 1).isfinite().all(1)

    @property
    def price(self) -> Tensor:
        """The gain that a unit of the loss is worth to first order, <slope, gradient> / |gradient|^2, [B]."""
        return (self.slope * self.gradient).sum(1) / (self.gradient.square().sum(1) + LEAST_DIVISOR)

    def or_else(self, which: Tensor, other: "Spot") -> "Spot":
        """This spot for the tasks where `which` [B] is true, the other one elsewhere."""
        pairs = ((mine, getattr(other, name)) for name, mine in vars(self).items())
        return Spot(*(torch.where(per_task(which, mine), mine, theirs) for mine, theirs in pairs))


@dataclass(frozen=True)
class View:
    """A landscape as a search sees it, over flat parameters [B, n].

    Attributes:
        landscape: the losses.
        like: parameters {name: [B, ...]}, whose names and shapes count.
        objective: what is to be improved.
        sign: 1 if the objective is to rise, -1 if it is to fall.
    """

    landscape: Landscape
    like: Mapping[str, Tensor]
    objective: ObjectiveFunction
    sign: float

    def at(self, flat: Tensor) -> Spot:
        """Everything about a point: costs a gradient of the objective.

        Raises: ConfigError if the objective has none.
        """
        # Only the plain attention kernel can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = flat.detach().requires_grad_()
            place = Place(self.landscape, unflatten(leaf, self.like))
            gain = self.sign * value_of(self.objective, place)
            if not gain.requires_grad:
                raise ConfigError(
                    f"the objective {getattr(self.objective, '__name__', self.objective)!r} does not change with the "
                    "parameters, or not by operations that autograd follows, so there is nothing to climb"
                )
            loss, gradient = place.loss.detach(), flatten(place.gradient).detach()
            (slope,) = torch.autograd.grad(gain.sum(), leaf, materialize_grads=True)
        return Spot(leaf.detach(), loss, gain.detach(), gradient, slope.detach())

    def loss(self, flat: Tensor) -> Tensor:
        """The loss alone, [B]."""
        with torch.no_grad():
            return self.landscape.loss(unflatten(flat, self.like))

    def gradient(self, flat: Tensor) -> Tensor:
        """The loss's gradient alone, [B, n]."""
        return flatten(self.landscape.gradient(unflatten(flat, self.like)))
