"""`CeloUpdate`: a normalised rule, and a scheduler that sees the horizon."""

import pytest
import torch

from metatele import (
    CeloUpdate,
    ConfigError,
)
from metatele.parts.point import Point
from metatele.support.seeding import seeded
from metatele.task.params import Params, map_params
from tests.update.paths import (
    SHAPES,
    assert_horizon_is_seen,
    assert_meta_training_helps,
    assert_steps,
    path,
    random_params,
    scaled,
)


def strong(**settings: object) -> CeloUpdate:
    """An update whose scheduler has much to say."""
    update = CeloUpdate(6, **settings).double()  # type: ignore[arg-type]
    with seeded(1):
        for p in update.core.parameters():
            torch.nn.init.normal_(p, std=0.5)
    return update


def silent(**settings: object) -> CeloUpdate:
    """An update whose scheduler leaves the step size as it is."""
    update = strong(**settings)
    for p in update.core.head.parameters():
        p.data.zero_()
    return update


def sizes(params: Params) -> torch.Tensor:
    """The root mean square of each tensor, [B, T]."""
    return torch.stack([p.flatten(1).square().mean(1).sqrt() for p in params.values()], 1).detach()


def test_the_rule_does_not_choose_how_far():
    """Each step is `lr` times the root mean square of its tensor, whatever the rule's outputs are."""
    for exponent in (0.001, 1.0):
        update, start = silent(lr=0.03, exponent=exponent), random_params(SHAPES, 0)
        update.network.head.weight.data.mul_(10)
        gradient = random_params(SHAPES, 1)
        step, _ = update.propose(Point(start, gradient, torch.empty(0), 0), update.start(start))
        # A size is never below a tenth of what torch draws.
        torch.testing.assert_close(sizes(step), 0.03 * sizes(start), rtol=1e-2, atol=0)


def test_the_scheduler_does_not_choose_the_direction():
    start = random_params(SHAPES, 0)
    one, other = path(silent(), start, steps=1)[0], path(strong(), start, steps=1)[0]
    for name in one:
        cosine = torch.cosine_similarity(other[name].flatten(1), one[name].flatten(1))
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert float((sizes(other) / sizes(one) - 1).abs().min()) > 1e-3


def test_the_first_step_goes_where_the_rule_says():
    """Downhill along the gradient, if its network passes that on."""
    update, start, gradient = silent(units=2, lr=0.02), random_params(SHAPES, 0), random_params(SHAPES, 1)
    for p in update.network.parameters():
        p.data.zero_()
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64)
    update.network.first.weight.data[:, 1] = sides
    update.network.middle.weight.data.copy_(torch.eye(2))
    update.network.head.weight.data[0] = sides
    step, _ = update.propose(Point(start, gradient, torch.empty(0), 0), update.start(start))
    for t, (name, g) in enumerate(gradient.items()):
        f = step[name].detach().flatten(1)
        cosine = torch.cosine_similarity(f, g.flatten(1))
        torch.testing.assert_close(cosine, -torch.ones_like(cosine))
        torch.testing.assert_close(f.square().mean(1).sqrt(), 0.02 * sizes(start)[:, t], rtol=1e-2, atol=0)


def test_zeros_can_grow():
    update, start = silent(lr=0.03), map_params(torch.zeros_like, random_params(SHAPES, 0))
    step, _ = update.propose(Point(start, random_params(SHAPES, 1), torch.empty(0), 0), update.start(start))
    # A matrix [5, 3] is drawn with a root mean square of 1 / 3.
    torch.testing.assert_close(sizes(step)[:, 0], torch.full((2,), 0.03 * 0.1 / 3).double(), rtol=1e-2, atol=0)


def test_what_it_sees_of_the_horizon():
    assert_horizon_is_seen(strong(), strong(horizon=False), 1e-5)


def test_the_scheduler_sees_how_gradients_shrink():
    """Not how large they are: that is a matter of the loss's scale."""
    update, start = strong(), random_params(SHAPES, 0)
    gradients = iter([1.0, 1e-2, 1e-2, 1e-2])
    shrinking = path(update, start, lambda g: scaled(g, [next(gradients)] * 4))
    constant = path(update, start)
    assert_steps(shrinking[:1], constant[:1])
    assert float((sizes(shrinking[1]) / sizes(constant[1]) - 1).abs().max()) > 1e-2


@pytest.mark.parametrize("estimator", ["bptt", "pes"])
def test_meta_training_makes_it_descend(estimator):
    assert_meta_training_helps(CeloUpdate(8, lr=0.03), estimator)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"exponent": -1}, "exponent must be above 0 and finite, got -1"),
        ({"units": 0}, "units must be a whole number of at least 1, got 0"),
        ({"hidden": 0}, "hidden must be a whole number of at least 1"),
        ({"horizon": 1}, "horizon must be true or false, got 1"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(ConfigError, match=said):
        CeloUpdate(**settings)
