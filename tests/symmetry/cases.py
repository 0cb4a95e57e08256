"""An example of every group, with shapes and values drawn by hypothesis."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import MetaBatch, sample_meta_batch, symmetries_of
from metatele.experiments.functions import Booth, Quadratic, Rosenbrock
from metatele.symmetry import (
    BijectiveGL,
    GeneralLinear,
    GroupAction,
    Kind,
    LogitTranslation,
    Permutations,
    PlaneRotation,
    PositiveScaling,
    PseudoInverseGL,
    QuadraticOrthogonal,
    SignFlips,
    Symmetry,
    discrete_symmetries_of,
)
from metatele.task.params import Params
from metatele.task.stack import stacked_forward
from metatele.testing import ExampleFamily
from metatele.testing.laws import Loss

ACTIVATIONS: dict[str, nn.Module | None] = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.1),
    "none": None,
    "identity": nn.Identity(),
    "tanh": nn.Tanh(),
    "softsign": nn.Softsign(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
}
LIVELY = sorted(ACTIVATIONS.keys() - {"relu"})  # a second ReLU could leave a tiny network dead, without a gradient


class SoftmaxFamily(ExampleFamily):
    """Classification: cross-entropy with the softmax of the targets."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target.softmax(-1))


@dataclasses.dataclass(frozen=True)
class Case:
    """A group and what it acts on; rtol is the relative change of the loss that counts as none."""

    symmetry: Any
    params: Params
    inputs: Tensor
    loss: Loss
    rtol: float = 1e-10


def loss_of(batch: MetaBatch) -> Loss:
    x, y = batch.rows("inner")

    def loss(params: Mapping[str, Tensor]) -> Tensor:
        return batch.losses(stacked_forward(batch.network, params, x), y)

    return loss


def draw_batch(family: ExampleFamily, tasks: int, seed: int) -> MetaBatch:
    batch = sample_meta_batch(family, "train", range(tasks), seed).to(torch.float64)
    if batch.inputs["inner"].shape[1] == batch.inputs["inner"].shape[2]:
        # Square data are for the groups that invert it, which holds the loss to the condition number.
        x = torch.linalg.qr(batch.inputs["inner"])[0] * 2
        batch = dataclasses.replace(batch, inputs=dict.fromkeys(batch.inputs, x))
    return batch


@st.composite
def families(
    draw: Any,
    first: Sequence[str],
    others: Sequence[str] = LIVELY,
    rows: Callable[[list[int]], tuple[int, int]] = lambda widths: (8, 8),
    equal: bool = False,
    family: type[ExampleFamily] = ExampleFamily,
    biases: Sequence[bool] = (False, True),
) -> ExampleFamily:
    """A network of 2 to 4 linear layers; `rows` gives the least and the largest number of data rows
    for its widths, `equal` makes all but the last width equal."""
    linear = draw(st.integers(2, 4))
    if equal:
        widths = [draw(st.integers(2, 4))] * linear + [draw(st.integers(2, 3))]
    else:
        widths = draw(st.lists(st.integers(2, 5), min_size=linear + 1, max_size=linear + 1))
    more = draw(st.lists(st.sampled_from(others), min_size=linear - 2, max_size=linear - 2))
    names = [draw(st.sampled_from(first)), *more]
    return family(
        widths, [ACTIVATIONS[n] for n in names], draw(st.sampled_from(biases)), draw(st.integers(*rows(widths)))
    )


@st.composite
def cases(draw: Any, find: Callable[[nn.Module], list[Any]], group: type, networks: Any, rtol: float = 1e-10) -> Case:
    """One of the groups that `find` finds in a network of a family drawn from `networks`."""
    batch = draw_batch(draw(networks), draw(st.integers(2, 3)), draw(st.integers(0, 1000)))
    found = [s for s in find(batch.network) if type(s) is group]
    return Case(draw(st.sampled_from(found)), batch.params, batch.inputs["inner"], loss_of(batch), rtol)


@st.composite
def function_cases(draw: Any, make: Callable[[Any, torch.Generator], nn.Module]) -> Case:
    """The group of a test function, at random points."""
    stream = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    network, tasks = make(draw, stream), draw(st.integers(2, 3))
    params = {"w": torch.randn(tasks, *network.w.shape, generator=stream, dtype=torch.float64)}
    inputs = torch.zeros(tasks, 1, 0, dtype=torch.float64)
    return Case(network.symmetries()[0], params, inputs, lambda p: stacked_forward(network, p, inputs).squeeze(1))


