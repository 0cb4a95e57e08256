"""The rule that makes the incoming weights orthonormal."""

from torch import Tensor

from metatele.symmetry import GeneralLinear, PositiveScaling
from metatele.symmetry.matrices import solve
from metatele.task.params import Params
from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.layers import DEAD, eye_like, incoming_gram, or_one
from metatele.teleports.rules.spd import spd_root


class Win(CanonicalTeleport, rule="win"):
    """Make the rows of (W_in, b_in) orthonormal: g = A^(-1/2). Scaling: rows of norm 1; dead neurons stay."""

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        square = params[factor.layer.weight_in].square().sum(2)
        if factor.layer.bias_in is not None:
            square = square + params[factor.layer.bias_in].square()
        return or_one(square, square.clamp_min(DEAD).rsqrt())

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        gram = incoming_gram(factor.layer, params, type(self).__name__)
        return solve(spd_root(gram), eye_like(gram), True)
