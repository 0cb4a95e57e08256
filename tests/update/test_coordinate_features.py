"""What networks see of every coordinate, and the laws of the updates that see it."""

import math
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metatele import CeloUpdate, SmallMLPUpdate, Update
from metatele.parts.point import Point
from metatele.recurrent import RecurrentCore
from metatele.recurrent.vmapped import VmappedCells
from metatele.support.seeding import seeded
from metatele.task.params import Params, flatten, map_params
from metatele.update.accumulators import SPEED, Accumulators
from metatele.update.coordinate_features import FLOOR, TIMES, coordinate_features, time_features
from tests.update.paths import ODD, SHAPES, assert_finite, assert_steps, path, random_params, scaled

UPDATES: dict[str, Callable[[], Update]] = {
    "small MLP": lambda: SmallMLPUpdate(6, step=0.05, exponent=0.2),
    "Celo": lambda: CeloUpdate(6, units=5, lr=0.05, exponent=0.2),
}
SCALES = st.floats(-4, 4).map(lambda x: 10.0**x)
every_update = pytest.mark.parametrize("case", UPDATES)


def strong(case: str) -> Update:
    """An update whose networks have much to say."""
    update = UPDATES[case]().double()
    with seeded(1):
        for name, p in update.named_parameters():
            torch.nn.init.normal_(p, std=0.05 if "spans" in name else 0.4)
    return update


def features_of(shape: tuple[int, ...], steps: int = 2) -> dict[str, Tensor]:
    """A tensor's features by name after some gradients, repeated for all coordinates, [B, rows, columns] each."""
    accumulators = Accumulators().double()
    params = random_params([shape], 0)
    state = accumulators.start(params)
    for k in range(steps):
        seen, state = accumulators.take(Point(params, random_params([shape], 10 + k), torch.empty(0), k), state)
    x, entries = coordinate_features(seen["0"]), seen["0"].p.shape
    spans = [str(i) for i in range(3)]
    whole = ["p", "g", *("m" + i for i in spans), "v", "1/v", *(f + i for f in ("m/v", "g/f", "m/f") for i in spans)]
    found = dict(zip(whole, x.whole.unbind(1), strict=True))
    for side, part in (("row", x.rows), ("column", x.columns)):
        names = [f + side + i for f in ("", "1/") for i in spans]
        found |= dict(zip(names, (f.expand(entries) for f in part.unbind(1)), strict=True))
    return {name: f.detach() for name, f in found.items()}


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2), (5,), ()])
def test_they_are_39_with_the_time(shape):
    own = features_of(shape)
    time = time_features(Point({}, {}, torch.empty(0), 7), torch.zeros((), dtype=torch.float64))
    assert time.tolist() == pytest.approx([math.tanh(7 / x) for x in TIMES])
    assert len(own) + len(time) == 39 == SmallMLPUpdate().network.first.in_features
    assert CeloUpdate().network.first.in_features == len(own) == 28


def test_factors_by_hand():
    """After one gradient [[1, 2], [3, 4]]: mean square 7.5, of rows 2.5 and 12.5, of columns 5 and 10."""
    accumulators, g = Accumulators().double(), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    params = {"w": torch.zeros_like(g)}
    seen, _ = accumulators.take(Point(params, {"w": g}, torch.empty(0), 0), accumulators.start(params))
    x = coordinate_features(seen["w"])
    rows, columns = torch.tensor([[2.5], [12.5]]).double() / 7.5, torch.tensor([[5.0, 10.0]]).double() / 7.5
    for k in range(3):
        torch.testing.assert_close(x.rows[0, k], rows)
        torch.testing.assert_close(x.columns[0, k], columns)
        torch.testing.assert_close(x.rows[0, 3 + k], (rows + FLOOR).rsqrt())
        # Adafactor's sqrt(mean(r) / (r c)), up to what all coordinates have in common.
        expected = g[0] * (7.5 / (torch.tensor([[2.5], [12.5]]) * torch.tensor([[5.0, 10.0]]))).sqrt()
        found = x.whole[0, 10 + k]
        torch.testing.assert_close(found / found[0, 0], expected / expected[0, 0], rtol=1e-4, atol=0)


def test_rows_and_columns_are_means_of_the_second_moments():
    """So Adafactor's factors, which are means of means, follow from them."""
    found = features_of((3, 4), steps=3)
    torch.testing.assert_close(found["row2"], found["v"].mean(2, keepdim=True).expand(-1, -1, 4))
    torch.testing.assert_close(found["column2"], found["v"].mean(1, keepdim=True).expand(-1, 3, -1))
    torch.testing.assert_close(found["m/v1"], found["m1"] * found["1/v"])


