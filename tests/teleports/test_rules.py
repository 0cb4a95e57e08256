"""The one list of closed-form rules, and what takes its rules from it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from metatele import sample_meta_batch
from metatele.cli.compare_command import Compare
from metatele.evaluation import Entry, Run
from metatele.evaluation.contestants.rules import applicable_rules
from metatele.evaluation.judge.claims import claims_of
from metatele.report.figures.looks import looks_of
from metatele.symmetry import GeneralLinear, PositiveScaling
from metatele.task.params import Params, per_task
from metatele.teleports import CanonicalTeleport
from metatele.teleports.rules import rule_named, rules, when_of
from metatele.testing import ExampleFamily
from tests.conftest import concrete_subclasses


@pytest.fixture
def units() -> Iterator[type[CanonicalTeleport]]:
    """A new rule, as a file of its own would define it."""

    class Units(CanonicalTeleport, rule="units"):
        """Incoming weights of norm 1."""

        def scales(self, factor: PositiveScaling, params: Params, inputs: Tensor) -> Tensor:
            return 1 / params[factor.layer.weight_in].norm(dim=2)

        def matrix(self, factor: GeneralLinear, params: Params, inputs: Tensor) -> Tensor:
            weight = params[factor.layer.weight_in]
            return factor.identity(weight) / per_task(weight.norm(dim=(1, 2)), weight)

    yield Units
    del CanonicalTeleport.named["units"]


def entry(name: str, teleport: dict[str, Any], learned: bool = False) -> Entry:
    run = Run(np.array([0, 1]), {"inner": np.ones((2, 2))}, {}, np.ones((2, 2)), np.ones(2, np.int64))
    parts = {"update": {"class": "Adam", "arguments": {}}, "teleport": teleport}
    return Entry(name, "checkpoint", "", None, None, (), (), None, parts, True, learned, (run,))


def test_every_rule_has_a_name() -> None:
    assert set(CanonicalTeleport.named.values()) == concrete_subclasses(CanonicalTeleport)
    assert set(CanonicalTeleport.named) >= {"balance", "svd", "white", "wout"}


def test_a_rule_is_found_again_by_what_a_checkpoint_says_of_it() -> None:
    for rule in rules():
        made = rule.make("scaling")
        assert (type(made), made.symmetry) == (rule.kind, "scaling")
        assert rule_named(type(made).__name__) is rule.kind
        assert when_of(made.arguments()) == rule.when
        assert [made.active(k) for k in range(3)] == [True, *[rule.when == "at every step"] * 2]
    assert rule_named("NeuronTeleport") is None
    assert when_of({"first": 0, "last": 5, "every": 1}) is None
    assert when_of({"first": 0, "last": None, "every": 2}) is None


def test_a_new_rule_is_everywhere(units: type[CanonicalTeleport]) -> None:
    """What to meta-train, what a claim needs, what can act on a network, how the report draws it."""
    names = [rule.name for rule in rules()]
    assert names[-2:] == ["units", "units-every"]
    arguments = ["--controls", "units-every", "--optimizer.update=Adam"]
    assert Compare("compare").make_parser().parse_args(arguments).controls == ["units-every"]
    batch = sample_meta_batch(ExampleFamily(), "train", range(2))
    assert "Units" in applicable_rules(batch)
    neuron = {"class": "NeuronTeleport", "arguments": {}}
    ruled = {"class": "Units", "arguments": {"first": 0, "last": 0, "every": 1}}
    (claim,) = claims_of([entry("tele", neuron, True), entry("ruled", ruled)], ["Units"])
    assert "ruled" in claim.against
    assert "Units at every step" in claim.missing
    assert "Units at step 0" not in claim.missing
    looks = looks_of([entry("tele", neuron, True), entry("ruled", ruled)])
    assert looks["ruled"].order < looks["tele"].order, "it is drawn as a rule"
