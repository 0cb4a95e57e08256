"""Who takes part: checkpoints and their controls, baselines, the reference, the rules."""

import copy

import numpy as np
import pytest
import torch
from metatele.tasks import TeacherStudent

import metatele.evaluation.stages as stages
from metatele import (
    Balance,
    ConfigError,
    InnerOptimizer,
    NeuronTeleport,
    RandomTeleport,
    Stay,
    Unroll,
    sample_meta_batch,
)
from metatele.evaluation import Learned
from metatele.evaluation.contestants.baselines import baselines
from metatele.evaluation.contestants.contestant import reference_of
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.play.run import play
from metatele.meta_training import Budget
from metatele.teleports import MeanSchedule, OptimisedTeleport, SizedRandom
from tests.evaluation.conftest import FAMILY, RULES, Explode, Noise, entrants, gd, learned, quick, tuned_at_once


def test_controls_their_order_and_their_notes():
    found = entrants({"tele": learned(1, True), "rule": gd(0.1, Balance(last=None)), "plain": learned(2)})
    assert [(c.name, c.kind, c.control, c.source) for c in found] == [
        ("tele", "checkpoint", None, None),
        ("tele, teleports off", "control", "off", "tele"),
        ("tele, mean schedule", "control", "mean schedule", "tele"),
        ("tele, random of same size", "control", "random", "tele"),
        ("rule", "checkpoint", None, None),
        ("plain", "checkpoint", None, None),
        ("plain + balance", "control", "balance", "plain"),
    ]
    teleports = [type(c.inner.teleport) for c in found]
    assert teleports == [NeuronTeleport, Stay, MeanSchedule, SizedRandom, Balance, Stay, Balance]
    assert [bool(c.note) for c in found] == [c.kind == "control" for c in found]
    assert "not meta-trained" in found[-1].note
    assert "meta-trained together with the learned teleport" in found[1].note


def test_the_balance_control_belongs_to_the_first_that_does_not_teleport_or_else_to_the_first():
    assert [c.name for c in entrants({"a": gd(0.1, RandomTeleport()), "b": gd(0.2)})][-1] == "b + balance"
    assert [c.name for c in entrants({"a": learned(1, True), "b": learned(2, True)})].count("a + balance") == 1
    ruled = entrants({"a": gd(0.1, Balance())})
    assert [c.name for c in ruled] == ["a"], "the balance rule after the balance rule is nothing new"


def test_no_balance_control_without_scaling_symmetry():
    assert [c.name for c in entrants({"a": gd()}, TeacherStudent(4, 5, 2, rows=8, activation="tanh"))] == ["a"]
    assert [c.name for c in entrants({"a": gd()}, Noise())] == ["a"]


def test_controls_of_a_teleport_that_is_not_learned_are_its_absence_only():
    names = [c.name for c in entrants({"a": gd(0.1, RandomTeleport()), "b": gd(0.2)})]
    assert names == ["a", "a, teleports off", "b", "b + balance"]


def test_controls_use_the_checkpoints_own_update_order_and_moments():
    given = {"a": [learned(1, True, "after"), learned(2, True, "after")], "b": learned(3, True)}
    found = {c.name: c for c in entrants(given)}
    for c in found.values():
        if c.kind == "control":
            source = found[c.source]
            assert len(c.seeds) == len(source.seeds)
            for mine, theirs in zip(c.seeds, source.seeds, strict=True):
                assert mine.update is theirs.update
                played = c.control in ("mean schedule", "random")
                assert (mine.order, mine.moments) == (
                    (theirs.order, theirs.moments) if played else ("before", "transform")
                )
    one, other = found["a, mean schedule"].seeds
    assert one.teleport.length == 3
    assert not torch.equal(one.teleport.get_buffer("factor_0"), other.teleport.get_buffer("factor_0"))


def test_the_mean_schedule_and_the_sizes_are_those_of_the_checkpoint():
    inner, batch = learned(1, True), sample_meta_batch(FAMILY, "train", range(2))
    seen = []
    inner.teleport.recorder = lambda step, algebra, alive: seen.append(algebra)
    unroll = Unroll(inner, batch, 3)
    unroll.window(unroll.start(), 3, differentiable=False)
    found = {c.control: c.inner.teleport for c in entrants({"a": inner})}
    mean = torch.stack([t[0].mean(0) for t in seen])
    torch.testing.assert_close(found["mean schedule"].get_buffer("factor_0"), mean.detach(), check_dtype=False)
    norms = torch.tensor([[float(t[0].norm(dim=1).mean())] for t in seen])
    torch.testing.assert_close(torch.tensor(found["random"].norms), norms)


def test_the_checkpoint_is_left_alone():
    original = learned(1, True).double()
    heard = []
    original.teleport.observer = original.teleport.recorder = lambda *what: heard.append(what)
    before = copy.deepcopy(original.state_dict())
    quick({"a": original})
    assert all(p.requires_grad and p.dtype == torch.float64 and p.grad is None for p in original.parameters())
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())
    assert not heard, "its listeners belong to the caller"
    assert original.teleport.observer is not None


def test_listeners_of_contestants_are_taken_off():
    for c in entrants({"a": learned(1, True)}):
        play(c.inner, sample_meta_batch(FAMILY, "test", range(1)), range(3))
        assert getattr(c.inner.teleport, "observer", None) is None
        assert getattr(c.inner.teleport, "recorder", None) is None


