"""The paper's learned updates: one LSTM over the flattened gradient of the whole network."""

from typing import Literal

from torch import Tensor

from metatele.errors import ConfigError
from metatele.parts.dense_rule import DenseRule, Inputs, Shapes
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, one_of
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, map_params, per_task, unflatten
from metatele.update.base import Update


class DenseUpdate(Update):
    """LSTM(update): the LSTM's output is the whole step f (arXiv:2305.13404, section 6).

    Args:
        hidden, layers: size of the LSTM.
        inputs: "raw" gradients, as in the paper, or "normalised" ones.
        scale: factor on the output.
        shapes: shapes of one task's parameters; taken from the first network when None.
    """

    def __init__(
        self,
        hidden: int = 300,
        layers: int = 2,
        inputs: Inputs = "normalised",
        scale: float = 0.1,
        shapes: Shapes | None = None,
    ) -> None:
        super().__init__()
        above_zero(scale=scale)
        self.hidden, self.layers, self.inputs, self.scale = hidden, layers, inputs, scale
        self.rule = DenseRule(hidden, layers, inputs, shapes)
        if shapes is not None:
            self.rule.build(self.rule.size)

    @property
    def shapes(self) -> Shapes | None:
        return self.rule.shapes

    def bind(self, params: Params, group: ProductGroup) -> None:
        if self.rule.fit(params):
            self.rule.build(self.rule.size)

    def start(self, params: Params) -> State:
        return State(memory=self.rule.start(params))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        out, memory = self.rule(point.gradient, state.memory)
        return unflatten(self.scale * out, point.params), State(memory=memory)


class DenseStepSize(Update):
    """LSTM(lr): the LSTM's output is the step size of gradient descent (arXiv:2305.13404, section 6).

    Args:
        hidden, layers: size of the LSTM.
        inputs: "raw" gradients, as in the paper, or "normalised" ones.
        smallest, largest: bounds of the step size.
        bound: "clamp" cuts the output off at the bounds, as the published code does; "sigmoid"
            maps it smoothly onto the logarithm of the range, so that its gradient never vanishes.
        shapes: shapes of one task's parameters; taken from the first network when None.
    """

    def __init__(
        self,
        hidden: int = 20,
        layers: int = 2,
        inputs: Inputs = "normalised",
        smallest: float = 1e-7,
        largest: float = 5e-3,
        bound: Literal["clamp", "sigmoid"] = "sigmoid",
        shapes: Shapes | None = None,
    ) -> None:
        super().__init__()
        above_zero(smallest=smallest, largest=largest)
        if not smallest < largest:
            raise ConfigError(f"the smallest step size must be below the largest, got {smallest} and {largest}")
        one_of(("clamp", "sigmoid"), bound=bound)
        self.hidden, self.layers, self.inputs = hidden, layers, inputs
        self.smallest, self.largest, self.bound = smallest, largest, bound
        self.rule = DenseRule(hidden, layers, inputs, shapes)
        if shapes is not None:
            self.rule.build(1)

    @property
    def shapes(self) -> Shapes | None:
        return self.rule.shapes

    def bind(self, params: Params, group: ProductGroup) -> None:
        if self.rule.fit(params):
            self.rule.build(1)

    def start(self, params: Params) -> State:
        return State(memory=self.rule.start(params))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        out, memory = self.rule(point.gradient, state.memory)
        lr = self._step_size(out.squeeze(1))
        return map_params(lambda g: -per_task(lr, g) * g, point.gradient), State(memory=memory)

    def _step_size(self, out: Tensor) -> Tensor:
        if self.bound == "clamp":
            # A fresh output is of order one: shifted and scaled to start inside the bounds, where a
            # clamp has a gradient.
            return (self.largest * (0.1 + 0.1 * out)).clamp(self.smallest, self.largest)
        ratio = self.largest / self.smallest
        return self.smallest * ratio ** out.sigmoid()
