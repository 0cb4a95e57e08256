"""Verdicts and claims: equals are not told apart, 2% is seen, divergence counts, what is missing is named."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from metatele import (
    Adam,
    Balance,
    CoordinateUpdate,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    RandomTeleport,
    Svd,
    TorchUpdate,
    White,
    Wout,
)
from metatele.evaluation import Entry, Evaluation, Run, Settings, Tuning, evaluate, statistics
from metatele.evaluation.contestants.learned import learned_contestants
from metatele.evaluation.judge import claims
from metatele.evaluation.judge.claims import claims_of
from metatele.evaluation.judge.measures import measures_of
from metatele.evaluation.judge.pairing import best_baseline, paired_losses, pool_of
from metatele.evaluation.judge.verdict import FAMILY_WISE
from metatele.evaluation.play.timing import Cost
from metatele.meta_training import Budget
from metatele.support.messages import percent
from metatele.teleports import CanonicalTeleport
from metatele.testing import ExampleFamily

RULES = tuple(kind.__name__ for kind in CanonicalTeleport.named.values())
BUDGET = Budget(320, 50, (("Example", "{}"),), 0)
PARTS = {
    "update": {"class": "CoordinateUpdate", "arguments": {"hidden": 4}},
    "teleport": {"class": "Stay", "arguments": {}},
    "order": "before",
    "moments": "transform",
}
REPEATS = 100
FALSE_POSITIVES = 6  # of REPEATS; the judged property


def run_of(losses, first: float = 1e3) -> Run:
    """A run of one step from the loss `first` to the losses [B]; those that are NaN have diverged."""
    final = np.asarray(losses, np.float64)
    curves = np.stack([np.full_like(final, first), final])
    return Run(np.array([0, 1]), {"inner": curves}, {}, np.ones_like(curves), np.where(np.isnan(final), 0, 1))


def entry(name: str, *losses, **fields) -> Entry:
    """A checkpoint with one run for each seed's losses [B]."""
    given = {
        "kind": "checkpoint",
        "note": "",
        "source": None,
        "control": None,
        "budgets": (BUDGET,),
        "origins": (None,),
        "tuning": None,
        "parts": PARTS,
        "moves": False,
        "learned_teleport": False,
        "runs": tuple(run_of(x) for x in losses),
    }
    return Entry(name, **given | fields)


def evaluation(entries, reference: str, rules: tuple[str, ...] = (), seed: int = 0) -> Evaluation:
    tasks = next(e.runs[0].tasks for e in entries if e.runs)
    settings = Settings(tasks, 1, seed, 1, 1, 1, (1,), "plain", 1, "cpu")
    return Evaluation("Example", settings, tuple(entries), reference, tuple(range(tasks)), rules, 0.0)


def verdict(entries, name: str, against: str, **arguments):
    (found,) = (v for v in evaluation(entries, against, **arguments).verdicts if (v.name, v.against) == (name, against))
    return found


def outcome(losses, others, **arguments) -> str:
    return verdict([entry("b", others), entry("a", losses)], "a", "b", **arguments).outcome


