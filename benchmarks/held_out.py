"""Task families that no recipe was meta-trained or selected on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metatele.tasks import (
    Autoencoder,
    Digits,
    Friedman,
    GaussianMixture,
    Mnist,
    Outliers,
    PaperRegression,
    Shapes,
    Sines,
    TeacherStudent,
)

from benchmarks.parity import Parity
from benchmarks.real_tables import RealTable
from metatele import TaskFamily

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class HeldOut:
    """One family of the list.

    Attributes:
        name: of its folder and its line.
        kind, arguments: the family.
        why: it is in the list.
    """

    name: str
    kind: type[TaskFamily]
    arguments: dict[str, Any]
    why: str

    def family(self) -> TaskFamily:
        """The family itself."""
        return self.kind(**self.arguments)

    @property
    def spec(self) -> dict[str, Any]:
        """It as a configuration names it."""
        module = "metatele.tasks" if self.kind.__module__.startswith("metatele.") else self.kind.__module__
        return {"class_path": f"{module}.{self.kind.__name__}", "init_args": self.arguments}


DIGITS: dict[str, Any] = {"rows": 400}
NOISY: dict[str, Any] = {"rows": 800, "noise": 0.3, "flipped": 0.1}
MNIST: dict[str, Any] = {"folder": str(ROOT.parent / "shared" / "data" / "mnist"), "subset": "t10k"}
FIRST = (
    HeldOut("digits 2x32", Digits, DIGITS | {"hidden": [32, 32]}, "real images, one layer more than usual"),
    HeldOut("digits 3x32", Digits, DIGITS | {"hidden": [32, 32, 32]}, "the same, deeper"),
    HeldOut("digits 128", Digits, DIGITS | {"hidden": [128], "classes": 10}, "the same, wider, all ten classes"),
    HeldOut("noisy 16", Digits, NOISY | {"hidden": [32, 32], "batch_size": 16}, "noisy gradients and wrong labels"),
    HeldOut("noisy 32", Digits, NOISY | {"hidden": [32, 32, 32], "batch_size": 32}, "less noise, deeper"),
    HeldOut(
        "mnist",
        Mnist,
        MNIST | {"rows": 1000, "hidden": [32], "batch_size": 16},
        "more parameters than rows, most of them on pixels that are always black",
    ),
    HeldOut("friedman", Friedman, {"function": 1, "rows": 800}, "regression with features that do not matter"),
    HeldOut("shapes", Shapes, {"noise": 0.1}, "two inputs, a curved border: small networks, hard at first"),
    HeldOut("sines", Sines, {"noise": 0.0}, "the usual toy of meta-learning; without noise, which would be the floor"),
    HeldOut("teacher 2x64", TeacherStudent, {"hidden": 64, "depth": 2, "rows": 128}, "plain optimisation, wide"),
    HeldOut("teacher 6x16", TeacherStudent, {"hidden": 16, "depth": 6, "rows": 128}, "plain optimisation, deep"),
    HeldOut("outliers", Outliers, {"rows": 800, "delta": 0.1}, "another loss, whose gradient is bounded; heavy tails"),
    HeldOut("autoencoder", Autoencoder, {}, "64 outputs, a narrow layer"),
    HeldOut("paper", PaperRegression, {}, "the paper's own task: no biases, a sum as loss, huge at first"),
)
# Chosen before the first recipe was meta-trained: none of these takes part in it, or in the selection of a recipe. Rows
# and noise are such that no best baseline is at zero or flat at step 100 (16 tasks): the second half of the steps still
# lowers its loss, least on Friedman's function (by 14%), MNIST, digits 128 and the autoencoder (by 20%). Changed
# because flat: MNIST with 200 inner rows, Friedman with 100, digits 128 with five classes (all baselines overfit
# alike), sines with noise 0.1 (its variance was reached), shapes with noise 0.2, and outliers with delta 1 (their pull
# was the floor). On noisy digits, MNIST and digits 128 six of the seven baselines end within 12% of each other: little
# can be won there.

SCORED: dict[str, Any] = {"parts": [0.5, 0.25, 0.25]}
SECOND = (
    HeldOut("wine", RealTable, {"name": "wine", "hidden": [16, 16], "activation": "tanh"}, "a real table, few rows"),
    HeldOut("breast cancer", RealTable, {"name": "breast_cancer", "hidden": [32], "batch_size": 32}, "with more rows"),
    HeldOut("diabetes", RealTable, {"name": "diabetes", "hidden": [16, 16], "activation": "gelu"}, "noisy targets"),
    HeldOut("friedman 2", Friedman, {"function": 2, "rows": 800, "activation": "gelu"}, "inputs of uneven effect"),
    HeldOut(
        "friedman 3", Friedman, {"function": 3, "rows": 800, "activation": "tanh", "batch_size": 32}, "a steep one"
    ),
    HeldOut(
        "sines 2d",
        Sines,
        {"features": 2, "sines": 3, "hidden": [32, 32], "noise": 0.0, "rows": 400, "activation": "gelu"},
        "a wavy surface",
    ),
    HeldOut(
        "moons 16",
        Shapes,
        {"shape": "moons", "noise": 0.15, "hidden": [24], "batch_size": 16, "activation": "tanh"},
        "a curved border in minibatches",
    ),
    HeldOut(
        "linear 5x12",
        TeacherStudent,
        {"inputs": 40, "hidden": 12, "outputs": 16, "depth": 5, "rows": 200, "activation": "identity"},
        "a deep linear network",
    ),
    HeldOut(
        "deep 6x8 tanh", TeacherStudent, {"hidden": 8, "depth": 6, "rows": 256, "activation": "tanh"}, "deep and narrow"
    ),
    HeldOut(
        "badly scaled",
        TeacherStudent,
        {"hidden": 100, "depth": 2, "rows": 200, "spread": 10, "activation": "leaky_relu"},
        "neurons of all sizes",
    ),
    HeldOut(
        "noisy teacher",
        TeacherStudent,
        {"hidden": 80, "noise": 1.0, "rows": 400, "batch_size": 16} | SCORED,
        "noise as large as what is to be learned",
    ),
    HeldOut(
        "mnist tanh",
        Mnist,
        MNIST | {"rows": 1500, "hidden": [48, 48], "batch_size": 32, "activation": "tanh"},
        "784 inputs, two layers",
    ),
    HeldOut(
        "autoencoder 20",
        Autoencoder,
        {"hidden": [48], "bottleneck": 4, "batch_size": 20, "activation": "gelu"},
        "64 outputs, a very narrow layer, minibatches",
    ),
    HeldOut(
        "outliers deep",
        Outliers,
        {"depth": 5, "hidden": 24, "rows": 800, "activation": "silu"},
        "heavy tails, five layers",
    ),
)
# Written down before the second recipe was meta-trained, which was made in view of how the first one did on the first
# list. Nothing was tried on these before, so that some may be at a floor; the table says which. Of MNIST the full batch
# was to be used, but its baselines would have taken an hour: changed before there was a result.

THIRD = (
    HeldOut("iris", RealTable, {"name": "iris", "hidden": [12]}, "a real table, very few rows"),
    HeldOut("wine 8", RealTable, {"name": "wine", "hidden": [24], "batch_size": 8}, "small minibatches"),
    HeldOut(
        "breast cancer deep",
        RealTable,
        {"name": "breast_cancer", "hidden": [12] * 4, "activation": "tanh"},
        "a real table, a deep and narrow network",
    ),
    HeldOut(
        "diabetes 16", RealTable, {"name": "diabetes", "hidden": [32], "batch_size": 16}, "noisy targets in minibatches"
    ),
    HeldOut("parity", Parity, {"hidden": [24, 24], "batch_size": 32}, "no line helps at first; wrong labels"),
    HeldOut("parity 3", Parity, {"bits": 3, "rows": 800, "activation": "gelu"}, "harder, in the full batch"),
    HeldOut(
        "waves",
        Sines,
        {"features": 2, "sines": 4, "hidden": [24, 24, 24], "noise": 0.3, "rows": 600, "activation": "tanh"}
        | {"batch_size": 32},
        "a noisy wavy surface in minibatches",
    ),
    HeldOut(
        "digits 4x24",
        Digits,
        {"rows": 600, "hidden": [24] * 4, "activation": "gelu", "batch_size": 64},
        "real images, deep and narrow",
    ),
    HeldOut(
        "mnist 2x32",
        Mnist,
        MNIST | {"rows": 800, "hidden": [32, 32], "batch_size": 32, "activation": "gelu"},
        "784 inputs, most of them black, few rows",
    ),
    HeldOut("autoencoder 2x24", Autoencoder, {"hidden": [40, 24], "bottleneck": 6, "activation": "tanh"}, "six layers"),
    HeldOut(
        "bottleneck",
        TeacherStudent,
        {"inputs": 20, "hidden": 4, "outputs": 16, "noise": 0.5, "rows": 400, "activation": "identity"}
        | {"batch_size": 16}
        | SCORED,
        "a noisy linear network with a narrow layer",
    ),
    HeldOut("deep 8x10", TeacherStudent, {"hidden": 10, "depth": 8, "rows": 200, "activation": "silu"}, "very deep"),
    HeldOut(
        "scaled linear",
        TeacherStudent,
        {"inputs": 24, "hidden": 60, "outputs": 12, "depth": 2, "rows": 200, "spread": 10, "activation": "identity"}
        | {"batch_size": 32},
        "neurons of all sizes, minibatches",
    ),
    HeldOut(
        "overlapping blobs",
        GaussianMixture,
        {"dimensions": 30, "classes": 3, "blobs": 3, "noise": 2.0, "rows": 300, "hidden": [40, 40]},
        "classes that no network can tell apart, more weights than rows",
    ),
)
# Written down before the third recipe was meta-trained, which was made in view of the other two lists. Nothing was
# tried on these before. Since then weights of recipes that are not shipped were looked at on all three lists, and the
# mixture of configs/general.yaml was changed in view of that: what it makes needs a fourth.

LISTS = {"first": FIRST, "second": SECOND, "third": THIRD}
