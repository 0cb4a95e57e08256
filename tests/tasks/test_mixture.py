"""Mixtures of task families."""

import math
from pathlib import Path

import pytest
import torch
from metatele.tasks import Digits, Mixture, Rescaled, TeacherStudent

from metatele import (
    ConfigError,
    GlobalStepSize,
    InnerOptimizer,
    MetaSettings,
    TaskError,
    TaskFamily,
    TaskMixture,
    UnrollSettings,
    ValidationSettings,
    evaluate,
    meta_train,
    sample_meta_batch,
)
from metatele.meta_training.trainer import MetaTrainer
from metatele.testing import check_task_family

FEW = Mixture(widths=(4, 8), depths=(1, 2), rows=(16, 32))


def drawn(mixture: Mixture, number: int) -> TaskFamily:
    return sample_meta_batch(mixture, "train", range(1), number=number).family


@pytest.mark.parametrize("number", range(12))
def test_members_keep_the_contract_of_families(number: int) -> None:
    check_task_family(FEW.member(torch.Generator().manual_seed(number)))


def test_a_meta_batch_is_of_a_member_that_depends_on_its_number_and_split() -> None:
    shapes = [
        [tuple(p.shape[1:]) for p in sample_meta_batch(FEW, "train", range(2), 3, n).params.values()] for n in range(8)
    ]
    assert len({str(s) for s in shapes}) > 4
    again = sample_meta_batch(FEW, "train", [1], 3, 5)  # as another process would draw it
    both = sample_meta_batch(FEW, "train", range(2), 3, 5)
    assert all(torch.equal(p, both.params[k][1:]) for k, p in again.params.items())
    other = sample_meta_batch(FEW, "validation", [1], 3, 5)
    assert [p.shape for p in other.params.values()] != [p.shape for p in again.params.values()]


def test_members_are_as_they_were_asked_for() -> None:
    few = [1, 0, 0, 0, 0, 0]
    mixture = Mixture(few, (3, 4), (5, 9), (2, 3), (20, 40), ["tanh"], [8], noisy=1, rescaled=0, noises=(0.2, 0.3))
    for number in range(10):
        family = drawn(mixture, number)
        assert isinstance(family, TeacherStudent)
        assert 3 <= family.widths[0] <= 4
        assert all(5 <= w <= 9 for w in family.widths[1:-1])
        assert 2 <= len(family.widths) - 2 <= 3
        assert 20 <= family.rows <= 40
        assert (family.activation, family.batch_size, family.parts) == ("tanh", 8, (0.5, 0.5, 0.0))
        assert 0.2 <= family.noise <= 0.3
    assert all(isinstance(drawn(Mixture(rescaled=1), n), Rescaled) for n in range(5))
    kinds = [type(drawn(Mixture([0, 0, 1, 0, 0, 0], rescaled=0), n)) for n in range(3)]
    assert kinds == [Digits] * 3


@pytest.mark.parametrize("unseen", [0.0, 1.0])
@pytest.mark.parametrize("weights", [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]])
def test_regression_without_noise_is_scored_on_unseen_rows_as_often_as_asked(weights: list[int], unseen: float) -> None:
    for number in range(5):
        family = drawn(Mixture(weights, noisy=0, rescaled=0, unseen=unseen), number)
        assert family.parts == ((0.5, 0.5, 0.0) if unseen else (1.0, 0.0, 0.0))
        noisy = drawn(Mixture(weights, noisy=1, rescaled=0, unseen=unseen), number)
        assert noisy.parts == (0.5, 0.5, 0.0)


def test_rescaling_multiplies_each_tensor_by_one_factor() -> None:
    base = TeacherStudent(4, 6, 2, rows=16)
    plain, scaled = (sample_meta_batch(f, "train", range(40)) for f in (base, Rescaled(base, 0.5)))
    assert torch.equal(plain.inputs["inner"], scaled.inputs["inner"])
    logs = []
    for k, p in plain.params.items():
        ratio = (scaled.params[k] / p).flatten(1)
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
        logs.append(ratio[:, 0].log())
    spread = torch.cat(logs).std()
    assert 0.4 < float(spread) < 0.6
    assert len({round(float(x), 6) for x in torch.cat(logs)}) == 40 * len(logs)


