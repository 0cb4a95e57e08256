"""The paper's learned teleport: one LSTM over the flattened gradient of the whole network."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metatele.errors import CheckpointError
from metatele.parts.dense_rule import DenseRule, Inputs, Shapes
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, one_of
from metatele.symmetry import Kind, ProductGroup
from metatele.task.params import Params, per_task, smooth_norm
from metatele.teleports.orbit import AlgebraTeleport


class DenseTeleport(AlgebraTeleport):
    """LSTM(tele): the LSTM's output is the Lie algebra element T of every hidden layer.

    Args:
        hidden, layers: size of the LSTM.
        inputs: "raw" gradients, as in the paper, or "normalised" ones.
        norm: Frobenius norm of T at each layer, or its bound.
        size: "fixed" rescales T to this norm, as the paper does (to 0.01); "learned" lets the LSTM
            choose a norm below it: T <- T / |T| * norm * tanh(|T| / norm).
        symmetry, first, last: see `OrbitTeleport`.
        shapes: shapes of one task's parameters; taken from the first network when None.
        algebra: shapes of one task's T, one for each factor of the group; likewise.
    """

    def __init__(
        self,
        hidden: int = 300,
        layers: int = 2,
        inputs: Inputs = "normalised",
        norm: float = 0.2,
        size: Literal["fixed", "learned"] = "learned",
        symmetry: Kind = "auto",
        first: int = 0,
        last: int | None = None,
        shapes: Shapes | None = None,
        algebra: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(symmetry, first, last)
        above_zero(norm=norm)
        one_of(("fixed", "learned"), size=size)
        self.hidden, self.layers, self.inputs, self.norm, self.size = hidden, layers, inputs, norm, size
        self.algebra = None if algebra is None else [list(s) for s in algebra]
        # A fixed norm has no scale to start small in.
        self.rule = DenseRule(hidden, layers, inputs, shapes, head_scale=0.1 if size == "learned" else 1.0)
        if shapes is not None and algebra is not None:
            self.rule.build(sum(self._counts()))

    @property
    def shapes(self) -> Shapes | None:
        return self.rule.shapes

    def bind(self, params: Params, group: ProductGroup) -> None:
        found = [list(s) for s in group.algebra_shapes]
        if self.rule.fit(params):
            self.algebra = found
            self.rule.build(sum(self._counts()))
        elif self.algebra != found:
            raise CheckpointError(
                f"this dense teleport was made for Lie algebra elements of shapes {self.algebra} and cannot run on "
                f"{found}; use NeuronTeleport or meta-train on this network"
            )

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=self.rule.start(params))

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        out, memory = self.rule(point.gradient, state.memory)
        parts = out.split(self._counts(), dim=1)
        algebra = [self._resize(t).reshape(-1, *s) for t, s in zip(parts, group.algebra_shapes, strict=True)]
        return algebra, State(memory=memory)

    def _counts(self) -> list[int]:
        assert self.algebra is not None
        return [torch.Size(s).numel() for s in self.algebra]

    def _resize(self, flat: Tensor) -> Tensor:
        norm = smooth_norm(flat, 1)
        target = torch.full_like(norm, self.norm)
        if self.size == "learned":
            target = target * (norm / self.norm).tanh()
        return flat * per_task(target / norm, flat)
