"""The table in the terminal."""

import math

import pytest

from metatele.support.messages import number
from tests.evaluation.conftest import Noise, gd, quick, shown


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_holds_every_column_at_usual_widths(full, width):
    text = shown(full[0], width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("contestant", "mean", "@0", "@2", "@5", "median", "acc.", "change", "wins", "step", "Adam", "ref."):
        assert word in text
    for words in ("a title", "meta-seeds", "failed: RuntimeError"):
        assert words in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1234.5, "1234"), (1.2345e-5, "1.23e-5"), (-2e7, "-2.00e7"), (math.nan, "-")],
)
def test_numbers_are_short(x, text):
    assert number(x) == text


@pytest.mark.parametrize("family", [Noise(-3.0), Noise()])
def test_table_of_negative_losses_and_of_one_task(family):
    result = quick({"a": gd(0.1), "[b]": gd(0.2, None)}, family, tasks=1, steps=1)
    assert "[b]" in shown(result, 80)
    assert {v.outcome for v in result.verdicts} == {"not decided"}