def _plane(draw: Any, stream: torch.Generator) -> nn.Module:
    return draw(st.sampled_from([Booth, Rosenbrock]))([0.0, 0.0])


def _quadratic(draw: Any, stream: torch.Generator) -> nn.Module:
    n = draw(st.integers(2, 5))
    root = torch.randn(n, n, generator=stream, dtype=torch.float64)
    return Quadratic(root @ root.mT + torch.eye(n), torch.zeros(n))


def _of(kind: Kind) -> Callable[[nn.Module], list[Any]]:
    return lambda network: symmetries_of(network, kind)


def _up_to_h(widths: list[int]) -> tuple[int, int]:
    return 1, min(widths[1:-1])


ANY = sorted(ACTIVATIONS)
KNOWN: dict[Kind, Any] = {  # networks on whose data every group of the kind is exact
    "auto": families(["relu", "leaky", "none", "identity"]),
    "scaling": families(["relu", "leaky", "none"]),
    "general_linear": families(["none", "identity"]),
    "data_dependent": families(["leaky"], ["leaky"], lambda widths: (widths[0], widths[0]), equal=True),
    "pseudo_inverse": families(sorted({*LIVELY} - {"none", "identity"}), LIVELY, _up_to_h),
    "softmax": families(ANY, family=SoftmaxFamily),
}
EXAMPLES: dict[type[GroupAction], Any] = {
    PositiveScaling: cases(_of("scaling"), PositiveScaling, KNOWN["scaling"]),
    GeneralLinear: cases(_of("general_linear"), GeneralLinear, KNOWN["general_linear"]),
    BijectiveGL: cases(_of("data_dependent"), BijectiveGL, KNOWN["data_dependent"], 1e-7),
    PseudoInverseGL: cases(_of("pseudo_inverse"), PseudoInverseGL, KNOWN["pseudo_inverse"], 1e-7),
    LogitTranslation: cases(_of("softmax"), LogitTranslation, KNOWN["softmax"]),
    QuadraticOrthogonal: function_cases(_quadratic),
    PlaneRotation: function_cases(_plane),
    SignFlips: cases(discrete_symmetries_of, SignFlips, families(["none", "tanh", "softsign"])),
    Permutations: cases(discrete_symmetries_of, Permutations, families(ANY)),
}


def networks_of(kind: Kind) -> Any:
    """Networks on whose data every group of a kind is exact; of a kind that is not known here, those of layers at which
    it is found."""
    return KNOWN[kind] if kind in KNOWN else _where_found(Symmetry.kinds[kind])


def cases_of(group: type[GroupAction]) -> Any:
    """Examples of a group. One that is found in networks needs none of its own."""
    if group in EXAMPLES:
        return EXAMPLES[group]
    assert group in group.kinds.values(), f"no example of {group.__name__}: add one to EXAMPLES in {__name__}"
    return cases(lambda network: list(group.find(network)), group, _where_found(group))


class Example(ExampleFamily):
    """The example that a group gives of a network that has it."""

    def __init__(self, group: type[GroupAction]) -> None:
        network = group.example()
        assert network is not None, f"no network here has {group.__name__}: let its `example` give one"
        first = next(m for m in network.modules() if isinstance(m, nn.Linear))
        super().__init__((first.in_features, network(torch.zeros(1, first.in_features)).shape[1]), (), rows=2)
        self.group = group

    def network(self) -> nn.Module:
        return self.group.example()


def _where_found(group: type[GroupAction]) -> Any:
    """Networks of layers at which a group is found, with little data."""

    def found(name: str, bias: bool) -> bool:
        layers = [nn.Linear(3, 3, bias), ACTIVATIONS[name], nn.Linear(3, 2, bias)]
        return bool(list(group.find(nn.Sequential(*filter(None, layers)))))

    biases = [bias for bias in (True, False) if any(found(name, bias) for name in ANY)]
    names = [name for name in ANY if all(found(name, bias) for bias in biases)]
    if not names or not biases or group.example() is not None:
        return st.just(Example(group))
    return families(names, rows=_up_to_h, biases=biases)
