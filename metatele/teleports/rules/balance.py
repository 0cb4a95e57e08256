"""The balance rule: equal weights on both sides of every layer."""

import torch
from torch import Tensor

from metatele.symmetry import GeneralLinear, Kind, PositiveScaling
from metatele.symmetry.matrices import solve
from metatele.task.params import Params
from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.layers import incoming_gram
from metatele.teleports.rules.spd import gram_root, spd_root

ROUNDING = 32  # in units of the machine precision: what lifts an eigenvalue 0 above its rounding error


class Balance(CanonicalTeleport, rule="balance"):
    """Equalise the incoming and the outgoing side of every layer.

    Scaling: |W_in row| = |W_out column| for every neuron, T = log(|W_out column| / |W_in row|) / 2.
    GL(h): g A g^T = g^-T C g^-1 by g = M^(1/2), where M = g^T g solves M A M = C + delta A^-1 (delta is
    rounding error times trace(A C), which no g changes): the point of the orbit with the smallest
    sum of squared weights. The control that every claim about a learned teleport needs.

    Source: Neyshabur et al. 2015, arXiv:1506.02617; Saul 2023 for balancing during training.
    """

    def __init__(self, first: int = 0, last: int | None = 0, every: int = 1, symmetry: Kind = "scaling") -> None:
        super().__init__(first, last, every, symmetry)

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        return factor.balancing(params).exp()

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        root = spd_root(incoming_gram(factor.layer, params, type(self).__name__))
        across = params[factor.layer.weight_out] @ root
        delta = ROUNDING * torch.finfo(across.dtype).eps * across.square().sum((1, 2))
        middle = gram_root(across, delta)  # (root C root + delta)^(1/2)
        return spd_root(solve(root, solve(root, middle, True), False))
