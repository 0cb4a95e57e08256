"""Tables of classes by name."""

import pytest

from metatele.support.modules import enter
from metatele.symmetry import PositiveScaling, Symmetry
from metatele.teleports import Balance, CanonicalTeleport


def test_a_name_is_that_of_one_class():
    table: dict[str, type] = {}
    enter(table, "a", int)
    enter(table, "a", int)
    with pytest.raises(TypeError, match=r"the name 'a' of builtins\.str is that of builtins\.int"):
        enter(table, "a", str)
    assert table == {"a": int}


def test_a_class_that_is_defined_anew_replaces_itself():
    def define() -> type:
        class Mine:
            pass

        return Mine

    table: dict[str, type] = {}
    first, second = define(), define()
    enter(table, "mine", first)
    enter(table, "mine", second)
    assert table["mine"] is second


def test_rules_and_groups_keep_their_names():
    with pytest.raises(TypeError, match="'balance'"):

        class Mine(Balance, rule="balance"):
            pass

    with pytest.raises(TypeError, match="'scaling'"):

        class Scaling(PositiveScaling, kind="scaling", where="nowhere"):
            pass

    with pytest.raises(TypeError, match="'auto'"):

        class Auto(PositiveScaling, kind="auto", where="nowhere"):
            pass

    with pytest.raises(TypeError, match="must define `at`"):

        class Unplaced(Symmetry, kind="unplaced", automatic=9):
            pass

    assert CanonicalTeleport.named["balance"] is Balance
    assert Symmetry.kinds["scaling"] is PositiveScaling
    assert not {"auto", "unplaced"} & Symmetry.kinds.keys()
