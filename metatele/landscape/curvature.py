"""Curvature of a minimum: how much curves of the group's orbit bend."""

import warnings

import torch
from torch import Tensor
from torch.func import jvp

from metatele.errors import SymmetryError
from metatele.landscape.base import Objective, Place
from metatele.support.checks import at_least
from metatele.support.seeding import generator
from metatele.task.params import Params, flatten, map_params

LEAST_BEND = 1e-30  # under the root: a derivative where a curve is straight


class Curvature(Objective):
    """psi(w) = mean over random M of the curvature at t = 0 of gamma_M(t) = exp(t M) . w, [B].

    kappa = sqrt(|gamma'|^2 |gamma''|^2 - (gamma' . gamma'')^2) / |gamma'|^3, with derivatives by
    forward-mode differentiation, exact. M is normal in the Lie algebra of the landscape's whole
    group (its length does not matter); the same draws for all tasks and at every call.
    Source: Zhao et al. 2024 (arXiv:2305.13404), section 5 and appendix.

    Args:
        elements: number of draws M.
        seed: what the draws depend on.
    """

    needs_group = True

    def __init__(self, elements: int = 20, seed: int = 0) -> None:
        at_least(1, elements=elements)
        self.elements, self.seed = elements, seed

    def __call__(self, place: Place) -> Tensor:
        group, tasks = place.landscape.group, len(place.landscape.inputs)
        if not group.factors:
            raise SymmetryError(
                "the curvature of a minimum is that of curves along a group's orbit, and this landscape has no group; "
                "use a network whose symmetry is known, or another objective"
            )
        first = next(iter(place.params.values()))
        stream, shapes = generator("curvature", self.seed), group.algebra_shapes
        draws = [torch.randn(self.elements, *s, generator=stream, dtype=first.dtype).to(first.device) for s in shapes]
        # Every task with every draw, as elements * tasks stacked networks.
        algebra = [d.repeat_interleave(tasks, 0) for d in draws]
        params: Params = map_params(lambda p: p.repeat(self.elements, *[1] * (p.dim() - 1)), place.params)
        inputs = place.landscape.inputs[:, :1] if group.exact else place.landscape.inputs  # exact groups see no data
        inputs = inputs.repeat(self.elements, *[1] * (inputs.dim() - 1))

        def curve(t: Tensor) -> Tensor:
            return flatten(group.act(group.exp([t * m for m in algebra]), params, inputs))

        def velocity(t: Tensor) -> Tensor:
            return jvp(curve, (t,), (one,))[1]

        zero = first.new_zeros(())
        one = torch.ones_like(zero)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, at its first forward-mode derivative
            tangents: tuple[Tensor, Tensor] = jvp(velocity, (zero,), (one,))  # type: ignore[assignment]
        return curve_curvature(*tangents).reshape(self.elements, tasks).mean(0)


def curve_curvature(velocity: Tensor, acceleration: Tensor) -> Tensor:
    """Curvature [B] of curves in R^n with velocity and acceleration [B, n]; 0 where the curve stands still.

    |gamma'' - its part along gamma'| / |gamma'|^2, which is the formula above without cancellation.
    """
    speed = velocity.square().sum(1)
    still = speed == 0
    speed = torch.where(still, torch.ones_like(speed), speed)
    along = (velocity * acceleration).sum(1) / speed
    bend = acceleration - along.unsqueeze(1) * velocity
    kappa = (bend.square().sum(1) + LEAST_BEND).sqrt() / speed
    return torch.where(still, torch.zeros_like(kappa), kappa)
