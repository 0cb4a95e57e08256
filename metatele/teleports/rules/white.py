"""The whitening rule."""

from torch import Tensor

from metatele.errors import SymmetryError
from metatele.symmetry import GeneralLinear, PositiveScaling
from metatele.symmetry.matrices import solve
from metatele.task.params import Params
from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.layers import DEAD, eye_like, inflow, or_one
from metatele.teleports.rules.spd import spd_root


class White(CanonicalTeleport, rule="white"):
    """Whiten each layer's pre-activations on the batch.

    GL(h): g = (Z Z^T / n)^(-1/2). Scaling: every neuron gets mean square 1; dead neurons stay.
    """

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        square = factor.layer.pre_activations(params, inputs).square().mean(2)
        return or_one(square, square.clamp_min(DEAD).rsqrt())

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        z = factor.layer.pre_activations(params, inputs)
        most = inflow(factor.layer, params)
        if min(z.shape[2], most) < z.shape[1]:
            raise SymmetryError(
                f"{factor.name}: White needs at least as many data rows and inputs as the layer has neurons, got "
                f"{z.shape[2]} rows, {most} inputs (with the bias) and {z.shape[1]} neurons; use more rows, or Balance"
            )
        return solve(spd_root(z @ z.mT / z.shape[2]), eye_like(z), True)
