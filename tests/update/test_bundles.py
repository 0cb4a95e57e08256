"""`Bundles`: nothing is lost, and large tensors are not copied."""

import pytest
import torch

from metatele.task.params import map_params
from metatele.update import bundles
from metatele.update.bundles import Bundles
from tests.update.paths import ODD, SHAPES, random_params


@pytest.mark.parametrize("small", [0, 20, 2**14])
@pytest.mark.parametrize("case", [*ODD, "a network"])
def test_apart_undoes_together(case, small, monkeypatch):
    monkeypatch.setattr(bundles, "SMALL", small)
    params = random_params(ODD.get(case, SHAPES), 0)
    params["single precision"] = torch.ones(2, 3)
    known = Bundles(params)
    found = known.apart(known.together(params))
    assert list(found) == list(params)
    torch.testing.assert_close(found, params, rtol=0, atol=0)
    for name, column in zip(params, known.columns(known.together(map_params(torch.ones_like, params))), strict=True):
        assert column.numel() == params[name].numel()


def test_small_tensors_go_together_and_large_ones_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(bundles, "SMALL", 20)
    params = random_params([(3,), (30, 30), (2, 2), ()], 0)
    known = Bundles(params)
    together = known.together(params)
    assert [x.shape for x in together] == [(2, 3 + 4 + 1), (2, 30, 30)]
    assert together[1] is params["1"]
