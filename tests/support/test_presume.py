"""Questions about numbers that may be left open."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from metatele.support.presume import known, presume, presuming
from metatele.symmetry.matrices import exp_pair, solve


@pytest.mark.parametrize(("flags", "answer"), [([True, True], True), ([True, False], False), ([], True)])
def test_outside_numbers_are_looked_at(flags: list[bool], answer: bool) -> None:
    tensor = torch.tensor(flags, dtype=torch.bool)
    assert presume(tensor, "all is well") is answer
    assert known(tensor) is answer


def test_inside_all_is_presumed_and_noted_and_nothing_known() -> None:
    well, ill = torch.tensor([True, True]), torch.tensor([True, False])
    with presuming() as notes:
        assert presume(well, "the first")
        assert presume(ill, "the second")
        assert not known(well)
    assert [(what, bool(flag)) for what, flag in notes] == [("the first", True), ("the second", False)]
    assert not presume(ill, "outside again")
    assert len(notes) == 2


def test_notes_are_those_of_the_innermost() -> None:
    with presuming() as outer:
        with suppress(ZeroDivisionError), presuming() as inner:
            presume(torch.tensor(False), "inside")
            raise ZeroDivisionError
        presume(torch.tensor(True), "between")
    assert [what for what, _ in inner] == ["inside"]
    assert [what for what, _ in outer] == ["between"]


def singular(task: int) -> Tensor:
    matrices = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    matrices[task, 0] = 0
    return matrices


def test_a_matrix_presumed_invertible() -> None:
    """What is presumed is noted where it does not hold, and right where it does."""
    rhs = torch.arange(12.0, dtype=torch.float64).reshape(3, 2, 2)
    with presuming() as notes:
        solve(singular(1), rhs, True)
        found = solve(3 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1), rhs, True)
    assert [bool(flag) for _, flag in notes] == [False, True]
    torch.testing.assert_close(found, rhs / 3)
    assert solve(singular(1), rhs, True).isnan().flatten(1).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("size", "holds"), [(0.1, True), (0.3, False), (torch.nan, True)])
def test_a_lie_algebra_element_presumed_short(size: float, holds: bool) -> None:
    algebra = torch.zeros(2, 3, 3, dtype=torch.float64)
    algebra[1, 0, 1] = size
    with presuming() as notes:
        found = exp_pair(algebra)
    assert [bool(flag) for _, flag in notes] == [holds]
    if holds:
        for a, b in zip(found, exp_pair(algebra), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
