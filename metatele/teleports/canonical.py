"""Closed-form teleports: each layer goes to the point of its orbit that a rule singles out.

For the hidden layers of GL(h) (no activation) a rule gives a matrix, for those of positive scaling
(ReLU, LeakyReLU) a vector of scales: the same rule with a diagonal matrix. All are differentiable.
A = W_in W_in^T + b b^T and C = W_out^T W_out are the Gram matrices of a layer, Z [h, n] its
pre-activations on the batch.
"""

import abc
from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.parts.point import Point, State
from metatele.symmetry import GeneralLinear, HiddenLayer, Kind, PositiveScaling, ProductGroup, Symmetry
from metatele.symmetry.matrices import solve
from metatele.task.params import Params, per_task
from metatele.teleports.base import OrbitTeleport
from metatele.teleports.spd import gram_root, spd_root

SWEEPS = 1000  # most sweeps over the layers
ROUNDING = 32  # in units of the machine precision: what lifts an eigenvalue 0 above its rounding error
TINY = 1e-30  # under a root: a derivative where a neuron is dead


class CanonicalTeleport(OrbitTeleport):
    """A rule for each layer, applied in sweeps over the layers until none moves.

    What leaves one hidden layer enters the next, so with several layers one sweep is not enough.
    By default once, before the first update (`last=0`).

    Args:
        first, last, every, symmetry: see `OrbitTeleport`.
    """

    def __init__(self, first: int = 0, last: int | None = 0, every: int = 1, symmetry: Kind = "auto") -> None:
        super().__init__(symmetry, first, last, every)

    @abc.abstractmethod
    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        """The rule's scales [B, h] of a layer of positive scaling."""

    @abc.abstractmethod
    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        """The rule's matrices [B, h, h] of a layer of GL(h).

        Raises: SymmetryError, which names the layer, if its sizes do not allow the rule.
        """

    def finish(self, factor: GeneralLinear, params: Params) -> Tensor | None:
        """A last matrix [B, h, h] for a layer when all layers follow the rule, or None."""
        return None

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        params, inputs = dict(point.params), point.inputs
        like = next(iter(params.values()))
        total = [factor.identity(like) for factor in group.factors]
        eps, before = torch.finfo(like.dtype).eps, torch.full((len(like),), torch.inf, device=like.device)
        done = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        for _ in range(SWEEPS):
            largest = torch.zeros_like(before)
            for i, factor in enumerate(group.factors):
                g, one = self._of_layer(factor, params, inputs), factor.identity(like)
                g = torch.where(per_task(done, g), one, g)  # each task sweeps as often as it would alone
                params = factor.act(g, params, inputs)
                total[i] = factor.compose(g, total[i])
                change = (g - one).detach().abs().flatten(1).amax(1)
                largest = torch.maximum(largest, torch.where(change.isfinite(), change, 0.0))  # a NaN is done
            # Rounding may keep matrices moving a little.
            done = done | (largest < 100 * eps) | ((largest < eps**0.5) & (largest >= before))
            if len(total) == 1 or bool(done.all()):
                break
            before = largest
        for i, factor in enumerate(group.factors):
            last = self.finish(factor, params) if isinstance(factor, GeneralLinear) else None
            if last is not None:
                total[i] = factor.compose(last, total[i])
        return total, state

    def _of_layer(self, factor: Symmetry, params: Params, inputs: Tensor) -> Tensor:
        if isinstance(factor, PositiveScaling):
            return self.scales(factor, params, inputs)
        if isinstance(factor, GeneralLinear):
            return self.matrix(factor, params, inputs)
        raise SymmetryError(
            f"{factor.name}: {type(self).__name__} has no closed form for {type(factor).__name__}; "
            "set its symmetry to 'scaling' or 'auto'"
        )


class Balance(CanonicalTeleport):
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


