"""The LSTM core without a graph: rows in blocks against the plain cells."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport, Unroll, sample_meta_batch
from metatele.params import flatten
from metatele.recurrent import FEWEST, RecurrentCore
from metatele.testing import ExampleFamily

HIDDEN, INPUTS, OUTPUTS = 5, 6, 2
CLOSE = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


@pytest.fixture
def blocks(monkeypatch):
    """Makes blocks as small as they get, and lists how many rows went through them."""
    seen = []
    in_blocks = RecurrentCore._in_blocks

    def spy(self, features, memory, block):
        assert block == FEWEST * torch.get_num_threads()
        seen.append(len(features))
        return in_blocks(self, features, memory, block)

    monkeypatch.setattr("metatele.recurrent.CACHE", 0)
    monkeypatch.setattr(RecurrentCore, "_in_blocks", spy)
    return seen


def make(layers=1, rows=3 * FEWEST + 7, dtype=torch.float64, inputs=INPUTS):
    """A core, features, and a memory that is not that of a start."""
    stream = torch.Generator().manual_seed(layers)
    core = RecurrentCore(inputs, HIDDEN, layers, OUTPUTS).to(dtype)
    core.head.bias.data.fill_(0.3)
    features = 3 * torch.randn(rows, inputs, generator=stream, dtype=dtype)
    memory = tuple(torch.randn(rows, HIDDEN, generator=stream, dtype=dtype) for _ in range(2 * layers))
    return core, features, memory


def assert_same(actual, expected, dtype=torch.float64):
    for a, b in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        assert not a.requires_grad
        torch.testing.assert_close(a, b.detach(), **CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("rows", [FEWEST + 1, 2 * FEWEST, 3 * FEWEST + 7])
def test_blocks_give_what_the_cells_give(blocks, layers, rows, dtype):
    core, features, memory = make(layers, rows, dtype)
    plain = core(features, memory)
    plain_next = core(features + 1, plain[1])
    assert not blocks
    kept = [t.clone() for t in (features, *memory)]
    with torch.no_grad():
        fast = core(features, memory)
        assert_same(fast, plain, dtype)
        assert_same(core(features + 1, fast[1]), plain_next, dtype)  # from a memory that blocks have made
    assert blocks == [rows, rows]
    assert all(torch.equal(t, k) for t, k in zip((features, *memory), kept, strict=True))
    out, _ = core(features + 1, fast[1])  # the cells go on from it, too
    torch.testing.assert_close(out, plain_next[0], **CLOSE[dtype])


def test_blocks_of_the_usual_size():
    core, features, memory = make(rows=60_000)
    plain = core(features, memory)
    with torch.no_grad():
        assert_same(core(features, memory), plain)


def test_blocks_do_not_depend_on_the_other_rows_and_repeat_bit_for_bit(blocks):
    core, features, memory = make(layers=2)
    few = 2 * FEWEST - 9
    with torch.no_grad():
        once, again = core(features, memory), core(features, memory)
        part = core(features[:few], tuple(m[:few] for m in memory))
    assert len(blocks) == 3
    assert torch.equal(once[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(once[1], again[1], strict=True))
    assert_same(part, (once[0][:few], [m[:few] for m in once[1]]))


@pytest.mark.parametrize("case", ["graph", "few rows", "wide inputs", "another device"])
def test_everything_else_takes_the_plain_cells(blocks, case):
    rows, inputs = FEWEST if case == "few rows" else 2 * FEWEST, 50 if case == "wide inputs" else INPUTS
    core, features, memory = make(rows=rows, inputs=inputs)
    if case == "another device":
        core, features, memory = core.to("meta"), features.to("meta"), tuple(m.to("meta") for m in memory)
    with torch.set_grad_enabled(case == "graph"):
        out, after = core(features, memory)
    assert not blocks
    assert out.shape == (len(features), OUTPUTS)
    assert [m.shape for m in after] == [m.shape for m in memory]
    assert out.requires_grad == (case == "graph")


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [t.numel() for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *found])
        return out


def test_the_gates_of_all_rows_are_never_held_together(blocks):
    core, features, memory = make(layers=2, rows=8 * FEWEST)
    with torch.no_grad(), Largest() as largest:
        core(features, memory)
    assert blocks
    assert largest.elements == memory[0].numel()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_far_into_a_trajectory(blocks, layers):
    batch = sample_meta_batch(ExampleFamily(), "train", range(64)).to(torch.float64)
    inner = InnerOptimizer(CoordinateUpdate(layers=layers), NeuronTeleport())
    inner.bind(batch.network, batch.params)
    inner.double().initialise(1)
    unroll = Unroll(inner, batch, 43)
    far = unroll.window(unroll.start(), 40, differentiable=False).end
    assert blocks.count(flatten(batch.params).numel()) == 40
    before = copy.deepcopy(far.state.update.memory)
    blocks.clear()
    plain = unroll.window(far, 3)
    assert not blocks
    fast = unroll.window(far, 3, differentiable=False)
    assert blocks
    torch.testing.assert_close(flatten(fast.end.params), flatten(plain.end.params), rtol=1e-9, atol=1e-12)
    for a, b in zip(fast.end.state.update.memory, plain.end.state.update.memory, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(far.state.update.memory, before, strict=True))
    assert bool(fast.meta_losses.isfinite().all())