def test_noise_is_added_to_the_targets_alone_and_none_by_default() -> None:
    plain, noisy = (sample_meta_batch(TeacherStudent(rows=512, noise=s), "train", range(4)) for s in (0.0, 0.3))
    difference = noisy.targets["inner"] - plain.targets["inner"]
    assert torch.equal(plain.inputs["inner"], noisy.inputs["inner"])
    assert float(difference.std()) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"weights": [1, 2]}, "6 numbers"),
        ({"widths": (8, 4)}, r"\(8, 4\)"),
        ({"inputs": (0, 4)}, r"inputs must be .*\(0, 4\)"),
        ({"depths": (0, 2)}, r"\(0, 2\)"),
        ({"rows": (2, 40)}, r"at least 16.*\(2, 40\)"),
        ({"activations": ["relo"]}, "relo"),
        ({"batch_sizes": []}, "must not be empty"),
        ({"noisy": 1.5}, "1.5"),
        ({"unseen": -0.5}, "-0.5"),
        ({"noises": (0.5, 0.1)}, r"noises must be .*\(0.5, 0.1\)"),
        ({"noises": (0.0, 0.1)}, r"\(0.0, 0.1\)"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        Mixture(**wrong)


def test_where_one_family_is_needed_a_mixture_says_so() -> None:
    with pytest.raises(TaskError, match=r"Mixture is a mixture of task families.*name one of its members"):
        evaluate({}, FEW, tasks=2, steps=2)


class Nothing(TaskMixture):
    def member(self, generator: torch.Generator) -> TaskFamily:
        return 3  # type: ignore[return-value]


def test_a_member_that_is_no_family_is_named() -> None:
    with pytest.raises(TaskError, match=r"Nothing.member\(\) must return a task family, got 3"):
        sample_meta_batch(Nothing(), "train", [0], number=0)


class Forgetful(TaskMixture):
    """Does not use its generator."""

    drawn = 3

    def member(self, generator: torch.Generator) -> TaskFamily:
        self.drawn += 1
        return TeacherStudent(self.drawn, 4, 2, rows=8)


def test_a_mixture_that_ignores_its_generator_is_refused() -> None:
    """No run on it could be gone on with."""
    said = r"Forgetful.member\(\) gives other families for equal generator states"
    with pytest.raises(TaskError, match=said):
        meta_train(InnerOptimizer(GlobalStepSize(3)), Forgetful(), UnrollSettings(2, 2), MetaSettings(1, 2))
    with pytest.raises(TaskError, match=said):
        check_task_family(Forgetful())


def test_the_conformance_suite_takes_mixtures() -> None:
    check_task_family(FEW)
    with pytest.raises(TaskError, match="must return a task family, got 3"):
        check_task_family(Nothing())


def test_meta_training_on_a_mixture_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Its meta-batches in flight are of families of different shapes; it is validated on a family of its own."""

    def run(folder: str, stop_at: int | None = None, resume: bool = False) -> list[object]:
        meta, counted = MetaSettings(6, 2, lr=1e-2, growth=1.0), iter(range(1, 100))
        unroll = UnrollSettings((4, 9), 3, in_flight=3, random_start=True, untold=0.5)
        checks, inner = ValidationSettings(2, 2, ["SGD"]), InnerOptimizer(GlobalStepSize(3))
        done = meta_train(
            inner,
            FEW,
            unroll,
            meta,
            checks,
            output=tmp_path / folder,
            resume=resume,
            stop=lambda: next(counted) == stop_at,
            validation_family=TeacherStudent(3, 4, 2, rows=8),
        )
        return [*([*i][:-1] for i in done.history), *inner.parameters()]

    whole = run("whole")
    run("part", 3)
    for a, b in zip(whole, run("part", resume=True), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_mixture_is_validated_on_members_and_not_compiled() -> None:
    settings = UnrollSettings(4, 2), MetaSettings(2, 2), ValidationSettings(2, 2)
    trainer = MetaTrainer(InnerOptimizer(GlobalStepSize(3)), [FEW], *settings)
    assert len({str(b.network) for b in trainer.tests.batches}) > 4
    trainer.initialise()
    trainer.enter()
    assert math.isfinite(trainer.validate()[0])
    with pytest.raises(ConfigError, match="each network of Mixture anew"):
        MetaTrainer(InnerOptimizer(GlobalStepSize(3)), [FEW], UnrollSettings(4, 2, engine="compiled"), *settings[1:])