def test_vectors_have_second_moments_in_the_place_of_factors():
    found = features_of((5,))
    torch.testing.assert_close(found["row2"], found["v"])
    torch.testing.assert_close(found["column2"], found["v"])
    torch.testing.assert_close(found["g/f2"], found["g"] * found["1/v"])


def test_means_and_their_learned_spans():
    accumulators, params = Accumulators().double(), random_params([(2, 3)], 0)
    accumulators.spans.data[0] = math.log(2) / SPEED  # takes about twice as much of a gradient
    rate, square_rate = (r.detach() for r in accumulators.rates())
    torch.testing.assert_close(square_rate, torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64))
    assert float(rate[0]) == pytest.approx(2 / 11)
    state = accumulators.start(params)
    gradients = [random_params([(2, 3)], 10 + k)["0"] for k in range(2)]
    for k, g in enumerate(gradients):
        seen, state = accumulators.take(Point(params, {"0": g}, torch.empty(0), k), state)
    for k, beta in enumerate(1 - rate):
        expected = (1 - beta) * (beta * gradients[0] + gradients[1])
        torch.testing.assert_close(state.covectors[k]["0"].detach(), expected)
        torch.testing.assert_close(seen["0"].means[:, k].detach(), expected)
    for k, beta in enumerate(1 - square_rate):
        expected = (1 - beta) * (beta * gradients[0].square() + gradients[1].square())
        torch.testing.assert_close(state.squares[k]["0"].detach(), expected)
    accumulators.initialise()
    torch.testing.assert_close(accumulators.rates()[0].detach(), square_rate)


@every_update
@given(scales=st.lists(SCALES, min_size=4, max_size=4))
def test_the_scale_of_each_tensors_gradient_changes_nothing(case, scales):
    update, start = strong(case), random_params(SHAPES, 0)
    assert_steps(path(update, start, lambda g: scaled(g, scales)), path(update, start))


@every_update
@given(data=st.data())
def test_rows_and_columns_of_each_tensor_may_come_in_any_order(case, data):
    orders = [[torch.tensor(data.draw(st.permutations(range(n)))) for n in shape] for shape in SHAPES]

    def permuted(params: Params) -> Params:
        out = {}
        for (name, p), order in zip(params.items(), orders, strict=True):
            for dim, o in enumerate(order):
                p = p.index_select(dim + 1, o)
            out[name] = p
        return out

    update, start = strong(case), random_params(SHAPES, 0)
    found = path(update, permuted(start), permuted)
    assert_steps(found, [permuted(step) for step in path(update, start)])


@every_update
def test_tasks_of_a_stack_know_nothing_of_each_other(case):
    update, start = strong(case), random_params(SHAPES, 0)

    def louder(params: Params) -> Params:
        return map_params(lambda g: torch.cat([g[:1], -1e3 * g[1:]]), params)

    found, expected = path(update, start, louder), path(update, start)
    first, second = (
        [[map_params(lambda f, k=k: f[k : k + 1], s) for s in x] for k in range(2)] for x in (found, expected)
    )
    assert_steps(first[0], second[0])
    assert float((flatten(first[1][0]) - flatten(second[1][0])).abs().max()) > 1e-4


@every_update
@pytest.mark.parametrize("shapes", ODD)
@pytest.mark.parametrize("zero", ["nothing", "gradients", "parameters", "both"])
def test_networks_of_any_kind(case, shapes, zero):
    assert_finite(strong(case), ODD[shapes], zero)


@every_update
@pytest.mark.parametrize("size", [1e-30, 1e15])
def test_steps_of_tasks_that_vanish_or_diverge_are_finite(case, size):
    assert_finite(strong(case), SHAPES, "nothing", size)


class Played(nn.Module):
    """An update whose first step depends on given weights only."""

    def __init__(self, update: Update, point: Point) -> None:
        super().__init__()
        self.update, self.point = update, point

    def forward(self) -> Tensor:
        with ExitStack() as stack:
            for core in (m for m in self.modules() if isinstance(m, RecurrentCore)):
                stack.enter_context(core.played_by(VmappedCells(core)))
            return flatten(self.update.propose(self.point, self.update.start(self.point.params))[0])


@every_update
def test_weights_of_many_particles_at_once(case):
    """As evolution strategies have them: one batched call gives what each particle gives by itself."""
    gradient = random_params(SHAPES, 1)
    played = Played(strong(case), Point(random_params(SHAPES, 0), gradient, torch.empty(0), 0, horizon=5))
    weights = {name: torch.stack([p.detach(), 0.9 * p.detach()]) for name, p in played.named_parameters()}

    def step(own: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(played, own, ())

    found = torch.func.vmap(step)(weights)
    for k in range(2):
        torch.testing.assert_close(found[k], step({name: w[k] for name, w in weights.items()}))
    assert float((found[0] - found[1]).abs().max()) > 1e-4
