"""Cores in a window of `higher`, large ones with taps and small ones in blocks, against torch's own cells."""

import copy
import gc
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport, Unroll, sample_meta_batch
from metatele.recurrent import RecurrentCore, cells
from metatele.task.params import flatten
from metatele.testing import ExampleFamily
from metatele.unroll.higher import cores
from metatele.unroll.higher.cores import Taps, cores_played

HIDDEN, INPUTS, OUTPUTS, BLOCK = 5, 6, 2, 8
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative to the largest number of a tensor
USUAL = cores.CACHE, cores.WORTH_A_BLOCK
HELD = (Tensor, BackwardCFunction)
ROWS = {"large": 5, "small": 3 * BLOCK + 7}  # of a core that is held to be large, and of one that is small


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    """Makes blocks small, and lists what has played each call, and its number of rows."""
    calls = []
    monkeypatch.setattr(cores, "CACHE", 0)
    monkeypatch.setattr(cores, "WORTH_A_BLOCK", BLOCK)
    for name, kind in (("large", cores.TappingCells), ("small", cores.BlockedCells)):

        def spy(self, features, memory, name=name, step=kind.step):
            calls.append((name, len(features)))
            return step(self, features, memory)

        monkeypatch.setattr(kind, "step", spy)
    return calls


@pytest.fixture(params=ROWS)
def size(request, monkeypatch):
    """Of cores, one after the other."""
    monkeypatch.setattr(cells, "SMALL_CELL", 2**18 if request.param == "small" else 0)
    return request.param


class Played(NamedTuple):
    """The results of some calls, and the taps that the weights' gradients are made from."""

    results: list[Tensor]
    taps: Taps | None = None


def window(core):
    return cores_played(core, tapped=True)


def make(layers=1, rows=ROWS["small"], dtype=torch.float64, inputs=INPUTS, hidden=HIDDEN, outputs=OUTPUTS, steps=3):
    """A core, the features of some steps, and a memory that is not that of a start; all want gradients."""
    stream = torch.Generator().manual_seed(layers)
    core = RecurrentCore(inputs, hidden, layers, outputs).to(dtype)
    core.head.bias.data.fill_(0.3)
    features = [3 * torch.randn(rows, inputs, generator=stream, dtype=dtype) for _ in range(steps)]
    memory = tuple(torch.randn(rows, hidden, generator=stream, dtype=dtype) for _ in range(2 * layers))
    for t in (*features, *memory):
        t.requires_grad_()
    return core, features, memory


def play(core, features, memory, fast=True):
    """All results of some steps, chained through the memory: outputs and next memory of each."""
    results = []
    with window(core) if fast else nullcontext() as taps:
        for x in features:
            out, memory = core(x, memory)
            results += [out, *memory]
    return Played(results, taps)


def pull(played, wanted, use=None, **options):
    """Gradients of what a loss on these results would be; zeros where it does not depend on something wanted."""
    stream, wanted = torch.Generator().manual_seed(5), list(wanted)
    chosen = played.results if use is None else [r for r, u in zip(played.results, use, strict=True) if u]
    loss = sum((r * torch.randn(r.shape, generator=stream, dtype=r.dtype)).sum() for r in chosen)
    leaves = [] if played.taps is None else played.taps.leaves()
    found = torch.autograd.grad(loss, [*wanted, *leaves], allow_unused=True, **options)
    tapped = {} if played.taps is None else {id(p): g for p, g in played.taps.gradients(found[len(wanted) :])}
    pairs = zip(wanted, found, strict=False)
    return [tapped.get(id(w), torch.zeros_like(w) if g is None else g) for w, g in pairs]


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        largest = float(e.detach().abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=0, atol=CLOSE[e.dtype] * largest + torch.finfo(e.dtype).tiny)


def check(core, features, memory, use=None):
    """Results and gradients in a window are those of the plain cells."""
    fast, plain = play(core, features, memory), play(core, features, memory, fast=False)
    assert_same(fast.results, plain.results)
    wanted = [t for t in (*features, *memory, *core.parameters()) if t.requires_grad]
    use = [r.requires_grad for r in plain.results] if use is None else use
    assert_same(*(pull(played, wanted, use) for played in (fast, plain)))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 2 * BLOCK, ROWS["small"]])
