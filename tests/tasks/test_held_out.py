"""What the families that were added for a held-out list promise of their own."""

import math

import pytest
import torch
from metatele.tasks import Autoencoder, Digits, Friedman, Outliers, Shapes, Sines, TeacherStudent
from metatele.tasks.functions import FUNCTIONS
from metatele.tasks.shapes import circles, moons
from sklearn import datasets

from metatele import GradientDescent, InnerOptimizer, TaskError, Unroll, sample_meta_batch
from metatele.testing import check_task_family

PARTS = ("inner", "meta", "test")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "family",
    [
        Friedman(2, 4, spread=10.0, batch_size=20),
        Friedman(3, 6, hidden=[8, 8]),
        Shapes("moons", noise=0.0, spread=1.0, shift=0.0),
        Shapes("circles", batch_size=16),
        Sines(3, 4, noise=0.0, parts=(1.0, 0.0, 0.0)),
        Outliers(0.5, 3.0, 0.1, depth=2, spread=3.0),
        Autoencoder(hidden=[], rows=100, held_out="images", batch_size=10),
        Digits(noise=0.5, flipped=0.2, batch_size=16),
    ],
    ids=lambda f: type(f).__name__,
)
def test_families_with_other_settings(family):
    check_task_family(family)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Friedman(4), "one of 1, 2, 3, got 4"),
        (lambda: Friedman(1, 4), r"features >= 5 and spread >= 1, got \(4, 1\.0\)"),
        (lambda: Friedman(noise=-1.0), r"noise >= 0, got .*-1\.0"),
        (lambda: Friedman(hidden=[0]), r"got .*\[0\]"),
        (lambda: Sines(sines=0), "sines must be at least 1, got 0"),
        (lambda: Sines(noise=math.nan), "got .*nan"),
        (lambda: Shapes("stars"), "moons, circles, got 'stars'"),
        (lambda: Shapes(spread=0.5), r"0\.5"),
        (lambda: Outliers(share=1.5), r"share in \[0, 1\].*1\.5"),
        (lambda: Outliers(delta=0.0), r"delta > 0, got .*0\.0"),
        (lambda: Autoencoder(bottleneck=0), "bottleneck=0"),
        (lambda: Autoencoder(activation="rule"), "got 'rule'"),
        (lambda: Digits(noise=-0.1), r"-0\.1"),
        (lambda: Digits(flipped=1.1), r"flipped in \[0, 1\], got .*1\.1"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(make, message):
    with pytest.raises(TaskError, match=message):
        make()


@pytest.mark.parametrize("function", [1, 2, 3])
def test_friedmans_functions_are_scikit_learns(function):
    x, y = getattr(datasets, f"make_friedman{function}")(1000, random_state=0)
    torch.testing.assert_close(FUNCTIONS[function].value(torch.tensor(x)), torch.tensor(y))
    assert x[:, : len(FUNCTIONS[function].low)].min(0) == pytest.approx(FUNCTIONS[function].low, abs=0.02 * x.max())
    assert x[:, : len(FUNCTIONS[function].high)].max(0) == pytest.approx(FUNCTIONS[function].high, rel=0.02)


@pytest.mark.parametrize("function", [1, 2, 3])
def test_friedman_tasks_are_standardised_and_reorder_the_features(function):
    family = Friedman(function, 5, noise=0.0, rows=20_000)
    x, y = family.sample(stream())
    assert y.shape == (20_000, 1)
    assert float(y.mean()) == pytest.approx(0, abs=0.03)
    assert float(y.std()) == pytest.approx(1, abs=0.02)
    assert x.mean(0).tolist() == pytest.approx([0] * 5, abs=0.03)
    assert x.std(0).tolist() == pytest.approx([1] * 5, abs=0.02)
    slopes = [(x * y).mean(0) for x, y in (family.sample(stream(seed)) for seed in range(4))]
    assert len({int(s.abs().argmax()) for s in slopes}) > 1, "the feature that matters most is in several places"
    wide, _ = Friedman(function, 5, spread=10.0, rows=2000).sample(stream())
    assert 0.09 < float(wide.std(0).min()) < float(wide.std(0).max()) < 11


def test_noise_of_functions_is_of_its_size():
    for make in (Friedman, Sines):
        clean, noisy = (make(noise=noise, rows=10_000).sample(stream()) for noise in (0.0, 0.3))
        torch.testing.assert_close(clean[0], noisy[0])
        assert float((noisy[1] - clean[1]).std()) == pytest.approx(0.3, rel=0.05)


def test_a_single_sine_solves_its_equation():
    # a sin(f x + p) has the second derivative -f^2 times itself; on an even grid, of distance h, its second
    # difference is -4 sin(f h / 2)^2 times itself.
    family = Sines(noise=0.0, rows=3)
    for seed in range(20):
        draw = torch.rand
        with pytest.MonkeyPatch.context() as patch:
            grid = torch.tensor([[0.25], [0.5], [0.75]])
            patch.setattr(torch, "rand", lambda *s, draw=draw, grid=grid, **k: grid if s == (3, 1) else draw(*s, **k))
            x, y = family.sample(stream(seed))
        assert x.flatten().tolist() == [-0.5, 0.0, 0.5]
        ratio = float((y[0] - 2 * y[1] + y[2]) / y[1])
        assert -4 * math.sin(1.25) ** 2 - 1e-3 <= ratio <= -4 * math.sin(0.25) ** 2 + 1e-3
        assert float(y.abs().max()) <= math.sqrt(2) + 1e-6


def test_moons_and_circles_without_noise():
    place, labels = torch.linspace(0, 1, 200), torch.arange(200) % 2
    x = moons(place, labels) + torch.tensor([0.5, 0.25])
    middle = torch.where(labels.unsqueeze(1) == 0, torch.zeros(2), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close((x - middle).norm(dim=1), torch.ones(200))
    assert bool(((x - middle)[labels == 0, 1] >= -1e-6).all()), "the upper half"
    assert bool(((x - middle)[labels == 1, 1] <= 1e-6).all()), "the lower half"
    torch.testing.assert_close(circles(place, labels).norm(dim=1), torch.where(labels == 0, 1.0, 0.5))


def test_shapes_are_turned_stretched_and_moved():
    x, labels = Shapes("circles", noise=0.0, spread=1.0, shift=0.0).sample(stream())
    torch.testing.assert_close(x.norm(dim=1), torch.where(labels == 0, 1.0, 0.5))
    plain = [Shapes("moons", noise=0.0, spread=1.0, shift=0.0).sample(stream(seed))[0] for seed in (0, 1)]
    assert all(float(one.norm(dim=1).max()) < 1.6 for one in plain), "turned about their centre"
    moved = Shapes("moons", noise=0.0, spread=1.0, shift=2.0).sample(stream())[0] - plain[0]
    torch.testing.assert_close(moved, moved[:1].expand(200, 2))
    stretched = Shapes("moons", noise=0.0, spread=3.0, shift=0.0).sample(stream())[0] / plain[0]
    torch.testing.assert_close(stretched, stretched.median(0).values.expand(200, 2), rtol=1e-3, atol=1e-3)
    assert 1 / 3.01 < float(stretched.min()) < float(stretched.max()) < 3.01
    either = [Shapes(noise=0.0, spread=1.0, shift=0.0).sample(stream(seed)) for seed in range(8)]
    assert len({bool(((x.norm(dim=1) - 1).abs() < 1e-5)[y == 0].all()) for x, y in either}) == 2


def test_outliers_are_a_share_of_the_inner_rows():
    spoiled, clean = (sample_meta_batch(Outliers(share, 10.0, rows=80), "test", [0]) for share in (0.2, 0.0))
    for part in PARTS:
        assert torch.equal(spoiled.inputs[part], clean.inputs[part])
        wrong = (spoiled.targets[part] != clean.targets[part]).all(-1).sum()
        assert int(wrong) == (8 if part == "inner" else 0)
    error = spoiled.targets["inner"] - clean.targets["inner"]
    assert float(error[error != 0].std()) == pytest.approx(10, rel=0.4)
    same = sample_meta_batch(TeacherStudent(rows=80, parts=Outliers().parts), "test", [0])
    assert torch.equal(same.targets["inner"], clean.targets["inner"])


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_hubers_loss_is_torchs(delta):
    prediction, target = torch.randn(2, 3, 20, 4, generator=stream()) * 3
    expected = [torch.nn.HuberLoss(delta=delta)(p, t) for p, t in zip(prediction, target, strict=True)]
    torch.testing.assert_close(Outliers(delta=delta).losses(prediction, target), torch.stack(expected))


def test_an_autoencoders_targets_are_its_images():
    family = Autoencoder(rows=60)
    x, y = family.sample(stream())
    assert torch.equal(x, y)
    assert torch.equal(x, Digits(rows=60).sample(stream())[0])
    assert [m.out_features for m in family.network()[::2]] == [32, 8, 32, 64]
    assert not family.measures_accuracy
    batches = [sample_meta_batch(Autoencoder(rows=100, held_out="images"), s, [0, 1]) for s in ("train", "test")]
    rows = [{tuple(row) for part in PARTS for row in b.inputs[part].flatten(0, 1).tolist()} for b in batches]
    assert not rows[0] & rows[1]


def test_labels_are_flipped_for_a_fraction_of_the_inner_rows():
    flipped, clean = (sample_meta_batch(Digits(flipped=share), "test", range(3)) for share in (0.3, 0.0))
    for part in PARTS:
        assert torch.equal(flipped.inputs[part], clean.inputs[part])
        wrong = (flipped.targets[part] != clean.targets[part]).sum(1).tolist()
        assert wrong == [30 if part == "inner" else 0] * 3
    assert sorted(flipped.targets["inner"].unique().tolist()) == [0, 1, 2, 3, 4]


def test_noise_on_pixels_leaves_everything_else_as_it_is():
    noisy, clean = (sample_meta_batch(Digits(noise=noise), "test", range(3)) for noise in (0.3, 0.0))
    for part in PARTS:
        assert torch.equal(noisy.targets[part], clean.targets[part])
        assert float((noisy.inputs[part] - clean.inputs[part]).std()) == pytest.approx(0.3, rel=0.05)


def test_no_noise_draws_nothing():
    drawn = [stream(), stream()]
    for generator, family in zip(drawn, (Digits(), Digits(noise=0.1)), strict=True):
        family.sample(generator)
    assert "noise" not in vars(Digits()), "a run of an earlier version goes on"
    reference = stream()
    reference_images = Digits().images()[1]
    torch.randperm(10, generator=reference)
    chosen = torch.isin(reference_images, torch.randperm(10, generator=stream())[:5])
    torch.randperm(int(chosen.sum()), generator=reference)
    assert torch.equal(drawn[0].get_state(), reference.get_state())
    assert not torch.equal(drawn[1].get_state(), reference.get_state())


@pytest.mark.parametrize("make", [Friedman, Shapes, Sines, Outliers, Autoencoder])
def test_gradient_descent_learns_the_task(make):
    batch = sample_meta_batch(make(), "train", range(2))
    unroll = Unroll(InnerOptimizer(GradientDescent(0.1)), batch, 60)
    losses = unroll.window(unroll.start(), 60, differentiable=False).inner_losses
    assert bool((losses[-1] < 0.9 * losses[0]).all())
