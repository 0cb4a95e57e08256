"""The base of all closed-form rules: each layer goes to the point of its orbit that the rule singles out."""

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.parts.point import Point, State
from metatele.support.modules import enter
from metatele.support.presume import presume
from metatele.support.seeding import generator
from metatele.symmetry import GeneralLinear, Kind, PositiveScaling, ProductGroup, Symmetry
from metatele.task.params import Params, per_task, select_tasks
from metatele.teleports.orbit import OrbitTeleport

SWEEPS = 1000  # most sweeps over the layers


class CanonicalTeleport(OrbitTeleport):
    """A rule for each layer, applied in sweeps over the layers until none moves.

    At a singular point of the rule, such as outgoing weights of 0, a task stays where it is.

    For the hidden layers of GL(h) (no activation) a rule gives a matrix, for those of positive scaling (ReLU,
    LeakyReLU) a vector of scales: the same rule with a diagonal matrix. All are differentiable. What leaves one hidden
    layer enters the next, so with several layers one sweep is not enough. By default a rule acts once, before the first
    update (`last=0`).

    To be written: `scales` and `matrix`; `metatele.teleports.rules.layers` and `spd` have what rules are made of. A
    constructor of its own must take first, last, every and symmetry. A rule that serves as a control for learned
    teleports is given a name by its class, `class White(CanonicalTeleport, rule="white")`, in a file of this folder.

    Args:
        first, last, every, symmetry: see `OrbitTeleport`.

    Attributes:
        named: all rules that have a name, {name: class}, in the order in which they were defined.
        symmetries: the groups that the rule can act on, the one to try first.
        otherwise: why it is no control where it does not differ from all others, in words.
    """

    named: ClassVar[dict[str, type["CanonicalTeleport"]]] = {}
    symmetries: ClassVar[tuple[Kind, ...]] = ("auto", "scaling")
    otherwise: ClassVar[str] = "it is another rule there"

    def __init_subclass__(cls, rule: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if rule:
            enter(CanonicalTeleport.named, rule, cls)

    def __init__(self, first: int = 0, last: int | None = 0, every: int = 1, symmetry: Kind = "auto") -> None:
        super().__init__(symmetry, first, last, every)

    @abc.abstractmethod
    def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
        """The rule's scales [B, h] of a layer of positive scaling.

        Args:
            factor: the group of the layer; `factor.layer` names the layer's parameters.
            params: all parameters of the network, {name: [B, ...]}.
            inputs: the network's inputs, [B, n, ...].
        """

    @abc.abstractmethod
    def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
        """The rule's matrices [B, h, h] of a layer of GL(h); arguments as for `scales`.

        Raises: SymmetryError, which names the layer, if its sizes do not allow the rule.
        """

    def finish(self, factor: GeneralLinear, params: Params) -> Tensor | None:
        """A last matrix [B, h, h] for a layer when all layers follow the rule, or None."""
        return None

    @classmethod
    def differs_on(cls, group: ProductGroup) -> bool:
        """Whether the rule differs from all others on a group; where it does not, it is not a separate control, and
        `otherwise` says which one it is."""
        return True

    def element(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        params, inputs = dict(point.params), point.inputs
        like = next(iter(params.values()))
        total = [_identity(factor, like) for factor in group.factors]
        eps, before = torch.finfo(like.dtype).eps, torch.full((len(like),), torch.inf, device=like.device)
        done = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        for _ in range(SWEEPS):
            largest = torch.zeros_like(before)
            for i, factor in enumerate(group.factors):
                g, one = self._at_regular_points(factor, params, inputs), _identity(factor, like)
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

    def _at_regular_points(self, factor: Symmetry, params: Params, inputs: Tensor) -> Tensor:
        """The rule's element of one layer; the identity for tasks at a point at which it has none, such as one with
        outgoing weights of 0: they stay there."""
        g = self._of_layer(factor, params, inputs)
        regular, known = g.isfinite().flatten(1).all(1), _finite(params)
        if presume(regular | ~known, f"{type(self).__name__} has an element at every point"):
            return g
        # Once more at other points, because the derivative of what is not taken would be NaN, too.
        stays = ~regular & known
        stream = generator("singular", factor.name)
        elsewhere = {k: torch.randn(p.shape[1:], generator=stream).to(p).expand_as(p) for k, p in params.items()}
        g = self._of_layer(factor, select_tasks(stays, elsewhere, params), inputs)
        return torch.where(per_task(stays, g), _identity(factor, next(iter(params.values()))), g)

    def _of_layer(self, factor: Symmetry, params: Params, inputs: Tensor) -> Tensor:
        """The rule's group element of one layer. Raises: SymmetryError for another group."""
        if isinstance(factor, PositiveScaling):
            return self.scales(factor, params, inputs)
        if isinstance(factor, GeneralLinear):
            return self.matrix(factor, params, inputs)
        raise SymmetryError(
            f"{factor.name}: {type(self).__name__} has no closed form for {type(factor).__name__}; "
            "set its symmetry to 'scaling' or 'auto'"
        )


def _finite(params: Params) -> Tensor:
    """Which tasks have finite parameters only, [B]."""
    return torch.stack([p.isfinite().reshape(len(p), -1).all(1) for p in params.values()]).all(0)


def _identity(factor: Symmetry, like: Tensor) -> Tensor:
    """The identity of a layer's group; for GL(h) the matrix alone, without its inverse, as rules return it."""
    one = factor.identity(like)
    return factor.matrix(one) if isinstance(factor, GeneralLinear) else one
