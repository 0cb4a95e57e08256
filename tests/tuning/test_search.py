"""Searches over step sizes: they grow at an edge, are refined inside, and end."""

import math

import pytest

from metatele.tuning.search import RateSearch

GROWTH = 6


def lowest(scores):
    return min(scores, key=lambda cell: (scores[cell], cell), default=("", 0))


def played(score, reach: int = 1, **arguments) -> RateSearch[float]:
    """A search about 0.1 in half-decades, to its end."""
    places = range(-reach, reach + 1) if reach else ()
    search = RateSearch([""], places, lambda k: 0.1 * 10 ** (k / 2), lowest, GROWTH, **arguments)
    while wanted := search.wanted():
        assert not set(wanted) & set(search.found), "nothing twice"
        for cell in wanted:
            search.add(cell, score(cell[1]))
    return search


def test_a_search_grows_at_its_edge_and_stops_inside():
    search = played(lambda k: (k - 3) ** 2)
    assert search.best == ("", 3)
    assert search.rate(("", 2)) == 1.0
    assert [k for _, k in sorted(search.found)] == [-1, 0, 1, 2, 3, 4]
    assert not search.at_edge


def test_a_search_ends_also_where_everything_is_as_bad():
    search = played(lambda k: math.inf, reach=2)
    assert len(search.found) == 5 + GROWTH
    assert search.at_edge


def test_without_a_reach_there_is_nothing_to_try():
    search = played(lambda k: 0.0, reach=0)
    assert not search.found
    assert not search.at_edge
    assert search.rate(search.best) == 0.1


@pytest.mark.parametrize("optimum", [-9, -3, 0, 5, 11])
def test_a_search_is_refined_in_the_end(optimum):
    search = RateSearch(["a", "b"], range(-8, 9, 4), lambda k: 10.0**k, lowest, GROWTH, (2, 1))
    while wanted := search.wanted():
        for option, k in wanted:
            search.add((option, k), abs(k - optimum) + (option == "a"))
    assert search.best == ("b", optimum)
    places = {option: sorted(k for o, k in search.found if o == option) for option in "ab"}
    assert places["a"] == list(range(-8, 9, 4)), "only the better option is looked at more closely"
    assert {optimum - 1, optimum + 1} <= set(places["b"])


def test_searches_side_by_side_are_as_alone():
    centres = (-2, 5)
    searches = [RateSearch([""], range(-1, 2), float, lowest, GROWTH) for _ in centres]
    while any(wanted := [search.wanted() for search in searches]):
        for search, cells, centre in zip(searches, wanted, centres, strict=True):
            for cell in cells:
                search.add(cell, abs(cell[1] - centre))
    alone = [played(lambda k, c=centre: abs(k - c)) for centre in centres]
    assert [s.found for s in searches] == [s.found for s in alone]