def test_a_window_gives_what_the_cells_give(size, seen, layers, count, dtype):
    core, features, memory = make(layers, count, dtype)
    before = [t.detach().clone() for t in (*features, *memory, *core.parameters())]
    check(core, features, memory)
    assert seen == [(size, count)] * 3
    assert all(torch.equal(t, b) for t, b in zip((*features, *memory, *core.parameters()), before, strict=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_all_sizes_and_all_choices_of_results_and_of_what_wants_a_gradient(size, data):
    layers, steps = data.draw(st.integers(1, 3), "layers"), data.draw(st.integers(1, 4), "steps")
    core, features, memory = make(
        layers,
        data.draw(st.integers(0, 4 * BLOCK), "rows"),
        inputs=data.draw(st.integers(1, 6), "inputs"),
        hidden=data.draw(st.integers(1, 5), "hidden"),
        outputs=data.draw(st.integers(1, 3), "outputs"),
        steps=steps,
    )
    everything = (*features, *memory, *core.parameters())
    for t, wants in zip(everything, data.draw(bits(len(everything)), "wants a gradient"), strict=True):
        t.requires_grad_(wants)
    plain = play(core, features, memory, fast=False).results
    use = data.draw(bits(len(plain)).filter(any), "used results")
    use = [u and r.requires_grad for u, r in zip(use, plain, strict=True)]
    if any(use):
        check(core, features, memory, use)


def bits(count):
    return st.lists(st.booleans(), min_size=count, max_size=count)


@pytest.mark.parametrize("used", ["first", "last", "middle", "outputs", "last memory", "first memory", "one c"])
def test_some_results_only(size, used):
    core, features, memory = make(2, ROWS[size])
    names = [(step, name) for step in range(3) for name in ("out", "h1", "c1", "h2", "c2")]
    use = {
        "first": lambda step, name: step == 0,
        "last": lambda step, name: step == 2,
        "middle": lambda step, name: step == 1,
        "outputs": lambda step, name: name == "out",
        "last memory": lambda step, name: step == 2 and name != "out",
        "first memory": lambda step, name: step == 0 and name != "out",
        "one c": lambda step, name: step == 1 and name == "c1",
    }[used]
    check(core, features, memory, [use(*n) for n in names])


def test_a_memory_without_a_gradient(size):
    core, features, _ = make(2, ROWS[size])
    check(core, features, core.start(ROWS[size], features[0]))
    check(core, [f.detach() for f in features], core.start(ROWS[size], features[0]))


@pytest.mark.parametrize("frozen", ["all", "cells", "head", "first cell", "biases"])
def test_frozen_weights(size, frozen):
    core, features, memory = make(2, ROWS[size])
    for name, p in core.named_parameters():
        p.requires_grad_(
            not {
                "all": True,
                "cells": name.startswith("cells"),
                "head": name.startswith("head"),
                "first cell": name.startswith("cells.0"),
                "biases": "bias" in name,
            }[frozen]
        )
    check(core, features, memory)
    if frozen == "all":
        played = play(core, [f.detach() for f in features], core.start(*like(memory)))
        assert not any(r.requires_grad for r in played.results)


def like(memory):
    return len(memory[0]), memory[0]


def test_two_calls_in_one_step(size):
    core, features, memory = make(2, ROWS[size], steps=4)

    def twice(fast):
        with window(core) if fast else nullcontext() as taps:
            one, after = core(features[0], memory)
            other, aside = core(features[1], memory)  # from the same memory
            third, _ = core(features[2], after)
            fourth, _ = core(features[3], tuple(a + b for a, b in zip(after, aside, strict=True)))
        return Played([one, other, third, fourth], taps)

    fast, plain = twice(True), twice(False)
    assert_same(fast.results, plain.results)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


@pytest.mark.parametrize("counts", [(5, 3), (3, 5), (5, 1), (1, 5), (5, 20), (20, 5), (20, 30)], ids=str)
def test_calls_with_different_numbers_of_rows(size, seen, counts):
    core, features, memory = make(2, max(counts), steps=2)

    def both(fast):
        with window(core) if fast else nullcontext() as taps:
            results = [core(x[:n], tuple(m[:n] for m in memory))[0] for x, n in zip(features, counts, strict=True)]
        return Played(results, taps)

    fast, plain = both(True), both(False)
    assert [n for _, n in seen] == list(counts)
    assert_same(fast.results, plain.results)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


def test_views_of_any_layout(size):
    core, features, memory = make(2, ROWS[size])
    with torch.no_grad():
        laid = [[t.t().contiguous().t(), t[:1].expand_as(t), torch.cat([t, t], 1)[:, : t.shape[1]]] for t in features]
    for x in zip(*laid, strict=True):
        check(core, [t.requires_grad_() for t in x], tuple(m.detach().t().contiguous().t() for m in memory))


def test_a_second_backward_gives_the_same(size):
    core, features, memory = make(2, ROWS[size])
    played, wanted = play(core, features, memory), [*features, *memory, *core.parameters()]
    once = pull(played, wanted, retain_graph=True)
    again = pull(played, wanted)
    assert_same(again, once)
    with pytest.raises(RuntimeError):
        pull(played, wanted)


def test_the_gradient_of_the_inputs_alone(size):
    core, features, memory = make(2, ROWS[size])
    fast, plain = play(core, features, memory), play(core, features, memory, fast=False)
    wanted = (features[1], memory[1])
    assert_same(pull(fast, wanted), pull(plain, wanted))


def test_two_windows_are_apart(size):
    core, features, memory = make(2, ROWS[size])
    wanted = [*features, *memory, *core.parameters()]
    first, second = play(core, features, memory), play(core, features[:1], memory)
    plain = play(core, features, memory, fast=False)
    only = Played(plain.results[:5])
    assert_same(pull(second, wanted), pull(only, wanted, retain_graph=True))
    assert_same(pull(first, wanted), pull(plain, wanted))


@pytest.mark.parametrize("frozen", [False, True], ids=["learned", "frozen"])
def test_changed_weights_never_pass_a_wrong_gradient_to_the_inputs(size, frozen):
    core, features, memory = make(2, ROWS[size])
    core.requires_grad_(not frozen)
    expected = pull(play(core, features, memory, fast=False), (*features, *memory))
    played = play(core, features, memory)
    with torch.no_grad():
        for p in core.parameters():
            p.mul_(1.5)
    try:
        found = pull(played, (*features, *memory))
    except RuntimeError:
        return
    assert_same(found, expected)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("loss", [torch.sum, lambda r: r.square().sum()], ids=["linear", "square"])
def test_a_second_derivative_is_an_error(size, loss, beside):
    core, features, memory = make(2, ROWS[size])
    of, out = [*features, *memory], play(core, features, memory).results[-5]

    def twice():
        gradients = torch.autograd.grad(loss(out), of, create_graph=True)
        others = of if beside else [0.0] * len(of)
        torch.autograd.grad(sum((g + t).square().sum() for g, t in zip(gradients, others, strict=True)), of)

    with pytest.raises(RuntimeError):
        twice()


@pytest.mark.parametrize("without", [0, 1, 2])
def test_a_step_without_a_graph_inside_a_window(size, without):
    core, features, memory = make(2, ROWS[size])

    def some(fast):
        results, now = [], memory
        with window(core) if fast else nullcontext() as taps:
            for k, x in enumerate(features):
                with torch.set_grad_enabled(k != without):
                    out, now = core(x, now)
                assert out.requires_grad == (k != without)
                results += [out, *now]
        return Played([r for r in results if r.requires_grad], taps)

    fast, plain = some(True), some(False)
    assert_same(fast.results, plain.results)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_window_without_a_graph(size, mode):
    core, features, memory = make(2, ROWS[size])
    plain = play(core, features, memory, fast=False).results
    with mode():
        fast = play(core, features, memory).results
    assert not any(r.requires_grad for r in fast)
    with torch.no_grad():
        assert_same([r.clone() for r in fast], [p.detach() for p in plain])


def test_the_plain_cells_are_back_after_a_window(size, seen):
    core, features, memory = make(1, ROWS[size])
    play(core, features, memory)
    assert len(seen) == 3
    with pytest.raises(RuntimeError), window(core):
        core(features[0][:, 1:], memory)  # a column too few
    seen.clear()
    out, _ = core(features[0], memory)
    assert not seen
    (once,) = torch.autograd.grad(out.square().sum(), features[0], create_graph=True)
    torch.autograd.grad(once.sum(), features[0])  # only the plain cells can do this
    with torch.no_grad():
        core.head.bias.add_(1)
    check(core, features, memory)  # and the next window has the new weights


def test_a_core_is_copied_after_a_window(size):
    core, features, memory = make(2, ROWS[size])
    play(core, features, memory)
    other = copy.deepcopy(core)
    assert set(other.state_dict()) == set(core.state_dict())
    assert_same(play(other, features, memory).results, play(core, features, memory).results)
    check(other, features, memory)


@pytest.mark.parametrize("backward", [False, True], ids=["forward only", "backward"])
def test_a_window_is_freed_when_it_is_let_go(size, backward):
    core, features, memory = make(2, ROWS[size])
    wanted = [*features, *memory, *core.parameters()]

    def once():
        played = play(core, features, memory)
        if backward:
            pull(played, wanted)

    def held():
        return [o for o in gc.get_objects() if issubclass(type(o), HELD) or "metatele.recurrent." in str(type(o))]

    once()
    gc.collect()
    gc.disable()
    try:
        before = {id(o) for o in held()}
        once()
        left = [type(o).__name__ for o in held() if id(o) not in before]
    finally:
        gc.enable()
    assert not left


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [t.numel() for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *found])
        return out


@pytest.mark.parametrize("graph", [False, True], ids=["forward", "forward and backward"])
def test_the_gates_of_all_rows_are_never_made_together(graph):
    count = 16 * BLOCK
    core, features, memory = make(2, count, inputs=3, steps=1)
    with torch.set_grad_enabled(graph), Largest() as largest:
        results = play(core, features, memory).results
        if graph:
            torch.autograd.grad([r.sum() for r in results], [*features, *memory, *core.parameters()])
    assert count * HIDDEN <= largest.elements < count * 4 * HIDDEN


def test_what_plays_a_core(seen, monkeypatch):
    """Small cores go in blocks, by torch's own cells if they have few rows; large ones have taps where weights are
    trained and their gradients are to be made."""
    for count, small, tapped in ((BLOCK + 1, 2**18, True), (BLOCK + 1, 0, True), (BLOCK + 1, 0, False)):
        monkeypatch.setattr(cells, "SMALL_CELL", small)
        core, features, memory = make(1, count, steps=1)
        with cores_played(core, tapped) as taps:
            core(features[0], memory)
        assert bool(taps.leaves()) == (tapped and not small)
    assert [name for name, _ in seen] == ["small", "large"]
    core.requires_grad_(False)
    with cores_played(core, tapped=True) as taps:
        core(features[0], memory)
    assert not taps.leaves()


def test_blocks_of_the_usual_size(monkeypatch, seen):
    monkeypatch.setattr(cores, "CACHE", USUAL[0])
    monkeypatch.setattr(cores, "WORTH_A_BLOCK", USUAL[1])
    check(*make(1, 60_000, steps=1, dtype=torch.float32))
    assert seen == [("small", 60_000)]


def test_blocks_do_not_depend_on_the_other_rows_and_repeat_bit_for_bit():
    core, features, memory = make(2)
    few = 2 * BLOCK - 3
    once, again = (play(core, features, memory) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once.results, again.results, strict=True))
    everything = [*features, *memory, *core.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(pull(once, everything), pull(again, everything), strict=True))
    part = play(core, [x[:few] for x in features], tuple(m[:few] for m in memory)).results
    assert_same(part, [r[:few] for r in play(core, features, memory).results])


