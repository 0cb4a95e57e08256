"""A learned teleport that runs on networks of any width and depth."""

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.parts.point import Point, State
from metatele.recurrent import RecurrentCore
from metatele.support.checks import above_zero
from metatele.symmetry import PositiveScaling, ProductGroup
from metatele.task.params import Params
from metatele.teleports.orbit import AlgebraTeleport, OrbitTeleport

LEAST_WEIGHT = 1e-20  # added to squared norms, so that logarithms stay smooth at zero


class NeuronTeleport(AlgebraTeleport):
    """LSTM(tele), size-free: one small LSTM shared by all neurons of all hidden layers.

    It sees each neuron's own weight and gradient norms and chooses its log-scale T = bound *
    tanh(o) in the positive scaling group; renumbering the neurons renumbers T.

    Args:
        hidden, layers: size of the LSTM.
        bound: largest |T| at one step.
        first, last: see `OrbitTeleport`.
    """

    FEATURES = 6

    def __init__(
        self, hidden: int = 20, layers: int = 1, bound: float = 1.0, first: int = 0, last: int | None = None
    ) -> None:
        super().__init__("scaling", first, last)
        above_zero(bound=bound)
        self.hidden, self.layers, self.bound = hidden, layers, bound
        self.core = RecurrentCore(self.FEATURES, hidden, layers, 1, head_scale=0.1)

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        neurons = sum(shape[0] for shape in group.algebra_shapes)
        first = next(iter(params.values()))
        return State(memory=self.core.start(len(first) * neurons, first))

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        factors = scalings(group, self)
        features = torch.cat([_features(f, point) for f in factors], dim=1)
        out, memory = self.core(features.flatten(0, 1), state.memory)
        algebra = self.bound * out.reshape(features.shape[:2]).tanh()
        widths = [f.layer.width for f in factors]
        return list(algebra.split(widths, dim=1)), State(memory=memory)


def _features(factor: PositiveScaling, point: Point) -> Tensor:
    """What the LSTM sees of each neuron, [B, h, FEATURES], all of order one."""
    w_in, w_out = factor.norms(point.params, LEAST_WEIGHT)
    g_in, g_out = factor.norms(point.gradient, LEAST_WEIGHT)
    activity = (g_in * g_out).log() / 2
    # <W_in row, gradient> does not change on the orbit; its cosine tells how radial the gradient is.
    cosine = factor.inner_products(point.params, point.gradient) / (w_in * g_in)
    columns = [
        (w_in / w_out).log() / 2,
        (w_in * w_out).log() / 2,
        (g_in / g_out).log() / 2,
        activity - activity.mean(1, keepdim=True),
        cosine,
        point.time(w_in),
    ]
    return torch.stack(columns, dim=2)


def scalings(group: ProductGroup, teleport: OrbitTeleport) -> list[PositiveScaling]:
    """The factors of a group, all of which must be positive scalings.

    Raises: SymmetryError if one is not.
    """
    out = []
    for factor in group.factors:
        if not isinstance(factor, PositiveScaling):
            raise SymmetryError(
                f"{type(teleport).__name__} needs positive scaling at every hidden layer, got "
                f"{type(factor).__name__}; set its symmetry to 'scaling'"
            )
        out.append(factor)
    return out
