"""The ablations differ from the recipe in one choice."""

from typing import Any

import pytest

from benchmarks.ablations import MEANT, VARIANTS, arguments_of, validation_families
from metatele.cli.main import load_command
from metatele.testing import check_task_family

CHANGED = {
    "growth 0": {"meta.growth"},
    "the end alone, by PES, in the last fifth": {"meta.phases", "meta.pairs"},
    "exact adjoints, windows of 60": {"unroll.adjoint_clip", "unroll.window"},
}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {k: v for key, value in config.items() for k, v in flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def parsed(variant: str) -> dict[str, Any]:
    parser = load_command("meta-train").make_parser()
    return flat(parser.parse_args(arguments_of(variant, 50)).as_dict())


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != MEANT])
def test_a_variant_differs_in_what_it_says(variant: str) -> None:
    meant, varied = parsed(MEANT), parsed(variant)
    assert meant["meta.iterations"] == 50
    changed = {k for k in meant.keys() | varied.keys() if meant.get(k) != varied.get(k)} - {"config", "__path__"}
    if variant.endswith("Update"):
        assert varied["optimizer.update.class_path"] == f"metatele.{variant}"
        assert all(name.startswith("optimizer.update.") for name in changed)
    elif variant in CHANGED:
        changed -= {"meta.iterations"}  # with phases, it is their sum
        assert changed == CHANGED[variant]
    else:
        assert len(changed) == 1


def test_phases_last_as_long_as_the_others() -> None:
    phases = parsed("the end alone, by PES, in the last fifth")["meta.phases"]
    assert sum(phase["iterations"] for phase in phases) == 50


def test_every_family_has_rows_to_judge_on() -> None:
    families = [one.family() for one in validation_families()]
    for family in families:
        check_task_family(family)
    assert all(f.parts[0] == 1 or f.parts[2] > 0 for f in families)