def test_two_threads_give_what_one_gives(size):
    core, features, memory = make(2, ROWS[size])
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            played = play(core, features, memory)
            found.append([*played.results, *pull(played, [*features, *memory, *core.parameters()])])
    finally:
        torch.set_num_threads(threads)
    assert_same(*found)


def test_another_device(size):
    core, features, memory = make(2)
    core = core.to("meta")
    features, memory = (tuple(t.to("meta").detach().requires_grad_() for t in group) for group in (features, memory))
    played = play(core, features, memory)
    results = played.results
    assert [r.shape[1] for r in results] == [OUTPUTS, *[HIDDEN] * 4] * 3
    wanted = [*features, *memory, *core.parameters()]
    leaves = played.taps.leaves()
    gradients = torch.autograd.grad([r.sum() for r in results], [*wanted, *leaves], allow_unused=bool(leaves))
    found = [p for p, _ in played.taps.gradients(gradients[len(wanted) :])]
    assert (found != []) == (size == "large")


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_far_into_a_trajectory(size, seen, layers, monkeypatch):
    batch = sample_meta_batch(ExampleFamily(), "train", range(8)).to(torch.float64)
    inner = InnerOptimizer(CoordinateUpdate(layers=layers), NeuronTeleport())
    inner.bind(batch.network, batch.params)
    inner.double().initialise(1)
    unroll = Unroll(inner, batch, 43)
    far = unroll.window(unroll.start(), 40, differentiable=False).end
    assert seen.count(("small", flatten(batch.params).numel())) == (40 if size == "small" else 0)
    before = copy.deepcopy(far.state.update.memory)
    fast, found = [unroll.window(far, 3, differentiable) for differentiable in (True, False)], []
    unroll.gradient(far, 3, lambda window: window.meta_losses.log().mean())
    assert seen
    found = [p.grad for p in inner.parameters()]
    seen.clear()
    monkeypatch.setattr("metatele.unroll.higher.unroll.cores_played", lambda inner: nullcontext())
    plain = unroll.window(far, 3)
    assert not seen
    for played in fast:
        end, expected = played.end, plain.end
        assert_same([played.meta_losses.detach()], [plain.meta_losses.detach()])
        assert_same(end.params.values(), expected.params.values())
        assert_same(end.state.update.memory, expected.state.update.memory)
    weights = list(inner.parameters())
    gradients = [torch.autograd.grad(w.meta_losses.log().mean(), weights) for w in (fast[0], plain)]
    assert_same(*gradients)
    assert_same(found, gradients[1])
    assert all(torch.equal(a, b) for a, b in zip(far.state.update.memory, before, strict=True))
    assert bool(fast[1].meta_losses.isfinite().all())
