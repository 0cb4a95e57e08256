"""Claims about learned teleports: whatever is missing is named."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from metatele import (
    CoordinateUpdate,
    InnerOptimizer,
    NeuronTeleport,
)
from metatele.evaluation.contestants.learned import learned_contestants
from metatele.evaluation.judge import claims
from metatele.evaluation.judge.claims import claims_of
from metatele.teleports import CanonicalTeleport
from tests.evaluation.conftest import (
    BUDGET,
    CLOSED_FORM,
    PARTS,
    change,
    claimed,
    controls_of,
    entry,
    evaluation,
    rule_parts,
    the_claim,
)


@pytest.fixture(autouse=True)
def one_seed_is_enough(monkeypatch):
    """What claims need besides meta-seeds is told by recipes with one."""
    monkeypatch.setattr(claims, "ENOUGH_SEEDS", 1)


def test_a_claim_needs_three_meta_seeds_of_everybody(monkeypatch):
    monkeypatch.setattr(claims, "ENOUGH_SEEDS", 3)
    entries = claimed()
    missing = the_claim(entries).missing
    assert len(missing) == sum(e.kind == "checkpoint" for e in entries)
    assert "3 meta-seeds of 'twin', not 1" in missing
    more = [replace(e, runs=e.runs * 3, budgets=e.budgets * 3) if e.kind == "checkpoint" else e for e in entries]
    assert the_claim(more).missing == ()


@pytest.mark.parametrize(
    ("twin", "rest", "begins"),
    [
        (0.5, 0.5, "Yes: tele is better than all"),
        (0.5, 1.0, "It helps its update, but tele is not better than 'Balance once', "),
        (1.0, 0.5, "Not shown: tele is not distinguishable from its update"),
        (2.0, 0.5, "Not shown: tele is worse than its update"),
    ],
)
def test_conclusions(twin, rest, begins):
    losses = np.random.default_rng(0).lognormal(size=64)
    entries = [
        replace(
            e, runs=entry(e.name, losses if e.name == "tele" else losses / (twin if e.name == "twin" else rest)).runs
        )
        for e in claimed()
    ]
    found = replace(evaluation(entries, "twin"), applicable_rules=CLOSED_FORM)
    assert found.conclusions["tele"].startswith(begins)
    if begins.startswith("Yes"):
        fewer = replace(found, entries=tuple(e for e in entries if e.name != "Svd once"))
        assert fewer.conclusions["tele"].startswith("Not shown: the comparison is incomplete; tele is better than ")


def test_a_complete_claim():
    entries = claimed()
    claim = the_claim(entries)
    assert (claim.name, claim.twin, claim.missing) == ("tele", "twin", ())
    assert set(claim.against) == {e.name for e in entries} - {"tele"}
    found = evaluation(entries, "twin", CLOSED_FORM)
    assert {(v.name, v.against) for v in found.verdicts} >= {("tele", name) for name in claim.against}
    assert [c.missing for c in found.claims] == [()]


TWIN = "the same update meta-trained without teleports"
ALL = {"twin": TWIN} | {
    f"{rule} {name}": f"{rule} {when}"
    for rule in CLOSED_FORM
    for name, when in (("once", "at step 0"), ("always", "at every step"))
}


@pytest.mark.parametrize("absent", ALL)
@pytest.mark.parametrize("how", ["not there", "failed", "other update", "other arguments", "control"])
def test_each_absent_one_is_named(absent, how):
    """One that failed, or has another update, is as good as none."""
    entries = claimed()
    one = {e.name: e for e in entries}[absent]
    other = {
        "other update": {"class": "DenseUpdate", "arguments": {"hidden": 4}},
        "other arguments": {"class": "CoordinateUpdate", "arguments": {"hidden": 5}},
    }
    if how == "not there":
        entries.remove(one)
    elif how == "failed":
        entries = change(entries, absent, runs=(), failure="crashed")
    elif how == "control":
        entries = change(entries, absent, kind="control")
    else:
        entries = change(entries, absent, parts={**one.parts, "update": other[how]})
    claim = the_claim(entries)
    assert claim.missing == (ALL[absent],)
    assert absent not in claim.against
    judged = [v for v in evaluation(entries, "tele", CLOSED_FORM).verdicts if v.name == "tele"]
    assert judged
    assert [c.missing for c in evaluation(entries, "tele", CLOSED_FORM).claims] == [(ALL[absent],)]


@pytest.mark.parametrize(
    ("control", "words"),
    [("mean schedule", "the mean schedule of its teleports"), ("random", "random teleports of the same size")],
)
@pytest.mark.parametrize("how", ["not there", "failed", "another's"])
def test_an_absent_control_is_named(control, words, how):
    """A teleport that cannot be recorded has none, and a control may fail."""
    entries = claimed()
    if how == "not there":
        entries = [e for e in entries if e.control != control]
    else:
        fields = {"runs": (), "failure": "crashed"} if how == "failed" else {"source": "twin"}
        entries = change(entries, f"tele, {control}", **fields)
    assert the_claim(entries).missing == (words,)


def test_only_rules_that_can_act_are_asked_for():
    entries = claimed(rules=("Balance",))
    assert the_claim(entries, ("Balance",)).missing == ()
    assert the_claim(entries, ()).missing == ()
    assert the_claim(entries, ("Balance", "Wout")).missing == ("Wout at step 0", "Wout at every step")


@pytest.mark.parametrize(("last", "every"), [(5, 1), (None, 2), (1, 1)])
def test_a_rule_at_other_steps_is_none_of_the_two(last, every):
    entries = change(claimed(), "Svd always", parts=rule_parts("Svd", last, every))
    claim = the_claim(entries)
    assert claim.missing == ("Svd at every step",)
    assert "Svd always" not in claim.against


@pytest.mark.parametrize("name", ["twin", "Balance once", "Wout always"])
@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (replace(BUDGET, tasks=319), "320 trajectories of 50 steps against 319 of 50"),
        (replace(BUDGET, steps=60), "320 trajectories of 50 steps against 320 of 60"),
        (replace(BUDGET, families=(("Digits", "{}"),)), "meta-trained on Example against Digits"),
        (replace(BUDGET, families=(("Example", '{"a": 1}'),)), "meta-trained on Example with other arguments"),
    ],
)
def test_unequal_budgets_are_named(name, budget, words):
    claim = the_claim(change(claimed(), name, budgets=(budget,)))
    assert claim.missing == (f"an equal budget for {name!r} ({words})",)
    assert name in claim.against, "it is shown, with what it lacks"


def test_another_seed_is_no_other_budget():
    assert the_claim(change(claimed(), "twin", budgets=(replace(BUDGET, seed=7),))).missing == ()


def test_an_unknown_budget_is_named():
    assert the_claim(change(claimed(), "twin", budgets=(None,))).missing == (
        "the record of the meta-training of 'twin'",
    )
    missing = the_claim(change(claimed(), "tele", budgets=())).missing
    assert set(missing) == {"the record of the meta-training of 'tele'"}


def test_what_a_part_was_fitted_to_is_no_argument():
    entries = claimed()
    fitted = {"class": "CoordinateUpdate", "arguments": {"hidden": 4, "shapes": [[2, 3]]}}
    assert the_claim(change(entries, "twin", parts=PARTS | {"update": fitted})).missing == ()


def test_only_learned_teleports_that_ran_make_claims():
    entries = claimed()
    assert claims_of([e for e in entries if e.name != "tele"], CLOSED_FORM) == []
    assert claims_of(change(entries, "tele", runs=()), CLOSED_FORM) == []
    two = [*entries, replace(entries[0], name="tele again"), *controls_of("tele again", lambda: np.ones(8))]
    assert [c.name for c in claims_of(two, CLOSED_FORM)] == ["tele", "tele again"]
    assert all(c.missing == () for c in claims_of(two, CLOSED_FORM))
    assert "tele, teleports off" not in claims_of(two, CLOSED_FORM)[1].against


def test_real_parts_make_a_complete_claim():
    """The descriptions that contestants give are what claims read."""
    update = CoordinateUpdate(hidden=3)

    def inner(teleport=None):
        return InnerOptimizer(copy.deepcopy(update), teleport)

    given = {"tele": inner(NeuronTeleport(hidden=3)), "twin": inner()}
    for rule in CanonicalTeleport.named.values():
        given[f"{rule.__name__} once"] = inner(rule(last=0))
        given[f"{rule.__name__} always"] = inner(rule(last=None, every=1))
    entries = [
        entry(
            c.name, np.ones(2), parts=c.description, moves=c.inner.teleport.moves, learned_teleport=c.learned_teleport
        )
        for c in learned_contestants(given, "cpu")
    ]
    claim = the_claim([*entries, *controls_of("tele", lambda: np.ones(2))])
    assert (claim.twin, claim.missing) == ("twin", ())
    assert set(claim.against) >= set(given) - {"tele"}
