"""The field's per-coordinate network with momenta and Adafactor's features."""

from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least
from metatele.task.params import Params
from metatele.update.accumulators import Accumulators
from metatele.update.base import Update
from metatele.update.coordinate_features import TIMES, coordinate_features, time_features
from metatele.update.feature_network import FeatureNetwork


class SmallMLPUpdate(Update):
    """The field's small_fc_lopt: a network of two hidden layers from 39 features of a coordinate to its step.

    f = -step * d * exp(exponent * m), with direction d and magnitude m the network's outputs. It sees the parameter,
    the gradient, momenta and second moments of several spans, Adafactor's factors, all normalised to second moment one
    across the tensor (see `coordinate_features`), and tanh(t / x) of the step t for eleven x. It sees no horizon. The
    decays of the momenta and of the second moments are learned, too. A fresh one steps in random directions.

    From the paper it differs in these: tensors of more than two dimensions have their factors as matrices [first,
    others], not along the two largest dimensions; the second moment's decay is that of the slowest factor; what keeps
    roots from zero is relative to the tensor's gradient, so that its scale does not matter; the gradient is not
    clipped; factors are kept as whole second moments, which costs memory, so that teleports can carry them along.

    Source: Metz et al. 2022, arXiv:2203.11860.

    Args:
        hidden: units of a layer.
        step, exponent: the paper's lambda_1 and lambda_2.
    Raises: ConfigError for an argument out of range.
    """

    def __init__(self, hidden: int = 32, step: float = 0.001, exponent: float = 0.001) -> None:
        super().__init__()
        at_least(1, hidden=hidden)
        above_zero(step=step, exponent=exponent)
        self.hidden, self.step, self.exponent = hidden, step, exponent
        self.accumulators, self.network = Accumulators(), FeatureNetwork(hidden, len(TIMES))

    def initialise(self) -> None:
        super().initialise()
        self.accumulators.initialise()
        self.network.initialise()

    def start(self, params: Params) -> State:
        return self.accumulators.start(params)

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        seen, after = self.accumulators.take(point, state)
        step = {}
        for name, p in point.params.items():
            direction, magnitude = self.network(coordinate_features(seen[name]), time_features(point, p))
            step[name] = (-self.step * direction * (self.exponent * magnitude).exp()).reshape(p.shape)
        return step, after
