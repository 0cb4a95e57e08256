"""The shipped task families: the contract, and what each promises of its own."""

import math

import pytest
import torch
from metatele.tasks import (
    Digits,
    FewShot,
    FewShotMnist,
    GaussianMixture,
    Mnist,
    PaperRegression,
    Rescaled,
    TeacherStudent,
)
from metatele.tasks.classification import images_of_split
from metatele.tasks.mlp import ACTIVATIONS

from metatele import GradientDescent, InnerOptimizer, TaskError, TaskFamily, TaskMixture, Unroll, sample_meta_batch
from metatele.task.stack import stacked_forward
from metatele.testing import check_task_family
from tests.conftest import MNIST, concrete_subclasses
from tests.task.image_files import write_mnist


@pytest.fixture
def make_family(tmp_path):
    """Any shipped family with its default arguments; those that need some get them here."""

    def make(cls: type[TaskFamily]) -> TaskFamily:
        if issubclass(cls, FewShot):
            pytest.importorskip("learn2learn", reason="few-shot tasks need learn2learn")
        if cls in (Mnist, FewShotMnist):
            write_mnist(tmp_path)
        if cls is Rescaled:
            return Rescaled(TeacherStudent())
        if cls is FewShotMnist:
            return FewShotMnist(str(tmp_path), ways=2, shots=1, queries=1)
        return Mnist(str(tmp_path), rows=20) if cls is Mnist else cls()

    return make


@pytest.mark.parametrize(
    "cls",
    sorted(set(concrete_subclasses(TaskFamily)) - set(concrete_subclasses(TaskMixture)), key=lambda c: c.__name__),
)
def test_every_family_obeys_the_contract(make_family, cls):
    check_task_family(make_family(cls))


@pytest.mark.parametrize(
    "family",
    [
        PaperRegression(3),
        TeacherStudent(depth=3, spread=10.0, parts=(0.5, 0.25, 0.25), batch_size=8),
        GaussianMixture(classes=2, blobs=1, hidden=[5, 4], noise=0.0),
        Digits(classes=10, rows=300, hidden=[], batch_size=20),
        Digits(classes=3, rows=60, held_out="images"),
    ],
    ids=lambda f: type(f).__name__,
)
def test_families_with_other_settings(family):
    check_task_family(family)


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST files in {MNIST}")
def test_the_real_mnist_files():
    family = Mnist(str(MNIST), "t10k", classes=10, rows=100)
    check_task_family(family)
    images, labels = family.images()
    assert images.shape == (10000, 784)
    assert labels.unique().tolist() == list(range(10))
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    assert 0.1 < float(images.mean()) < 0.2  # MNIST's mean grey is 0.13


