"""`SmallMLPUpdate`: what the paper's design says."""

import math

import pytest
import torch

from metatele import (
    ConfigError,
    SmallMLPUpdate,
)
from metatele.parts.point import Point
from metatele.task.params import map_params
from tests.update.paths import SHAPES, assert_meta_training_helps, assert_steps, path, random_params

MOMENTUM, OVER_ROOT = 2, 7  # places of the fastest momentum, and of it over the root of the second moment


def chosen(feature: int, magnitude: float = 0.0, **settings: float) -> SmallMLPUpdate:
    """An update whose direction is one normalised feature, x = relu(x) - relu(-x), and whose magnitude is constant."""
    update = SmallMLPUpdate(2, **settings).double()
    for p in update.network.parameters():
        p.data.zero_()
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64)
    update.network.first.weight.data[:, feature] = sides
    update.network.middle.weight.data.copy_(torch.eye(2))
    update.network.head.weight.data[0] = sides
    update.network.head.bias.data[1] = magnitude
    return update


def first_step(update: SmallMLPUpdate) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The first step, and its gradient."""
    start, gradient = random_params(SHAPES, 0), random_params(SHAPES, 1)
    return update.propose(Point(start, gradient, torch.empty(0), 0), update.start(start))[0], gradient


def test_directions_have_second_moment_one_and_go_downhill():
    """f = -step * d * exp(exponent * m)."""
    step, gradient = first_step(chosen(1, 3.0, step=0.02, exponent=0.5))
    for name, g in gradient.items():
        size = g.square().mean(tuple(range(1, g.dim())), keepdim=True).sqrt()
        torch.testing.assert_close(step[name].detach(), -0.02 * math.exp(1.5) * g / size, rtol=1e-6, atol=0)


def test_the_first_step_along_momentum_over_the_second_moments_root_is_that_of_signs():
    step, gradient = first_step(chosen(OVER_ROOT))
    for name, g in gradient.items():
        clear = g.abs() > 0.3  # what keeps roots from zero tells less
        f = step[name].detach()
        signs = f / f.abs().amax(tuple(range(1, f.dim())), keepdim=True)
        torch.testing.assert_close(signs[clear], -g[clear].sign(), rtol=1e-3, atol=0)


def test_it_remembers_momentum():
    steps = path(chosen(MOMENTUM), random_params(SHAPES, 0), steps=3)
    mean = map_params(torch.zeros_like, random_params(SHAPES, 0))
    for k, step in enumerate(steps):
        mean = map_params(lambda m, g: 0.9 * m + 0.1 * g, mean, random_params(SHAPES, 10 + k))
        for name, m in mean.items():
            size = m.square().mean(tuple(range(1, m.dim())), keepdim=True).sqrt()
            torch.testing.assert_close(step[name], -0.001 * m / size, rtol=1e-4, atol=0)


def test_it_knows_the_time_but_no_horizon():
    update, start = SmallMLPUpdate(4).double(), random_params(SHAPES, 0)
    assert_steps(path(update, start, horizon=9), path(update, start))
    gradient, state = random_params(SHAPES, 1), update.start(start)
    early, late = (update.propose(Point(start, gradient, torch.empty(0), k), state)[0] for k in (0, 50))
    assert float((early["0"] - late["0"]).detach().abs().max()) > 1e-5


@pytest.mark.parametrize("estimator", ["bptt", "pes"])
def test_meta_training_makes_it_descend(estimator):
    assert_meta_training_helps(SmallMLPUpdate(8, step=0.01), estimator)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step": 0.0}, "step must be above 0"),
        ({"exponent": float("inf")}, "exponent must be above 0 and finite, got inf"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(ConfigError, match=said):
        SmallMLPUpdate(**settings)