def test_an_off_control_that_takes_part_already_is_left_out():
    tele = learned(1, True)
    twin, other = InnerOptimizer(copy.deepcopy(tele.update)), learned(9)
    assert "tele, teleports off" not in [c.name for c in entrants({"tele": tele, "twin": twin})]
    assert "tele, teleports off" in [c.name for c in entrants({"tele": tele, "other": other})], "other weights"
    assert "tele, teleports off" in [c.name for c in entrants({"tele": tele, "gd": gd()})], "another class"
    three = {"tele": [tele, learned(2, True)], "twin": twin}
    assert "tele, teleports off" in [c.name for c in entrants(three)], "one of two seeds"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("plain", RULES),
        (True, RULES),
        ("teleports", [*RULES, *(f"{r} + random" for r in RULES), *(f"{r} + climb" for r in RULES)]),
        ("none", []),
        (False, []),
    ],
)
def test_baselines_that_take_part(monkeypatch, given, names):
    monkeypatch.setattr(stages, "tune", tuned_at_once)
    result = quick({"a": gd()}, Noise() if given == "plain" else FAMILY, baselines=given, tasks=1, steps=2)
    found = [e for e in result.entries if e.kind == "baseline"]
    assert [e.name for e in found] == names
    for e in found:
        assert e.failure is None
        assert (e.moves, e.learned_teleport) == ("+" in e.name, False)
        assert e.parts["update"]["arguments"] == {
            "rule": e.name.split(" ")[0],
            "lr": 0.01,
            "schedule": "cosine",
            "steps": 2,
        }
        assert e.label == f"{e.name} (lr 0.01, cosine)"
    assert result.settings.baselines == {True: "plain", False: "none"}.get(given, given)


def test_baselines_teleport_once_before_the_first_update():
    made = {c.name: c.inner for c in baselines(5, True)}
    for name, kind in (("SGD + random", RandomTeleport), ("SGD + climb", OptimisedTeleport), ("SGD", Stay)):
        assert isinstance(made[name].teleport, kind)
        assert [made[name].teleport.active(k) for k in range(5)] == [kind is not Stay, *[False] * 4]


def test_meta_seeds_are_one_contestant():
    one, two = learned(1, True), learned(2, True)
    result = quick({"both": [one, two], "one": one, "two": two})
    both = result["both"]
    assert both.label == "both (2 meta-seeds)"
    assert result["both, mean schedule"].meta_seeds == 2
    assert result["one"].label == "one"
    assert len(both.runs) == 2
    for run, name in zip(both.runs, ("one", "two"), strict=True):
        np.testing.assert_array_equal(run.losses["inner"], result[name].runs[0].losses["inner"])
    assert both.losses("inner", 4).shape == (2, 3)


def budget(**changes) -> Budget:
    return Budget(**{"tasks": 20, "steps": 5, "families": (("Sine", ""),), "seed": 0} | changes)


def test_seeds_of_different_recipes_or_budgets_are_refused():
    def refuse(seeds, message):
        with pytest.raises(ConfigError, match=message):
            quick({"a": seeds})

    refuse([learned(1), learned(2, True)], "the seeds of 'a' differ in more than their weights")
    refuse([learned(1), gd()], "the seeds of 'a' differ in more than their weights")
    refuse([learned(1), learned(2), learned(1)], "'a' hold the same optimizer twice")
    unequal = [Learned(learned(1), budget()), Learned(learned(2), budget(tasks=10, seed=1))]
    refuse(unequal, r"unequal budgets \(20 trajectories of 5 steps against 10 of 5\)")
    unequal[1] = Learned(learned(2), budget(families=(("Cosine", ""),)))
    refuse(unequal, r"unequal budgets \(meta-trained on Sine against Cosine\)")
    refuse([], "its list is empty")
    refuse([learned(1), "runs/a"], "must be an InnerOptimizer .* got str")
    equal = [Learned(learned(i), budget(seed=i)) for i in range(2)]
    assert [b.seed for b in quick({"a": equal})["a"].budgets] == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (learned(1), "must be a mapping .* got InnerOptimizer"),
        ({"a": None}, "'a' must be an InnerOptimizer .* got NoneType"),
        ({1: gd()}, "the name of a checkpoint must be a non-empty string, got 1"),
        ({"": gd()}, "the name of a checkpoint must be a non-empty string, got ''"),
        ({"SGD": gd()}, "two contestants would be called 'SGD'"),
        ({"a": learned(1, True), "a, teleports off": gd()}, "two contestants would be called 'a, teleports off'"),
        ({}, None),
    ],
)
def test_checkpoints_that_cannot_take_part(given, message):
    nobody = given == {}
    with pytest.raises(ConfigError, match=message or "nothing to evaluate"):
        quick(given, baselines=not nobody)


def test_an_update_that_forgets_its_arguments_is_named():
    class Forgetful(Explode):
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match=r"^a: every constructor argument must be kept .* 'rate'"):
        quick({"a": InnerOptimizer(Forgetful())})


def test_reference_is_the_first_checkpoint_without_teleports():
    def reference(inners, wanted=None):
        return reference_of(entrants(inners), wanted)

    assert reference({"t": learned(1, True), "p": gd(0.1), "q": gd(0.2)}) == "p"
    assert reference({"t": learned(1, True)}) == "t, teleports off"
    assert reference({"t": gd(0.1, Balance())}) == "t", "nobody else is there"
    assert reference({"t": learned(1, True)}, "t + balance") == "t + balance"
    with pytest.raises(ConfigError, match=r"'x' is not a contestant; use one of 't'"):
        reference({"t": learned(1, True)}, "x")
    assert reference_of(baselines(3, False), None) == "SGD"


def test_rules_that_can_act():
    found = applicable_rules(sample_meta_batch(FAMILY, "train", range(2)))
    assert [rule for rule in found if rule in ("Balance", "Svd", "White", "Wout")] == ["Balance", "White", "Wout"]
    tanh = TeacherStudent(4, 5, 2, rows=8, activation="tanh")
    assert applicable_rules(sample_meta_batch(tanh, "train", range(2))) == ()
