"""The theory on quadratics: after one optimal teleport the gradient is an eigenvector of the Hessian."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metatele.evaluation.statistics import Interval, mean_interval
from metatele.experiments.functions import value_loss
from metatele.experiments.harness.training import Problem
from metatele.landscape import Landscape
from metatele.parts.point import Point, State
from metatele.support.seeding import generator
from metatele.teleports import Teleport

ALONG = (0.1, 1e-3)  # gradient descent along which the angle is followed: its step size times L, the last loss ratio
CLOSE = 1e-3  # an angle below it counts as none


@dataclass(frozen=True)
class Angles:
    """Angles in radians between gradient and Newton direction, over all starts of all quadratics.

    Attributes:
        before: the mean before the teleport.
        mean, largest: after it.
        close: share of the starts with less than 1e-3 after it.
        along: the largest along gradient descent afterwards.
    """

    before: float
    mean: float
    largest: float
    close: float
    along: float


def random_quadratics(dimension: int, condition: float, count: int, *names: object) -> Tensor:
    """Random A [count, n, n] with eigenvalues from 1 to `condition`, log-uniform between, in random directions."""
    stream = generator("random quadratics", dimension, condition, *names)
    normal = torch.randn(count, dimension, dimension, generator=stream, dtype=torch.float64)
    between = torch.rand(count, dimension - 2, generator=stream, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(count, 2)
    values = float(condition) ** torch.cat([ends, between], 1)
    basis = torch.linalg.qr(normal)[0]
    return basis * values.unsqueeze(1) @ basis.mT


def plain_problem(network: nn.Module, runs: int) -> Problem:
    """`runs` copies of a test function, which needs no data."""
    inputs = torch.zeros(runs, 1, 0, dtype=torch.float64)
    return Problem(network, value_loss, (inputs, inputs.sum(2)))


def plain_landscape(network: nn.Module, runs: int) -> Landscape:
    """The losses of `runs` copies of a test function."""
    return plain_problem(network, runs).landscape


def teleported(by: Teleport, network: nn.Module, starts: Tensor, first_seed: int = 0) -> Tensor:
    """Where a teleport takes starts w [S, n] of a test function, [S, n]; the i-th draws from seed first_seed + i."""
    landscape, params = plain_landscape(network, len(starts)), {"w": starts}
    group = by.group(network)
    point = Point(params, landscape.gradient(params), landscape.inputs, by.first, landscape, landscape)
    state = by.start(params, group, first_seed + torch.arange(len(starts)))
    return by.move(point, group, state, State())[0].params["w"].detach()


def newton_angle(matrices: Tensor, w: Tensor) -> Tensor:
    """Angle between the gradient of w^T A w and its Newton direction, A [M, n, n], w [M, S, n] -> [M, S]."""
    gradient = 2 * w @ matrices
    newton = torch.linalg.solve(2 * matrices, gradient.mT).mT
    a, b = (v / v.norm(dim=2, keepdim=True) for v in (gradient, newton))
    # The arc cosine of a . b would round small angles to 0.
    return 2 * torch.atan2((a - b).norm(dim=2), (a + b).norm(dim=2))


def value(matrices: Tensor, w: Tensor) -> Tensor:
    """w^T A w, [M, S]."""
    return (w @ matrices * w).sum(2)


def angles(matrices: Tensor, starts: Tensor, moved: Tensor) -> Angles:
    """Before and after a teleport, and along gradient descent until the loss has fallen to 1e-3 of its start."""
    rate, ratio = ALONG
    step = rate / (2 * torch.linalg.eigvalsh(matrices)[:, -1]).reshape(-1, 1, 1)
    after, w = newton_angle(matrices, moved), moved
    largest, floor = after, ratio * value(matrices, moved)
    for _ in range(_bound(matrices, ratio, rate)):
        w = w - step * 2 * w @ matrices
        inside = value(matrices, w) >= floor
        if not bool(inside.any()):
            break
        largest = torch.where(inside, torch.maximum(largest, newton_angle(matrices, w)), largest)
    close = (after < CLOSE).double().mean()
    before = newton_angle(matrices, starts).mean()
    return Angles(float(before), float(after.mean()), float(after.max()), float(close), float(largest.max()))


def steps_needed(matrices: Tensor, starts: Tensor, rates: Tensor, ratio: float) -> Interval:
    """Steps of gradient descent until the loss is `ratio` of its start: the mean, its interval over quadratics.

    Args:
        matrices: A, [M, n, n].
        starts: [M, S, n].
        rates: a step size for each quadratic, [M], between 1 / L and 2 / (L + mu), for which there is a bound.
    """
    w, goal = starts, ratio * value(matrices, starts)
    needed = torch.zeros_like(goal)
    for _ in range(_bound(matrices, ratio, 1.0)):
        running = value(matrices, w) > goal
        if not bool(running.any()):
            break
        needed += running
        w = w - rates.reshape(-1, 1, 1) * 2 * w @ matrices
    means = needed.mean(1).numpy().astype(np.float64)
    return mean_interval(means, np.random.default_rng(0))


def classical_rates(matrices: Tensor) -> dict[str, Tensor]:
    """The two step sizes of the theory, [M] each, of Hessians 2 A with eigenvalues from mu to L."""
    values = 2 * torch.linalg.eigvalsh(matrices)
    return {"1/L": 1 / values[:, -1], "2/(L+mu)": 2 / (values[:, 0] + values[:, -1])}


def _bound(matrices: Tensor, ratio: float, rate: float) -> int:
    """Steps of size rate / L after which the loss is below ratio on every quadratic."""
    values = torch.linalg.eigvalsh(matrices)
    condition = float((values[:, -1] / values[:, 0]).max())
    return math.ceil(condition / rate * math.log(1 / ratio) / 2) + 2