class Svd(Balance):
    """Balance, then rotate GL(h) to the eigenbasis that both sides then share, largest first.

    On a network of two layers W_in and W_out become the halves of the singular value decomposition
    of their product. Eigenvectors have no derivative where eigenvalues coincide.
    """

    def __init__(self, first: int = 0, last: int | None = 0, every: int = 1, symmetry: Kind = "auto") -> None:
        super().__init__(first, last, every, symmetry)

    def finish(self, factor: GeneralLinear, params: Params) -> Tensor | None:
        incoming = incoming_gram(factor.layer, params, type(self).__name__)
        good = incoming.detach().isfinite().all(2, keepdim=True).all(1, keepdim=True)
        vectors = torch.linalg.eigh(torch.where(good, incoming, _eye(incoming)))[1].flip(-1)
        largest = vectors.gather(1, vectors.detach().abs().argmax(1, keepdim=True))
        turned = (vectors * largest.detach().sign()).mT  # one sign for each vector, whatever the solver's
        return torch.where(good, turned, torch.nan)


class White(CanonicalTeleport):
    """Whiten each layer's pre-activations on the batch.

    GL(h): g = (Z Z^T / n)^(-1/2). Scaling: every neuron gets mean square 1; dead neurons stay.
    """

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        square = factor.layer.pre_activations(params, inputs).square().mean(2)
        return _or_one(square, square.clamp_min(TINY).rsqrt())

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        z = factor.layer.pre_activations(params, inputs)
        most = _inflow(factor.layer, params)
        if min(z.shape[2], most) < z.shape[1]:
            raise SymmetryError(
                f"{factor.name}: White needs at least as many data rows and inputs as the layer has neurons, got "
                f"{z.shape[2]} rows, {most} inputs (with the bias) and {z.shape[1]} neurons; use more rows, or Balance"
            )
        return solve(spd_root(z @ z.mT / z.shape[2]), _eye(z), True)


class Wout(CanonicalTeleport):
    """Make the columns of W_out orthonormal: g = C^(1/2). Scaling: columns of norm 1; dead neurons stay."""

    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        square = params[factor.layer.weight_out].square().sum(1)
        return _or_one(square, square.clamp_min(TINY).sqrt())

    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        weight = params[factor.layer.weight_out]
        if weight.shape[1] < weight.shape[2]:
            raise SymmetryError(
                f"{factor.name}: Wout needs at least as many outputs as the layer has neurons, got "
                f"{weight.shape[1]} outputs and {weight.shape[2]} neurons; use Balance"
            )
        return spd_root(weight.mT @ weight)


def incoming_gram(layer: HiddenLayer, params: Mapping[str, Tensor], rule: str) -> Tensor:
    """A = W_in W_in^T + b b^T, [B, h, h].

    Raises: SymmetryError if the layer has more neurons than inputs, so that A is singular.
    """
    inflow = _inflow(layer, params)
    if inflow < layer.width:
        raise SymmetryError(
            f"{layer.name}: {rule} of GL(h) needs at least as many inputs (with the bias) as neurons, got {inflow} "
            f"inputs and {layer.width} neurons; set its symmetry to 'scaling'"
        )
    incoming = params[layer.weight_in] @ params[layer.weight_in].mT
    if layer.bias_in is not None:
        bias = params[layer.bias_in].unsqueeze(2)
        incoming = incoming + bias @ bias.mT
    return incoming


def _inflow(layer: HiddenLayer, params: Mapping[str, Tensor]) -> int:
    return params[layer.weight_in].shape[2] + (layer.bias_in is not None)


def _eye(like: Tensor) -> Tensor:
    """Identity matrices [B, h, h] for a tensor [B, h, ...]."""
    eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    return eye.expand(len(like), *eye.shape)


def _or_one(size: Tensor, scale: Tensor) -> Tensor:
    """The scale, or 1 for neurons whose size is nearly 0."""
    return torch.where(size < 1e-24, torch.ones_like(scale), scale)
