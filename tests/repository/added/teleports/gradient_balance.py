"""A teleport that evens out the gradients on the two sides of each neuron."""

from torch import Tensor

from metatele.parts.point import Point, State
from metatele.support.checks import above_zero
from metatele.symmetry import ProductGroup
from metatele.teleports.neuron import scalings
from metatele.teleports.orbit import AlgebraTeleport


class GradientBalance(AlgebraTeleport):
    """T = bound * tanh(log(|g_in| / |g_out|) / (2 bound)): equal gradients into and out of every neuron.

    Args:
        bound: largest |T| of a step.
        first, last, every: see `OrbitTeleport`; by default once, before the first update.
    """

    def __init__(self, bound: float = 1.0, first: int = 0, last: int | None = 0, every: int = 1) -> None:
        super().__init__("scaling", first, last, every)
        above_zero(bound=bound)
        self.bound = bound

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        algebra = []
        for factor in scalings(group, self):
            g_in, g_out = factor.norms(point.gradient)
            algebra.append(self.bound * ((g_in / g_out).log() / (2 * self.bound)).tanh())
        return algebra, state
