"""Curved functions as targets and as borders."""

import math

import pytest
import torch
from metatele.tasks import Borders, Ridges
from metatele.tasks.ridges import correlated, ridge_sums

from metatele import TaskError
from metatele.testing import check_task_family


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "family",
    [
        Ridges(),
        Ridges(1, noise=0.0, parts=(1.0, 0.0, 0.0)),
        Ridges(6, 2, 3, 10.0, 20.0, batch_size=16, activation="tanh"),
        Borders(),
        Borders(5, 3, 1, noise=0.5, condition=10.0, hidden=[]),
    ],
    ids=lambda f: type(f).__name__,
)
def test_families_keep_the_contract(family):
    check_task_family(family)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ridges(3, 4), r"1 <= relevant <= features.*got \(4, 3, 4, 2\.0, 1\.0\)"),
        (lambda: Ridges(ridges=0), r"ridges >= 1.*, 0, "),
        (lambda: Ridges(steepness=math.nan), "steepness > 0.*nan"),
        (lambda: Ridges(condition=0.5), r"condition >= 1.*0\.5"),
        (lambda: Ridges(noise=-1.0), r"noise >= 0.*-1\.0"),
        (lambda: Borders(noise=-1.0), r"noise >= 0.*-1\.0"),
        (lambda: Borders(relevant=0), "relevant"),
        (lambda: Borders(classes=1), "classes=1"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(make, message):
    with pytest.raises(TaskError, match=message):
        make()


def test_inputs_have_variance_one_and_the_asked_correlation():
    plain = correlated(4000, 3, 1.0, stream())
    torch.testing.assert_close(torch.corrcoef(plain.T), torch.eye(3), atol=0.06, rtol=0)
    x = correlated(20000, 3, 10.0, stream())
    torch.testing.assert_close(x.std(0), torch.ones(3), atol=0.03, rtol=0)
    assert torch.corrcoef(x.T).triu(1).abs().max() > 0.5
    # Of two features any basis is a rotation: scaled to equal variances, the larger deviation is along a diagonal.
    values = torch.linalg.eigvalsh(torch.corrcoef(correlated(20000, 2, 10.0, stream(1)).T))
    assert 1 < values[1] / values[0] < 110


def test_values_depend_on_the_features_that_matter_alone():
    x = correlated(50, 6, 1.0, stream())
    y = ridge_sums(x, 2, 2, 3, 2.0, stream(1))
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2))
    moved = [not torch.equal(y, ridge_sums(x + torch.eye(6)[i] * x, 2, 2, 3, 2.0, stream(1))) for i in range(6)]
    assert sum(moved) == 2


def test_steepness_bends_a_line_into_a_step():
    x = torch.linspace(-2, 2, 401).unsqueeze(1)
    line, step = (ridge_sums(x, 1, 1, 1, s, stream(3))[:, 0] for s in (0.01, 1e5))
    assert abs(float(torch.corrcoef(torch.stack([x[:, 0], line]))[0, 1])) > 0.999
    assert len({round(float(v), 3) for v in step}) <= 6


def test_a_border_is_where_another_class_has_the_largest_sum():
    family = Borders(3, 4, noise=0.0, rows=80)
    x, y = family.sample(stream(5))
    generator = stream(5)
    again = correlated(80, 3, 1.0, generator)
    assert torch.equal(x, again)
    assert torch.equal(y, ridge_sums(x, 4, 3, 4, 2.0, generator).argmax(1))
    assert len(y.unique()) > 1
