"""The processes that share one computation."""

from hypothesis import given
from hypothesis import strategies as st

from metatele.support.ranks import Ranks, first_to_say, joined, restarted, speaks, under_torchrun


@given(st.integers(1, 40), st.integers(1, 40))
def test_shares_are_all_items_in_order(size: int, items: int) -> None:
    shares = [Ranks(number, size).share(range(items)) for number in range(size)]
    assert [i for share in shares for i in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_asked_of_others(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (ranks, device):
        assert (ranks, device) == (Ranks(0, 1), "cpu")
        assert ranks.first
        assert ranks.total(1.5, 2) == [1.5, 2.0]
        assert ranks.from_first(lambda: "made") == "made"
    assert speaks()
    assert first_to_say("anything")
    assert not under_torchrun()
    assert not restarted()
