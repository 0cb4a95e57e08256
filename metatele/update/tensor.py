"""A learned update that runs once a parameter tensor, not once a coordinate."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metatele.parts.base import OptimizerPart
from metatele.parts.numbers import row, where
from metatele.parts.point import AMOUNTS, PROGRESS, Point, State
from metatele.recurrent import RecurrentCore
from metatele.support.checks import above_zero, at_least, one_of, yes_or_no
from metatele.symmetry import ProductGroup
from metatele.task.params import Params, map_params
from metatele.update.base import Update
from metatele.update.coordinate_network import CoordinateNetwork
from metatele.update.loss_course import COURSE_FEATURES, COURSE_STATE, LossCourse
from metatele.update.size_free import LEAST_SQUARE
from metatele.update.span import Span
from metatele.update.tensor_directions import GRADIENT, LAST, MOMENTA, PARAMS, SQUARES, Directions, Moments
from metatele.update.tensor_shapes import SHAPE_FEATURES, TensorShapes

Decay = Literal["none", "relative", "absolute", "both"]
Kind = tuple[torch.Size, torch.dtype, torch.device]
LEAST_SLOPE = 1e-30  # added to squared slopes


class Units(NamedTuple):
    """What the numbers of a span are measured in.

    Attributes:
        scale: brings each direction to order one, [B, T, R].
        step: what steps are measured in, [B, T].
        power: log root mean square of the gradient, lately, [B, T].
        growth: log root mean square of the parameters relative to where they began, [B, T].
        clock: what is seen of the time, the horizon and the data (see `Point.clock`, `Point.amounts`).
    """

    scale: Tensor
    step: Tensor
    power: Tensor
    growth: Tensor
    clock: Tensor


class TensorUpdate(Update):
    """LSTM(update) for each parameter tensor: f = -s sum_k w_k d_k, with the weights w and the step size s chosen.

    The directions d_k are made coordinate by coordinate: momentum over the root of Adam's second moment, of two spans;
    the gradient and a slow momentum likewise; momentum and gradient over their root mean square; the parameters. A
    fresh LSTM takes Adam's steps. The tensors of all tasks are the rows of one LSTM, which sees the angles between
    the directions and their lengths, how the gradient and the parameters have grown, the tensor's shape and place, the
    time, the horizon, the loss's course, and the mean of what all tensors see: nothing that depends on the scale of the
    loss. A learned step size for each tensor: Metz et al. 2022, arXiv:2211.09760.

    Args:
        hidden: size of the LSTM.
        lr: the step size of a fresh LSTM.
        relative: measure the steps of a tensor in its own root mean square (see `TensorShapes`).
        decay: whether the parameters are a direction: divided by their root mean square, so that the pull does not
            depend on it; or as they are, so that large tensors are pulled more strongly, as by AdamW; or both, or not.
            Without "absolute" nothing depends on the scale of the parameters either, if `relative` is true.
        secant: whether the LSTM sees how the slope along the last step has changed. That step is carried along by
            teleports as a covector: multiplied by Adam's second moment.
        horizon: whether it sees the horizon, where that is known.
        course: whether it sees how the loss has gone, where that is known.
        data: whether it sees how much data there is, and whether unseen rows count (see `Point.amounts`): by that one
            knows whether to fit the rows. What that changes in the LSTM's outputs, +1 if they count and -1 if not, is
            outputs of its own.
        per_coordinate: units of a small network that corrects the step of each coordinate; 0 for none.
    Raises: ConfigError for an argument out of range.
    """

    FLOOR = 0.1  # of a tensor's first root mean square: what its steps are measured in when it has shrunk to zero

    def __init__(
        self,
        hidden: int = 32,
        lr: float = 0.01,
        relative: bool = True,
        decay: Decay = "both",
        secant: bool = True,
        horizon: bool = True,
        per_coordinate: int = 0,
        course: bool = True,
        data: bool = True,
    ) -> None:
        super().__init__()
        above_zero(lr=lr)
        yes_or_no(relative=relative, secant=secant, horizon=horizon, course=course, data=data)
        one_of(get_args(Decay), decay=decay)
        at_least(0, per_coordinate=per_coordinate)
        self.hidden, self.lr, self.relative, self.decay = hidden, lr, relative, decay
        self.secant, self.horizon, self.course, self.per_coordinate = secant, horizon, course, per_coordinate
        self.data = data
        self.pulls = [pull for pull in ("relative", "absolute") if decay in (pull, "both")]
        many = LAST + secant
        own = many * (many - 1) // 2 + many + 2 + ("absolute" in self.pulls) + 2 * secant + SHAPE_FEATURES
        shared = 1 + PROGRESS * horizon + AMOUNTS * data + COURSE_FEATURES * course + 2 * secant
        outputs = PARAMS + len(self.pulls) + 1 + per_coordinate
        self.core = RecurrentCore(2 * own + shared, hidden, 1, outputs * (1 + data), head_scale=0.1)
        self.network = CoordinateNetwork(LAST, per_coordinate) if per_coordinate else None
        self._bound: tuple[list[Kind], TensorShapes | None] = [], None

    def initialise(self) -> None:
        super().initialise()
        if self.network is not None:
            self.network.initialise()

    @torch.no_grad()
    def begin_with(self, other: OptimizerPart) -> bool:
        """Also with one that does not see the data, if it is the same otherwise: then nothing depends on them yet."""
        blind = type(other) is type(self) and not other.arguments()["data"]
        if not blind or self.arguments() != other.arguments() | {"data": True}:
            return super().begin_with(other)
        weights = other.state_dict()
        after = COURSE_FEATURES * self.course + 2 * self.secant  # inputs that follow those for the data
        inputs = weights["core.cells.0.weight_ih"]
        old, late = inputs.split([inputs.shape[1] - after, after], 1)
        weights["core.cells.0.weight_ih"] = torch.cat([old, inputs.new_zeros(len(inputs), AMOUNTS), late], 1)
        for name in ("core.head.weight", "core.head.bias"):
            weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])])
        self.load_state_dict(weights)
        return True

    def bind(self, params: Params, group: ProductGroup) -> None:
        self._bound = _kinds(params), TensorShapes.of(params, next(iter(params.values())))

    def _shapes(self, params: Params) -> TensorShapes:
        """The numbers about parameters, which are there already if these are what the update was bound to."""
        kinds, shapes = self._bound
        return shapes if shapes and kinds == _kinds(params) else TensorShapes.of(params, next(iter(params.values())))

    def start(self, params: Params) -> State:
        zeros = map_params(torch.zeros_like, params)
        first = next(iter(params.values()))
        shapes = TensorShapes.of(params, first)
        means = _sums(p.square() for p in params.values()) / shapes.counts
        begin = torch.where(means > LEAST_SQUARE, (means + LEAST_SQUARE).sqrt(), shapes.begin)
        none = torch.zeros_like(begin)
        slopes = (none,) if self.secant else ()
        course = LossCourse.start(len(begin), begin) if self.course else ()
        covectors = (zeros,) * (2 + self.secant)
        return State(covectors, (zeros, zeros), (begin, none, *slopes, *course, *self.core.start(begin.numel(), first)))

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        params, shapes = point.params, self._shapes(point.params)
        own = {name: self._directions(name, point, state) for name in params}
        span = Span([o.rows for o in own.values()], [o.products for o in own.values()], shapes.counts)
        begin, first, *rest = state.memory
        units = self._units(point, span, _sums(o.moments.short for o in own.values()), begin, shapes)
        first = where(point.step == 0, units.power, first)
        before = rest.pop(0) if self.secant else None
        course: tuple[Tensor, ...] = ()
        went = None
        if self.course:
            course, went = LossCourse(*rest[:COURSE_STATE]).after(point)
            rest = rest[COURSE_STATE:]
        features = self._features(span, units, shapes, (units.power - first) / 3, before, went)
        out, memory = self.core(features.flatten(0, 1), tuple(rest))
        if self.data:
            out, differs = out.chunk(2, 1)
            out = torch.addcmul(out, units.clock[-1], differs)
        parts, slopes = self._steps(span, units, out.unflatten(0, first.shape))
        step = {name: f.reshape(p.shape) for (name, p), f in zip(params.items(), parts, strict=True)}
        fast, slow, long, short = ({k: o.moments[i] for k, o in own.items()} for i in range(len(Moments._fields)))
        lowered = ({k: f * own[k].metric for k, f in step.items()},) if self.secant else ()
        kept = (begin, first, slopes) if self.secant else (begin, first)
        return step, State((fast, slow, *lowered), (long, short), (*kept, *course, *memory))

    def _directions(self, name: str, point: Point, state: State) -> Directions:
        before = Moments(*(m[name] for m in (*state.covectors[:2], *state.squares)))
        last = state.covectors[2][name] if self.secant else None
        return Directions.of(point.params[name], point.gradient[name], before, last)

    def _units(self, point: Point, span: Span, squares: Tensor, begin: Tensor, shapes: TensorShapes) -> Units:
        """What the directions are measured in.

        Args:
            squares: the sum of each tensor's short second moment, [B, T].
            begin: what the parameters' size was where the state began, [B, T].
        """
        # What the moments have of their numbers: they began without any, as zeros.
        fast, slow, long, short = (1 - beta ** (point.step + 1) for beta in (*MOMENTA, *SQUARES))
        power = (squares / (short * shapes.counts) + LEAST_SQUARE).sqrt()
        unit = torch.addcmul(span.means[..., PARAMS, PARAMS], begin, begin, value=self.FLOOR**2).sqrt()
        one = torch.ones_like(unit)
        step = self.lr * (shapes.step * unit if self.relative else one)
        roots = [long**0.5 / fast, short**0.5 / fast, short**0.5, long**0.5 / slow]
        factors = [*roots, 1 / fast, 1.0, 1.0, 1.0][: LAST + self.secant]
        seen = point.clock()[: None if self.horizon else 1] + (point.amounts() if self.data else [])
        factor, clock = row([*factors, *seen], unit).split([len(factors), len(seen)])
        divisors = [one, one, one, one, power, power, unit, step][: LAST + self.secant]
        return Units(factor / torch.stack(divisors, 2), step, power.log(), (unit / begin).log(), clock)

    def _features(
        self,
        span: Span,
        units: Units,
        shapes: TensorShapes,
        change: Tensor,
        before: Tensor | None,
        went: Tensor | None,
    ) -> Tensor:
        """What the LSTM sees, all of order one, [B, T, inputs].

        Args:
            change: how the gradient's size has changed, [B, T].
            before: the slopes along the last step where it was taken, [B, T]; None without a secant.
            went: how the loss has gone, [B, COURSE_FEATURES]; None without the course.
        """
        cosines, squares = span.statistics(units.scale)
        columns = [change, units.growth]
        if "absolute" in self.pulls:
            columns.append((span.means[..., PARAMS, PARAMS] * shapes.fan_in + self.FLOOR**4).log() / 6)
        own = [cosines, squares.log() / 4, torch.stack(columns, 2)]
        shared = [units.clock.expand(len(change), -1)]
        if before is not None:
            secants = _secants(span.products[..., GRADIENT, LAST], before)
            own.append(secants[:, :-1])
            shared.append(secants[:, -1])
        if went is not None:
            shared.append(went)
        each = torch.cat([*own, shapes.features.expand(len(change), -1, -1)], 2)
        mean = torch.cat([each.mean(1), *shared], 1)
        return torch.cat([each, mean.unsqueeze(1).expand(-1, each.shape[1], -1)], 2)

    def _steps(self, span: Span, units: Units, out: Tensor) -> tuple[list[Tensor], Tensor]:
        """The step of each tensor, T times [B, 1, its entries], and the slopes along them, [B, T].

        out: the LSTM's outputs, [B, T, outputs].
        """
        many = PARAMS + len(self.pulls)
        adam, bend = row([1.0] + [0.0] * (many - 1) + [1.0] * many + [2.5], out).split([many, many + 1])
        bent = (out[..., : many + 1] / bend).tanh()
        size = (5 * bent[..., many:]).exp() * -units.step.unsqueeze(2)
        chosen, scale = torch.add(adam, bent[..., :many], alpha=2), units.scale
        if "absolute" in self.pulls:
            scale = torch.cat([scale[..., : many - 1], torch.ones_like(size)], 2)
        weights = size * chosen * scale[..., :many]
        if len(self.pulls) > 1:
            weights = torch.cat([weights[..., :PARAMS], weights[..., PARAMS:].sum(2, keepdim=True)], 2)
        parts = span.combine(weights)
        slopes = (span.products[..., GRADIENT, : weights.shape[2]] * weights).sum(2)
        if self.network is not None:
            scaled = [x[:, :LAST] * units.scale[:, t, :LAST, None] for t, x in enumerate(span.parts)]
            more = [size[:, t] * self.network(x, out[:, t, many + 1 :]) for t, x in enumerate(scaled)]
            along = [(f * x[:, GRADIENT]).sum(1) for f, x in zip(more, span.parts, strict=True)]
            parts = [a + b.unsqueeze(1) for a, b in zip(parts, more, strict=True)]
            slopes = slopes + torch.stack(along, 1)
        return parts, slopes


def _kinds(params: Params) -> list[Kind]:
    return [(p.shape, p.dtype, p.device) for p in params.values()]


def _sums(tensors: Iterable[Tensor]) -> Tensor:
    """The sum over the entries of each of T tensors [B, ...], [B, T]."""
    return torch.stack([x.sum(tuple(range(1, x.dim()))) if x.dim() > 1 else x for x in tensors], 1)


def _secants(after: Tensor, before: Tensor) -> Tensor:
    """How the slopes along steps changed, (after, before) as points on the circle, downhill positive.

    Args:
        after, before: of each tensor, [B, T].
    Returns: of each tensor, and of all of them together, [B, T + 1, 2].
    """
    slopes = torch.stack([after, before], 2)
    slopes = torch.cat([slopes, slopes.sum(1, keepdim=True)], 1)
    return slopes / -(slopes.square().sum(2, keepdim=True) + LEAST_SLOPE).sqrt()
