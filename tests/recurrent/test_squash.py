"""tanh and the gates for compiled code, against torch's own in double precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metatele.recurrent.squash import gates, tanh

ULP = torch.finfo(torch.float32).eps  # of a number near 1
GRID = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-38, 38, 2001), -torch.logspace(-38, 38, 2001)])
INFINITE = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])


def squash(*sums: Tensor) -> tuple[Tensor, ...]:
    """What `gates` stands for."""
    i, f, candidate, o = sums
    return i.sigmoid(), f.sigmoid(), candidate.tanh(), o.sigmoid()


def test_tanh_is_right_to_rounding_everywhere() -> None:
    exact = GRID.double().tanh()
    error = (tanh(GRID).double() - exact).abs()
    assert float((error / exact.abs().clamp_min(torch.finfo(torch.float32).tiny)).max()) <= 4 * ULP
    assert float(tanh(GRID).abs().max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_infinity_and_nan(dtype: torch.dtype) -> None:
    x = INFINITE.to(dtype)
    torch.testing.assert_close(tanh(x), x.tanh(), rtol=4 * ULP, atol=0, equal_nan=True)
    for others in (x, torch.zeros_like(x)):
        for place in range(4):
            sums = [x if k == place else others for k in range(4)]
            for found, expected in zip(gates(*sums), squash(*sums), strict=True):
                if others is not x:  # one quotient serves all four: NaN in one is in all
                    kept = ~x.isnan()
                    found, expected = found[kept], expected[kept]
                torch.testing.assert_close(found, expected, rtol=4 * ULP, atol=4 * ULP, equal_nan=True)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 5.0, 100.0]))
def test_gates_are_right_to_rounding(seed: int, scale: float) -> None:
    sums = scale * torch.randn(4, 500, generator=torch.Generator().manual_seed(seed))
    for found, exact in zip(gates(*sums), squash(*sums.double()), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=4 * ULP, atol=4 * ULP)


def test_double_precision_is_torch_s_own() -> None:
    x = GRID.double()
    assert torch.equal(tanh(x), x.tanh())
    for found, expected in zip(gates(x, -x, x, 2 * x), squash(x, -x, x, 2 * x), strict=True):
        assert torch.equal(found, expected)


def test_derivatives() -> None:
    sums = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(tanh, sums)
    assert torch.autograd.gradcheck(lambda s: gates(*s), sums)
    single = sums.detach().float().requires_grad_()
    for own, other in ((lambda s: gates(*s), lambda s: squash(*s)), (lambda s: [tanh(s)], lambda s: [s.tanh()])):
        (found,) = torch.autograd.grad(sum(y.square().sum() for y in own(single)), single)
        (expected,) = torch.autograd.grad(sum(y.square().sum() for y in other(sums)), sums)
        torch.testing.assert_close(found.double(), expected, rtol=16 * ULP, atol=16 * ULP)
