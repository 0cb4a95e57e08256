"""The rule that makes the outgoing weights orthonormal."""

from torch import Tensor

from metatele.errors import SymmetryError
from metatele.symmetry import GeneralLinear, PositiveScaling
from metatele.task.params import Params
from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.layers import DEAD, or_one
from metatele.teleports.rules.spd import spd_root


class Wout(CanonicalTeleport, rule="wout"):
    """Make the columns of W_out orthonormal: g = C^(1/2). Scaling: columns of norm 1; dead neurons stay."""

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        square = params[factor.layer.weight_out].square().sum(1)
        return or_one(square, square.clamp_min(DEAD).sqrt())

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        weight = params[factor.layer.weight_out]
        if weight.shape[1] < weight.shape[2]:
            raise SymmetryError(
                f"{factor.name}: Wout needs at least as many outputs as the layer has neurons, got "
                f"{weight.shape[1]} outputs and {weight.shape[2]} neurons; use Balance"
            )
        return spd_root(weight.mT @ weight)