@pytest.fixture
def few_resamples(monkeypatch):
    """A bootstrap of 500 resamples in place of 5000: many evaluations in little time. Student's t, the other
    of the two that intervals are made from, stays as it is."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)


# --- equals are not told apart -------------------------------------------------------------------

NOISE = {
    "normal": lambda r, shape: 0.2 * r.normal(size=shape),
    "heavy-tailed": lambda r, shape: 0.2 * r.standard_t(2.0, size=shape),
    "skewed": lambda r, shape: r.exponential(size=shape) ** 2,
    "mostly equal": lambda r, shape: r.normal(size=shape) * (r.random(shape) < 0.1),
    "two-valued": lambda r, shape: r.choice([0.0, 1.0], size=shape),
}


def losses_of(stream, law: str, tasks: int, contestants: int, seeds: int = 1):
    """Losses [contestants, seeds, tasks] of one law on the same tasks, of which some are much harder."""
    return np.exp(2 * stream.normal(size=tasks) + NOISE[law](stream, (contestants, seeds, tasks)))


@pytest.mark.parametrize("law", NOISE)
@pytest.mark.parametrize("tasks", [8, 16, 64, 128])
def test_two_equals_are_not_told_apart(few_resamples, law, tasks):
    stream = np.random.default_rng(tasks)
    wrong = 0
    for seed in range(REPEATS):
        (a,), (b,) = losses_of(stream, law, tasks, 2)
        wrong += outcome(a, b, seed=seed) != "not distinguishable"
    assert wrong <= FALSE_POSITIVES


@pytest.mark.parametrize(("law", "tasks"), [("heavy-tailed", 8), ("skewed", 64)])
def test_no_verdict_at_all_is_given_among_twelve_equals(few_resamples, law, tasks):
    stream = np.random.default_rng(tasks)
    wrong = 0
    for seed in range(REPEATS):
        entries = [entry(str(i), *x) for i, x in enumerate(losses_of(stream, law, tasks, 12))]
        wrong += any(v.outcome != "not distinguishable" for v in evaluation(entries, "0", seed=seed).verdicts)
    assert wrong <= FALSE_POSITIVES


def test_an_equal_among_ten_that_differ_is_not_told_apart(few_resamples):
    stream, factors = np.random.default_rng(0), np.exp(np.linspace(-2, 2, 10))
    wrong = []
    seen = 0
    for seed in range(REPEATS):
        one, equal, *others = losses_of(stream, "heavy-tailed", 16, 12)
        entries = [entry("one", *one), entry("equal", *equal)]
        entries += [entry(f"{f:.3g}", *(f * x)) for f, x in zip(factors, others, strict=True)]
        verdicts = {v.name: v.outcome for v in evaluation(entries, "one", seed=seed).verdicts}
        wrong.append(verdicts["equal"] != "not distinguishable")
        seen += [verdicts[f"{f:.3g}"] for f in (factors[0], factors[-1])] == ["better", "worse"]
    assert sum(wrong) <= FALSE_POSITIVES
    assert seen >= 90, "those that differ are told apart"


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (2, 2), (5, 2)])
def test_two_equal_recipes_are_not_told_apart_by_the_luck_of_their_seeds(few_resamples, ours, theirs):
    stream = np.random.default_rng(1)
    wrong = 0
    for seed in range(REPEATS):
        a, b = losses_of(stream, "normal", 32, 2, 5) * np.exp(0.5 * stream.normal(size=(2, 5, 1)))
        found = verdict([entry("b", *b[:theirs]), entry("a", *a[:ours])], "a", "b", seed=seed)
        wrong += found.outcome != "not distinguishable"
        assert found.meta_seeds == (ours, theirs)
    assert wrong <= FALSE_POSITIVES


def test_full_resampling_gives_the_same_outcomes():
    stream = np.random.default_rng(7)
    wrong = sum(
        outcome(*losses_of(stream, "skewed", 16, 2)[:, 0], seed=seed) != "not distinguishable"
        for seed in range(REPEATS)
    )
    assert wrong <= FALSE_POSITIVES


class Elsewhere(RandomTeleport):
    """Draws by the same law from other streams."""

    def start(self, params, group, seeds):
        return super().start(params, group, seeds + 1)


class ThereAndBack(RandomTeleport):
    """Moves in its first step, and back in its second one: the same function, rounded."""

    def choose(self, point, group, state):
        algebra, state = super().choose(replace(point, step=0), group, state)
        return [t if point.step == 0 else -t for t in algebra], state


def test_real_equals_are_not_told_apart():
    """Differences by rounding only, and two random teleports of one law."""
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=6)
    given = {
        "Adam": InnerOptimizer(Adam(0.02)),
        "torch's Adam": InnerOptimizer(TorchUpdate("Adam", {"lr": 0.02})),
        "random": InnerOptimizer(GradientDescent(0.03), RandomTeleport(0.5, "scaling")),
        "random elsewhere": InnerOptimizer(GradientDescent(0.03), Elsewhere(0.5, "scaling")),
    }
    wrong, draws, rounded = 0, 0, 0
    for seed in range(20):
        settings = {"tasks": 8, "steps": 3, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
        found = evaluate(given, family, seed=seed, baselines="none", **settings)
        for name, other in (("torch's Adam", "Adam"), ("random elsewhere", "random")):
            (v,) = (
                v
                for v in replace(found, reference=other).verdicts
                if (v.name, v.against) in ((name, other), (other, name))
            )
            wrong += v.outcome != "not distinguishable"
            differ = abs(v.change.value)
            draws += other == "random" and differ > 1
            rounded += other == "Adam" and 0 < differ < 1e-2
    assert wrong <= 2  # of 40
    assert draws >= 10, "two random teleports differ by more than rounding"
    assert rounded >= 5, "the two Adams are not the same bits"


def test_a_teleport_that_moves_and_moves_back_is_not_told_apart_from_none():
    """Gradient descent so slow that the two steps differ by rounding: that is all the teleport can do."""
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=6)
    update = GradientDescent(1e-9)
    given = {"stay": InnerOptimizer(update), "to and fro": InnerOptimizer(update, ThereAndBack(1.0, "scaling", last=1))}
    settings = {"tasks": 16, "steps": 2, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
    found = evaluate(given, family, baselines="none", reference="stay", **settings)
    (v,) = (v for v in found.verdicts if v.name == "to and fro")
    assert v.outcome == "not distinguishable"
    assert abs(v.change.value) < 1e-3
    assert np.nanmax(found["to and fro"].runs[0].moves.sizes) > 0.5, "it does move"


# --- better is better ----------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [16, 64])
@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("others", [0, 10])
def test_two_percent_on_every_task_is_seen(tasks, noise, others):
    stream = np.random.default_rng(tasks)
    hard = stream.lognormal(0, 2, (others + 1, tasks))
    good = 0.98 * hard[0] * np.exp(noise * stream.normal(size=tasks))
    entries = [entry("base", hard[0]), entry("good", good), *(entry(str(i), x) for i, x in enumerate(hard[1:]))]
    for name, against, expected in (("good", "base", "better"), ("base", "good", "worse")):
        if expected == "worse":
            entries[:2] = entries[1::-1]
            found = verdict([replace(e) for e in entries], name, against)
        else:
            found = verdict(entries, name, against)
        assert found.outcome == expected
        assert found.change.low <= found.change.value <= found.change.high
        assert found.change.value == pytest.approx(-2 if expected == "better" else 100 / 0.98 - 100, abs=0.5)
        assert found.win_rate == (1 if expected == "better" else 0)


@pytest.mark.parametrize(("factor", "expected"), [(0.9995, "not distinguishable"), (1.0005, "not distinguishable")])
def test_a_smaller_change_than_the_margin_is_rounding(factor, expected):
    losses = np.random.default_rng(0).lognormal(size=64)
    assert outcome(factor * losses, losses) == expected
    assert outcome(factor**4 * losses, losses) == ("better" if factor < 1 else "worse")


@pytest.mark.parametrize("shift", [-3.0, -3e3])
def test_rounding_of_losses_that_are_not_positive_is_no_gain(shift):
    stream = np.random.default_rng(0)
    losses = shift + stream.random(64)
    assert outcome(losses + 1e-6 * shift, losses) == "not distinguishable"
    found = verdict([entry("b", losses), entry("a", losses + 0.02 * shift)], "a", "b")
    assert (found.outcome, found.relative) == ("better", False)
    assert found.change.value == pytest.approx(0.02 * shift)
    assert "%" not in found.sentence.split(", lower")[0]


def test_one_task_decides_nothing():
    assert outcome([1.0], [2.0]) == "not decided"


def test_a_loss_that_is_not_finite_at_the_start_decides_nothing():
    unknown = entry("b", runs=(run_of([np.nan, 1.0], first=np.nan),))
    assert verdict([unknown, entry("a", [1.0, 2.0])], "a", "b").outcome == "not decided"


def test_confidence_is_divided_among_the_verdicts(monkeypatch):
    seen = []
    original = statistics.compare

    def spy(losses, other, rng, confidence, pool):
        seen.append(confidence)
        return original(losses, other, rng, confidence, pool)

    monkeypatch.setattr("metatele.evaluation.judge.verdict.compare", spy)
    stream = np.random.default_rng(0)
    entries = [entry(str(i), stream.lognormal(size=8)) for i in range(6)]
    assert len(evaluation(entries, "0").verdicts) == 5
    assert seen == pytest.approx([1 - (1 - FAMILY_WISE) / 5] * 5)


# --- divergence ----------------------------------------------------------------------------------


def test_diverging_on_the_hard_tasks_makes_nobody_better():
    stream = np.random.default_rng(0)
    losses = stream.lognormal(0, 2, 64)
    diverging = np.where(losses > np.median(losses), np.nan, losses)
    assert outcome(diverging, losses) == "worse"
    assert outcome(losses, diverging) == "better"
    assert outcome(0.9 * diverging, losses) in ("worse", "not distinguishable")


def test_one_divergence_is_counted_with_the_larger_of_first_and_last_loss():
    run = Run(
        np.array([0, 5, 10]),
        {"inner": np.array([[4.0, 4.0, 4.0], [1.0, 9.0, 2.0], [np.nan, np.nan, 1.0]])},
        {},
        np.ones((3, 3)),
        np.array([5, 5, 10]),
    )
    assert run.scored("inner")[-1].tolist() == [4, 9, 1]


def test_diverging_is_no_gain_where_the_loss_of_the_others_rises():
    """Of a test loss that rises as training goes on, the first is smaller than the last; a contestant that
    diverges at once is none the better."""
    finals = np.random.default_rng(0).uniform(2e3, 3e3, 32)  # from 1e3
    good, bad = entry("good", finals), entry("bad", np.full(32, np.nan))
    found = verdict([good, bad], "bad", "good")
    assert found.outcome == "not distinguishable"
    assert found.win_rate == 0.5
    still = entry("still", np.full(32, 1e3))
    assert verdict([good, still], "still", "good").outcome == "better", "one that stays where it was may win"


def test_losses_of_pairs_with_divergences_by_hand():
    one = entry("one", [np.nan, np.nan, 5.0, np.nan], [np.nan, 1.0, 1.0, 1.0])
    other = entry("other", [2e3, 2e3, np.nan, np.nan], [3e3, np.nan, np.nan, 4.0])
    a, b = paired_losses(one, other, "inner", 1)
    assert a.tolist() == [[3e3, 2e3, 5, 1e3], [3e3, 1, 1, 1]]
    assert b.tolist() == [[2e3, 2e3, 1e3, 1e3], [3e3, 1e3, 1e3, 4]]
    a, b = paired_losses(one, other, "inner", 0)
    assert (a == 1e3).all()
    assert (b == 1e3).all()


def test_a_real_contestant_that_diverges_everywhere_is_not_better():
    family = ExampleFamily((3, 4, 2), (nn.LeakyReLU(0.1),), rows=12, parts=(0.5, 0.0, 0.5))
    given = {"fits": InnerOptimizer(Adam(0.1)), "explodes": InnerOptimizer(GradientDescent(1e6))}
    settings = {"tasks": 32, "steps": 30, "tuning_tasks": 1, "timing_repeats": 1, "timing_tasks": 1}
    found = evaluate(given, family, baselines="none", **settings)
    assert found["explodes"].diverged == 32
    rise = found["fits"].losses("test", 30) / found["fits"].losses("test", 0)
    assert np.median(rise) > 1, "the example needs a test loss that rises"
    (v,) = (v for v in found.verdicts if v.name == "explodes")
    assert v.outcome != "better"


def test_failed_contestants_are_not_decided():
    losses = np.ones(4)
    for entries in ([entry("b", losses), entry("a", runs=())], [entry("b", runs=()), entry("a", losses)]):
        found = verdict(entries, "a", "b")
        assert (found.outcome, found.tasks) == ("not decided", 0)
        assert found.sentence == "a against b: not decided, there is no interval."


# --- whom against whom ---------------------------------------------------------------------------


def tuned(name: str, losses, score: float) -> Entry:
    tuning = Tuning("constant", 0.1, score, (), 1, 1)
    return entry(name, losses, kind="baseline", tuning=tuning, budgets=(), origins=())


def test_the_best_baseline_is_the_one_with_the_best_tuning_score():
    stream = np.random.default_rng(0)
    hard = stream.lognormal(size=8)
    entries = [
        entry("mine", hard),
        entry("plain", hard),
        tuned("lucky", 1e-3 * hard, 3.0),
        tuned("chosen", hard, 1.0),
        replace(tuned("failed", hard, 0.5), runs=()),
    ]
    assert best_baseline(entries).name == "chosen"
    assert best_baseline(entries[:2]) is None
    pairs = [(v.name, v.against) for v in evaluation(entries, "plain").verdicts]
    assert ("mine", "chosen") in pairs
    assert ("plain", "chosen") in pairs
    assert not [p for p in pairs if p in (("mine", "lucky"), ("plain", "lucky"))]
    assert ("lucky", "plain") in pairs
    assert ("chosen", "plain") not in pairs, "each pair once"


def test_scores_of_different_kinds_are_not_held_against_each_other():
    geometric, other = tuned("geometric", np.ones(4), 0.1), tuned("other", np.ones(4), 2.0)
    entries = [
        replace(geometric, tuning=replace(geometric.tuning, mean=3.0)),
        replace(other, tuning=replace(other.tuning, geometric=False, mean=2.0)),
    ]
    assert best_baseline(entries).name == "other"


def test_every_pair_is_judged_once():
    stream = np.random.default_rng(0)
    entries = [*claimed(stream), tuned("Adam", stream.lognormal(size=8), 1.0)]
    for reference in ("tele", "twin", "Adam", "tele, teleports off"):
        pairs = [(v.name, v.against) for v in evaluation(entries, reference, RULES).verdicts]
        assert len({frozenset(p) for p in pairs}) == len(pairs)
        assert all(a != b for a, b in pairs)
        judged = {frozenset(p) for p in pairs}
        assert all(frozenset((e.name, reference)) in judged for e in entries if e.name != reference)


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.9, "good is better than base: -10.0% [-10.0, -10.0], lower loss on 100% of 16 tasks."),
        (1.25, "good is worse than base: +25.0% [+25.0, +25.0], lower loss on 0% of 16 tasks."),
        (1.0, "good is not distinguishable from base: +0.0% [+0.0, +0.0], lower loss on 50% of 16 tasks."),
    ],
)
def test_sentences_say_outcome_interval_and_numbers(factor, words):
    losses = np.random.default_rng(0).lognormal(size=16)
    assert verdict([entry("base", losses), entry("good", factor * losses)], "good", "base").sentence == words


def test_sentences_say_how_many_seeds():
    losses = np.random.default_rng(0).lognormal(size=(3, 16))
    found = verdict([entry("base", losses[0]), entry("good", *losses)], "good", "base")
    numbers = [percent(x) for x in (found.change.value, found.change.low, found.change.high)]
    assert f"{numbers[0]}% [{numbers[1]}, {numbers[2]}]" in found.sentence
    assert found.sentence.endswith("of 16 tasks, 3 against 1 meta-seeds.")


# --- claims --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_seed_is_enough(monkeypatch):
    """What claims need besides meta-seeds is told by recipes with one."""
    monkeypatch.setattr(claims, "ENOUGH", 1)


def test_a_claim_needs_three_meta_seeds_of_everybody(monkeypatch):
    monkeypatch.setattr(claims, "ENOUGH", 3)
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
    found = replace(evaluation(entries, "twin"), applicable_rules=RULES)
    assert found.conclusions["tele"].startswith(begins)
    if begins.startswith("Yes"):
        fewer = replace(found, entries=tuple(e for e in entries if e.name != "Svd once"))
        assert fewer.conclusions["tele"].startswith("Not shown: the comparison is incomplete; tele is better than ")


def rule_parts(rule: str, last: int | None = None, every: int = 1, update=PARTS["update"]) -> dict:
    arguments = {"symmetry": "auto", "first": 0, "last": last, "every": every}
    return PARTS | {"update": update, "teleport": {"class": rule, "arguments": arguments}}


def controls_of(source: str, losses) -> list[Entry]:
    own = {"kind": "control", "source": source, "budgets": (), "origins": ()}
    named = {"off": "teleports off", "mean schedule": "mean schedule", "random": "random"}
    return [entry(f"{source}, {words}", losses(), control=c, **own) for c, words in named.items()]


def claimed(stream=None, rules=RULES) -> list[Entry]:
    """A learned teleport with everything that its claim needs."""
    stream = np.random.default_rng(0) if stream is None else stream

    def losses():
        return stream.lognormal(size=8)

    neuron = PARTS | {"teleport": {"class": "NeuronTeleport", "arguments": {"hidden": 4}}}
    out = [entry("tele", losses(), parts=neuron, moves=True, learned_teleport=True), entry("twin", losses())]
    out += controls_of("tele", losses)
    for rule in rules:
        out.append(entry(f"{rule} once", losses(), parts=rule_parts(rule, 0), moves=True))
        out.append(entry(f"{rule} always", losses(), parts=rule_parts(rule), moves=True))
    return out


def the_claim(entries, rules=RULES):
    (claim,) = claims_of(entries, rules)
    return claim


def change(entries, name: str, **fields) -> list[Entry]:
    return [replace(e, **fields) if e.name == name else e for e in entries]


def test_a_complete_claim():
    entries = claimed()
    claim = the_claim(entries)
    assert (claim.name, claim.twin, claim.missing) == ("tele", "twin", ())
    assert set(claim.against) == {e.name for e in entries} - {"tele"}
    found = evaluation(entries, "twin", RULES)
    assert {(v.name, v.against) for v in found.verdicts} >= {("tele", name) for name in claim.against}
    assert [c.missing for c in found.claims] == [()]


TWIN = "the same update meta-trained without teleports"
ALL = {"twin": TWIN} | {
    f"{rule} {name}": f"{rule} {when}"
    for rule in RULES
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
    judged = [v for v in evaluation(entries, "tele", RULES).verdicts if v.name == "tele"]
    assert judged
    assert [c.missing for c in evaluation(entries, "tele", RULES).claims] == [(ALL[absent],)]


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
    assert claims_of([e for e in entries if e.name != "tele"], RULES) == []
    assert claims_of(change(entries, "tele", runs=()), RULES) == []
    two = [*entries, replace(entries[0], name="tele again"), *controls_of("tele again", lambda: np.ones(8))]
    assert [c.name for c in claims_of(two, RULES)] == ["tele", "tele again"]
    assert all(c.missing == () for c in claims_of(two, RULES))
    assert "tele, teleports off" not in claims_of(two, RULES)[1].against


def test_real_parts_make_a_complete_claim():
    """The descriptions that contestants give are what claims read."""
    update = CoordinateUpdate(hidden=3)

    def inner(teleport=None):
        return InnerOptimizer(copy.deepcopy(update), teleport)

    given = {"tele": inner(NeuronTeleport(hidden=3)), "twin": inner()}
    for rule in (Balance, Svd, White, Wout):
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


# --- which recipes are pooled --------------------------------------------------------------------


def trained(name: str, seeds: tuple[int, ...], level: float = 1.0, **fields):
    """A checkpoint with a meta-seed for each number, whose losses tell the numbers."""
    losses = [level + np.array([0.1, 0.2]) * (1 + s) for s in seeds]
    return entry(name, *losses, budgets=tuple(replace(BUDGET, seed=s) for s in seeds), **fields)


def pooled(*others, ours=(0, 1), theirs=(0, 1)) -> tuple[int, bool]:
    """How many recipes are pooled for a comparison of two, and whether it is paired."""
    a, b = trained("a", ours), trained("b", theirs, 2.0)
    pool = pool_of([a, *others, b], a, b, "inner", 1)
    return len(pool.recipes), pool.paired


def test_equal_seeds_are_paired():
    assert pooled() == (0, True)
    assert pooled(theirs=(1, 0)) == (0, False), "in the same order"
    assert pooled(theirs=(0, 2)) == (0, False)
    assert pooled(ours=(0,), theirs=(0,)) == (0, False)


def test_recipes_of_other_seeds_are_pooled_for_unpaired_ones_only():
    others = [trained("c", (0, 1), 3), trained("d", (1, 2), 4), trained("e", (5,), 5)]
    assert pooled(*others) == (1, True)
    assert pooled(*others, theirs=(7, 8, 9)) == (2, False)


def test_only_checkpoints_that_ran_and_tell_something_new_are_pooled():
    c = trained("c", (0, 1), 3)
    assert pooled(c, replace(c, name="c again")) == (1, True)
    assert pooled(replace(c, kind="control")) == (0, True)
    assert pooled(replace(c, runs=())) == (0, True)
    assert pooled(trained("c", (0, 1), -9)) == (0, True), "its losses have no logarithm"


def test_unknown_seeds_are_not_paired():
    a, b = (replace(trained(name, (0, 1)), budgets=(None, None)) for name in "ab")
    assert not pool_of([a, b], a, b, "inner", 1).paired


# --- measures ------------------------------------------------------------------------------------


def curves(*columns) -> Run:
    losses = np.array(columns, np.float64).T
    return Run(np.array([0, 1, 4]), {"inner": losses}, {}, np.ones_like(losses), np.full(losses.shape[1], 4))


def test_measures_by_hand():
    cost = Cost(np.array([0.0, 0.5, 3.0]), (3.0, 3.0), 1, 4, None)
    goal = entry("best", runs=(curves([8, 4, 2], [8, 4, 2], [8, 4, 2], [8, 4, 2]),))
    mine = entry("mine", runs=(curves([8, 2, 1], [8, 1, 3], [8, 8, 2], [8, 3, 3]),), cost=cost)
    never = entry("never", runs=(curves([8, 4, 2], [8, 4, 2], [8, 4, 3], [8, 4, 3]),))
    found = measures_of([goal, mine, never], goal, "inner")
    assert (found["mine"].reached, found["mine"].steps_to_target, found["mine"].seconds_to_target) == (0.75, 4, 3.0)
    assert (found["never"].reached, found["never"].steps_to_target) == (0.5, math.inf)
    assert (found["best"].reached, found["best"].steps_to_target) == (1, 4)
    # Logs in units of log 2 are 3, 2, 1: (2.5 x 1 + 1.5 x 3) / 4.
    assert found["best"].log_area == pytest.approx(7 / 4 * math.log(2))
    alone = measures_of([goal], None, "inner")["best"]
    assert math.isnan(alone.reached)
    assert math.isnan(alone.steps_to_target)


def test_measures_of_several_seeds_hold_each_against_the_same_targets():
    goal = entry("best", runs=(curves([8, 4, 2], [80, 40, 20]),))
    seeds = entry("seeds", runs=(curves([8, 2, 2], [80, 20, 20]), curves([8, 4, 3], [80, 4, 3])))
    assert measures_of([goal, seeds], goal, "inner")["seeds"].reached == 0.75


def test_no_torch_stream_is_drawn_from():
    before = torch.random.get_rng_state()
    outcome(np.ones(4), np.arange(1.0, 5.0))
    assert torch.equal(torch.random.get_rng_state(), before)
