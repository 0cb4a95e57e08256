"""Curves in the space of a network's parameters: descent, the path of a teleport, and the plane they are seen in."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metatele.errors import ConfigError, SymmetryError
from metatele.landscape import Landscape
from metatele.landscape.sharpness import evaluate_all
from metatele.parts.point import Point, State
from metatele.task.params import Params, flatten, map_params, unflatten
from metatele.teleports import OptimisedTeleport, Teleport
from metatele.teleports.optimised import landscape_of
from metatele.torch_model import find_group

PATH = 101  # points along an orbit
POINTS_AT_A_TIME = 1000  # points whose losses are evaluated at a time, which bounds the memory


@dataclass(frozen=True)
class Slice:
    """A plane in the space of all parameters, with orthonormal axes.

    Attributes:
        origin: a point of the plane, [n].
        axes: its two directions, [2, n].
    """

    origin: Tensor
    axes: Tensor

    @classmethod
    def through(cls, origin: Tensor, first: Tensor, second: Tensor) -> "Slice":
        """The plane through `origin` [n] along two directions [n].

        Raises: ConfigError if they are parallel or one is zero.
        """
        u = first / first.norm()
        rest = second - (second @ u) * u
        # Twice, against rounding; written so that a NaN fails.
        rest = rest - (rest @ u) * u
        if not float(rest.norm()) > 1e-6 * float(second.norm()):
            raise ConfigError(
                f"a slice needs two directions that are not parallel, got lengths {float(first.norm()):.3g} and "
                f"{float(second.norm()):.3g}, the second {float(rest.norm()):.3g} off the first; give other directions"
            )
        return cls(origin, torch.stack([u, rest / rest.norm()]))

    def coordinates(self, points: Tensor) -> Tensor:
        """Where the projections of points [K, n] lie in the plane, [K, 2]."""
        return (points - self.origin) @ self.axes.mT

    def distance(self, points: Tensor) -> Tensor:
        """How far points [K, n] are from the plane, [K]."""
        return (points - self.at(self.coordinates(points))).norm(dim=1)

    def at(self, coordinates: Tensor) -> Tensor:
        """The points [K, n] of the plane with these coordinates [K, 2]."""
        return self.origin + coordinates @ self.axes


@dataclass(frozen=True)
class Trace:
    """A curve in parameter space and the loss along it.

    Attributes:
        points: [K, n].
        loss: [K].
    """

    points: Tensor
    loss: Tensor

    def up_to(self, limit: float) -> "Trace":
        """The curve until its loss first goes above a limit; at least its first point."""
        above = (self.loss > limit).nonzero()
        end = max(1, int(above[0])) if len(above) else len(self.loss)
        return Trace(self.points[:end], self.loss[:end])


@dataclass(frozen=True)
class Runs:
    """Gradient descent to a point, and from there with and without a teleport.

    Attributes:
        before: until the teleport; the point alone, if that is where it starts.
        orbit: the path of the teleport.
        plain, jumped: after it, without and with the teleport.
    """

    before: Trace
    orbit: Trace
    plain: Trace
    jumped: Trace

    @property
    def all_points(self) -> Tensor:
        return torch.cat([t.points for t in (self.before, self.orbit, self.plain, self.jumped)])


def losses(landscape: Landscape, params: Params, points: Tensor) -> Tensor:
    """The loss of one network at points [K, n] of its parameter space, [K]; in one batch where it can be.

    Args:
        landscape: of one network.
        params: gives the names and shapes of the parameters, {name: [1, ...]}.
    """

    def at(flat: Tensor) -> Tensor:
        return landscape.loss(unflatten(flat.unsqueeze(0), params))[0]

    with torch.no_grad():
        return evaluate_all(at, points, chunk=POINTS_AT_A_TIME)


def descend(landscape: Landscape, params: Params, lr: float, steps: int, whole: bool = False) -> tuple[Trace, Params]:
    """Gradient descent of one network: its iterates, the start included, and the parameters at the end.

    If it diverges, it ends at the last iterate with a finite loss.

    Raises: ConfigError if it diverges and is to be `whole`; SymmetryError if no loss is finite.
    """
    here, points, loss = map_params(torch.detach, params), [], []
    for step in range(steps + 1):
        with torch.no_grad():
            value = landscape.loss(here)[0]
        if not bool(value.isfinite()):
            break
        points.append(flatten(here)[0])
        loss.append(value)
        params = here
        if step < steps:
            here = map_params(lambda p, g: (p - lr * g).detach(), here, landscape.gradient(here))
    if not points:
        raise SymmetryError(f"the loss is {float(value)} where gradient descent starts; start from another point")
    if whole and len(points) <= steps:
        raise ConfigError(
            f"gradient descent with lr={lr:g} diverges at step {len(points)} of {steps}; use a smaller lr, "
            "fewer steps, or a smaller teleport"
        )
    return Trace(torch.stack(points), torch.stack(loss)), params


def follow(by: Teleport, landscape: Landscape, params: Params, seed: int = 0) -> tuple[Trace, Params]:
    """The orbit's path exp(t T) . theta, 0 <= t <= 1, of a teleport of one network, and the point at its end.

    For a teleport that does not give T, such as a closed-form rule, the path has its two ends only.
    """
    group = find_group(landscape.network, by)
    point = Point(params, landscape.gradient(params), landscape.inputs, by.first, landscape, landscape)
    state = by.start(params, group, torch.tensor([seed]))
    if isinstance(by, OptimisedTeleport):
        seen = by.look(point, state)
        algebra, _ = by.climb.run(replace(landscape_of(seen.landscape, by), group=group), params)
        with torch.no_grad():
            path = [
                group.act(group.exp([t * a for a in algebra]), params, seen.inputs)
                for t in torch.linspace(0, 1, PATH).tolist()
            ]
    else:
        path = [params, map_params(torch.detach, by.move(point, group, state, State())[0].params)]
    points = torch.cat([flatten(p) for p in path])
    if not bool(points.isfinite().all()):
        raise SymmetryError(f"{type(by).__name__} leads to parameters that are not finite; use a smaller teleport")
    return Trace(points, losses(landscape, params, points)), path[-1]


def trace_runs(
    landscape: Landscape, params: Params, by: Teleport, lr: float, before: int, steps: int, seed: int = 0
) -> Runs:
    """Gradient descent of one network {name: [1, ...]} with and without a teleport; see `draw_orbit`."""
    warm, theta = descend(landscape, params, lr, before, whole=True)
    orbit, moved = follow(by, landscape, theta, seed)
    if torch.equal(orbit.points[-1], orbit.points[0]):
        raise SymmetryError(f"{type(by).__name__} does not move the parameters from here; start from another point")
    ends = [descend(landscape, place, lr, steps, whole=True)[0] for place in (theta, moved)]
    return Runs(warm, orbit, *ends)