def test_a_folder_without_files_is_named(tmp_path):
    with pytest.raises(TaskError, match=f"train-images-idx3-ubyte.*{tmp_path}"):
        sample_meta_batch(Mnist(str(tmp_path)), "train", [0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mnist("x", "valid"), "'train' or 't10k', got 'valid'"),
        (lambda: PaperRegression(0), "got 0"),
        (lambda: TeacherStudent(depth=0), "must be at least 1, got"),
        (lambda: TeacherStudent(spread=0.5), r"0\.5\)"),
        (lambda: GaussianMixture(classes=1), "classes=1"),
        (lambda: GaussianMixture(hidden=[0]), r"hidden=\[0\]"),
        (lambda: GaussianMixture(noise=-1.0), r"-1\.0"),
        (lambda: GaussianMixture(activation="rule"), "relu, leaky_relu.* got 'rule'"),
        (lambda: Digits(held_out="classes"), "tasks, images, got 'classes'"),
        (lambda: TeacherStudent(activation=None), "got None"),
        (lambda: TeacherStudent(activation="tanh", spread=2.0), "spread=2 would change.*'tanh'.*or spread=1"),
        (lambda: sample_meta_batch(Digits(classes=11), "train", [0]), "at most 10.*got 11"),
        (lambda: sample_meta_batch(Digits(rows=5000), "train", [0]), "rows=5000 is more than the"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(make, message):
    with pytest.raises(TaskError, match=message):
        make()


def test_the_paper_task_is_the_papers():
    batch = sample_meta_batch(PaperRegression(), "train", [0]).to(torch.float64)
    w1, w2 = (p[0] for p in batch.params.values())
    x, y = batch.inputs["inner"][0].T, batch.targets["inner"][0].T  # columns are data points
    for matrix in (w1, w2, x, y):
        assert matrix.shape == (20, 20)
        assert 0 <= float(matrix.min()) < 0.05
        assert 0.95 < float(matrix.max()) < 1
    expected = 0.5 * torch.linalg.matrix_norm(y - w2 @ torch.nn.functional.leaky_relu(w1 @ x, 0.1)) ** 2
    assert float(Unroll(InnerOptimizer(GradientDescent()), batch, 1).start().initial_loss) == pytest.approx(
        float(expected)
    )
    assert batch.shares_meta


@pytest.mark.parametrize("depth", [1, 3])
def test_bad_scaling_leaves_the_students_function_as_it_is(depth):
    families = [TeacherStudent(depth=depth, spread=spread) for spread in (1.0, 30.0)]
    batches = [sample_meta_batch(f, "train", range(3)).to(torch.float64) for f in families]
    x = batches[0].inputs["inner"]
    outputs = [stacked_forward(b.network, b.params, x) for b in batches]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    ratio = batches[1].params["0.weight"].norm(dim=2) / batches[0].params["0.weight"].norm(dim=2)
    assert float(ratio.min()) >= 1 / 30.001
    assert float(ratio.max()) <= 30.001
    assert float(ratio.log().std()) > 1  # uniform in [-log 30, log 30] has 1.96
    last = list(batches[0].params)[-2]
    assert not torch.allclose(batches[0].params[last], batches[1].params[last])


def test_a_student_can_reach_the_teacher():
    # The targets are a scaled network of the student's shape, so some student has loss 0.
    family = TeacherStudent(inputs=4, hidden=6, outputs=2, rows=16)
    stream = torch.Generator().manual_seed(0)
    x, y = family.sample(stream)
    from metatele.tasks.regression import draw_he

    teacher = family.network()
    draw_he(teacher, torch.Generator().manual_seed(0))
    scale = teacher(x).std()
    teacher[2].weight.data /= scale
    teacher[2].bias.data /= scale
    assert float(family.loss(teacher(x), y).detach()) < 1e-12
    assert float(y.std()) == pytest.approx(1, rel=1e-4)


def test_gaussian_mixtures_without_noise_are_their_centres():
    x, labels = GaussianMixture(classes=3, blobs=2, noise=0.0, rows=60).sample(torch.Generator().manual_seed(0))
    assert len(x.unique(dim=0)) == 6
    for centre in x.unique(dim=0):
        assert len(labels[(x == centre).all(1)].unique()) == 1, "all rows of a blob are of one class"


def test_image_tasks_renumber_random_classes_and_take_no_image_twice():
    family = Digits(classes=3, rows=150)
    images, labels = family.images()
    number = {tuple(image.tolist()): int(label) for image, label in zip(images, labels, strict=True)}
    chosen = set()
    for seed in range(4):
        x, y = family.sample(torch.Generator().manual_seed(seed))
        assert sorted(y.unique().tolist()) == [0, 1, 2]
        assert len(x.unique(dim=0)) == len(x) == 150
        names = [{number[tuple(image.tolist())] for image in x[y == k]} for k in range(3)]
        assert all(len(n) == 1 for n in names), "one digit for each class"
        chosen.add(tuple(n.pop() for n in names))
    assert len(chosen) == 4


@pytest.mark.parametrize("family", [GaussianMixture(), Digits(), TeacherStudent()], ids=lambda f: type(f).__name__)
def test_gradient_descent_learns_the_task(family):
    batch = sample_meta_batch(family, "train", range(2))
    unroll = Unroll(InnerOptimizer(GradientDescent(0.1)), batch, 60)
    losses = unroll.window(unroll.start(), 60, differentiable=False).inner_losses
    assert bool((losses[-1] < 0.7 * losses[0]).all())
    if not isinstance(family, TeacherStudent):
        assert float(losses[0].mean()) == pytest.approx(math.log(family.classes), rel=0.3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    for family in (GaussianMixture(activation=activation), Digits(activation=activation)):
        kind = type(ACTIVATIONS[activation]())
        assert [type(m) for m in family.network()] == [torch.nn.Linear, kind, torch.nn.Linear]
    teacher = TeacherStudent(depth=2, activation=activation)
    assert sum(isinstance(m, kind) for m in teacher.network()) == 2
    batch = sample_meta_batch(teacher, "train", range(2))
    unroll = Unroll(InnerOptimizer(GradientDescent(0.05)), batch, 30)
    losses = unroll.window(unroll.start(), 30, differentiable=False).inner_losses
    assert bool((losses[-1] < 0.9 * losses[0]).all())


@pytest.mark.parametrize("activation", ["leaky_relu", "identity"])
def test_bad_scaling_of_other_homogeneous_activations(activation):
    families = [TeacherStudent(spread=spread, activation=activation) for spread in (1.0, 30.0)]
    batches = [sample_meta_batch(f, "train", range(2)).to(torch.float64) for f in families]
    outputs = [stacked_forward(b.network, b.params, batches[0].inputs["inner"]) for b in batches]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)


DRAWS = [
    (PaperRegression(4), 8.508505, 13.61493),
    (TeacherStudent(spread=10.0), -23.95455, 190.1129),
    (GaussianMixture(), 154.3949, 33.35345),
    (Digits(rows=50), 515.25, 143.8634),
]


def test_the_default_draws_are_those_of_all_versions():
    # Sums of inputs and weights as drawn at version 0.1: a change would make old results another experiment's.
    for family, inputs, weights in DRAWS:
        batch = sample_meta_batch(family, "test", [3])
        assert float(batch.inputs["inner"].double().sum()) == pytest.approx(inputs, rel=1e-6)
        assert float(sum(p.double().abs().sum() for p in batch.params.values())) == pytest.approx(weights, rel=1e-6)


def test_the_accuracy_is_the_fraction_of_largest_logits():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    family = GaussianMixture(classes=3)
    assert float(family.accuracy(logits, torch.tensor([1, 0, 0, 1]))) == 0.5
    assert float(family.accuracy(logits, torch.tensor([1, 0, 2, 0]))) == 1.0
    assert not TeacherStudent().measures_accuracy
    assert Digits().measures_accuracy


def rows_of(x):
    return {tuple(row.tolist()) for row in x}


@pytest.mark.parametrize("folder", [None, MNIST], ids=["digits", "mnist"])
def test_held_out_images_are_in_one_split_only(folder):
    if folder is not None and not folder.is_dir():
        pytest.skip(f"no MNIST files in {folder}")
    settings = {"classes": 10, "rows": 340, "held_out": "images"}
    family = Digits(**settings) if folder is None else Mnist(str(folder), "t10k", **settings)
    seen = {}
    for split in ("train", "validation", "test"):
        batch = sample_meta_batch(family, split, range(4))
        seen[split] = rows_of(torch.cat([batch.inputs[part].flatten(0, 1) for part in ("inner", "meta", "test")]))
        assert len(seen[split]) > 340, "tasks of a split differ"
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_the_shares_of_held_out_images():
    family = Digits(held_out="images")
    labels = family.images()[1]
    masks = [images_of_split(labels, split) for split in ("train", "validation", "test")]
    assert torch.equal(sum(m.int() for m in masks), torch.ones(len(labels), dtype=torch.int32))
    for label in range(10):
        shares = [float(m[labels == label].double().mean()) for m in masks]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.005)
    with pytest.raises(TaskError, match="rows=1000 is more than the"):
        sample_meta_batch(Digits(rows=1000, held_out="images"), "test", [0])
    whole = Digits()
    assert all(whole.for_split(split) is whole for split in ("train", "validation", "test"))
