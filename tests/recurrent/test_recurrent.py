"""The LSTM core in a window, few rows at once and many in blocks, against its plain cells."""

import copy
import gc
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

from metatele import CoordinateUpdate, InnerOptimizer, NeuronTeleport, Unroll, sample_meta_batch
from metatele.recurrent import RecurrentCore, blocks, rows
from metatele.task.params import flatten
from metatele.testing import ExampleFamily

HIDDEN, INPUTS, OUTPUTS, BLOCK = 5, 6, 2, 8
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative to the largest number of a tensor
USUAL = blocks.CACHE, blocks.FEWEST
KINDS = (torch.Tensor, BackwardCFunction)
ROWS = {"few": 5, "many": 3 * BLOCK + 7}


@contextmanager
def small_blocks(seen=None):
    """Blocks of BLOCK rows; `seen` gets the name of what plays each step, and its number of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CACHE", 0)
        patch.setattr(blocks, "FEWEST", BLOCK)
        for name, step in (("few", rows.RowsStep), ("many", blocks.BlocksStep)):

            def spy(*args, name=name, apply=step.apply):
                results = apply(*args)
                if seen is not None:
                    seen.append((name, len(results[0])))
                return results

            patch.setattr(step, "apply", spy)
        yield


@pytest.fixture(autouse=True)
def seen():
    """Makes blocks small, and lists what has played each step, and its number of rows."""
    steps = []
    with small_blocks(steps):
        yield steps


def make(layers=1, rows=ROWS["many"], dtype=torch.float64, inputs=INPUTS, hidden=HIDDEN, outputs=OUTPUTS, steps=3):
    """A core, the features of some steps, and a memory that is not that of a start; all want gradients."""
    stream = torch.Generator().manual_seed(layers)
    core = RecurrentCore(inputs, hidden, layers, outputs).to(dtype)
    core.head.bias.data.fill_(0.3)
    features = [3 * torch.randn(rows, inputs, generator=stream, dtype=dtype) for _ in range(steps)]
    memory = tuple(torch.randn(rows, hidden, generator=stream, dtype=dtype) for _ in range(2 * layers))
    for t in (*features, *memory):
        t.requires_grad_()
    return core, features, memory


def play(core, features, memory, window=True, announced=None):
    """All results of some steps, chained through the memory: outputs and next memory of each."""
    results = []
    with core.window(announced or len(features)) if window else nullcontext():
        for x in features:
            out, memory = core(x, memory)
            results.append((out, *memory))
    return results


def pull(results, wanted, **options):
    """Gradients of what a loss on all these results would be; zeros where it does not depend on something wanted."""
    stream = torch.Generator().manual_seed(5)
    loss = sum((r * torch.randn(r.shape, generator=stream, dtype=r.dtype)).sum() for r in results)
    return torch.autograd.grad(loss, list(wanted), allow_unused=True, materialize_grads=True, **options)


def flat(results):
    return [r for step in results for r in step]


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        largest = float(e.detach().abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=0, atol=CLOSE[e.dtype] * largest + torch.finfo(e.dtype).tiny)


def check(core, features, memory, use=None, announced=None):
    """Results and gradients in a window are those of the plain cells."""
    fast, plain = play(core, features, memory, announced=announced), play(core, features, memory, window=False)
    assert_same(flat(fast), flat(plain))
    wanted = [t for t in (*features, *memory, *core.parameters()) if t.requires_grad]
    use = [r.requires_grad for r in flat(plain)] if use is None else use
    chosen = [[r for r, u in zip(flat(results), use, strict=True) if u] for results in (fast, plain)]
    assert_same(*(pull(results, wanted) for results in chosen))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 2 * BLOCK, ROWS["many"]])
def test_a_window_gives_what_the_cells_give(seen, layers, count, dtype):
    core, features, memory = make(layers, count, dtype)
    before = [t.detach().clone() for t in (*features, *memory, *core.parameters())]
    check(core, features, memory)
    assert seen == [(seen[0][0], count)] * 3
    assert count == BLOCK or seen[0][0] == ("many" if count > BLOCK else "few")
    assert all(torch.equal(t, b) for t, b in zip((*features, *memory, *core.parameters()), before, strict=True))


@given(data=st.data())
def test_all_sizes_and_all_choices_of_results_and_of_what_wants_a_gradient(data):
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
    plain = flat(play(core, features, memory, window=False))
    use = data.draw(bits(len(plain)).filter(any), "used results")
    use = [u and r.requires_grad for u, r in zip(use, plain, strict=True)]
    if any(use):
        check(core, features, memory, use, announced=data.draw(st.integers(1, 5), "announced"))


def bits(count):
    return st.lists(st.booleans(), min_size=count, max_size=count)


@pytest.mark.parametrize("steps", range(1, 4))
@pytest.mark.parametrize("size", ROWS)
def test_more_and_fewer_steps_than_announced(size, steps):
    check(*make(2, ROWS[size], steps=5), announced=steps)
    check(*make(2, ROWS[size], steps=steps), announced=7)


@pytest.mark.parametrize("used", ["first", "last", "middle", "outputs", "last memory", "first memory", "one c"])
@pytest.mark.parametrize("size", ROWS)
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


@pytest.mark.parametrize("size", ROWS)
def test_a_memory_without_a_gradient(size):
    core, features, _ = make(2, ROWS[size])
    check(core, features, core.start(ROWS[size], features[0]))
    check(core, [f.detach() for f in features], core.start(ROWS[size], features[0]))


@pytest.mark.parametrize("frozen", ["all", "cells", "head", "first cell", "biases"])
@pytest.mark.parametrize("size", ROWS)
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
        assert not any(
            r.requires_grad for r in flat(play(core, [f.detach() for f in features], core.start(*like(memory))))
        )


def like(memory):
    return len(memory[0]), memory[0]


@pytest.mark.parametrize("size", ROWS)
def test_two_calls_in_one_step(size):
    core, features, memory = make(2, ROWS[size], steps=4)

    def twice(window):
        with core.window(2) if window else nullcontext():
            one, after = core(features[0], memory)
            other, aside = core(features[1], memory)  # from the same memory
            third, _ = core(features[2], after)
            fourth, _ = core(features[3], tuple(a + b for a, b in zip(after, aside, strict=True)))
        return [one, other, third, fourth]

    fast, plain = twice(True), twice(False)
    assert_same(fast, plain)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


@pytest.mark.parametrize("counts", [(5, 3), (3, 5), (5, 1), (1, 5), (5, 20), (20, 5), (20, 30)], ids=str)
def test_calls_with_different_numbers_of_rows(seen, counts):
    core, features, memory = make(2, max(counts), steps=2)

    def both(window):
        with core.window(2) if window else nullcontext():
            return [core(x[:n], tuple(m[:n] for m in memory))[0] for x, n in zip(features, counts, strict=True)]

    fast, plain = both(True), both(False)
    assert [n for _, n in seen] == list(counts)
    assert_same(fast, plain)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


@pytest.mark.parametrize("size", ROWS)
def test_views_of_any_layout(size):
    core, features, memory = make(2, ROWS[size])
    with torch.no_grad():
        laid = [[t.t().contiguous().t(), t[:1].expand_as(t), torch.cat([t, t], 1)[:, : t.shape[1]]] for t in features]
    for x in zip(*laid, strict=True):
        check(core, [t.requires_grad_() for t in x], tuple(m.detach().t().contiguous().t() for m in memory))


@pytest.mark.parametrize("size", ROWS)
def test_a_second_backward_gives_the_same(size):
    core, features, memory = make(2, ROWS[size])
    results, wanted = flat(play(core, features, memory)), [*features, *memory, *core.parameters()]
    once = pull(results, wanted, retain_graph=True)
    again = pull(results, wanted)
    assert_same(again, once)
    with pytest.raises(RuntimeError):
        pull(results, wanted)


@pytest.mark.parametrize("first", ["inputs only", "another step", "all"])
@pytest.mark.parametrize("size", ROWS)
def test_a_second_backward_does_not_depend_on_the_first(size, first):
    core, features, memory = make(2, ROWS[size])
    wanted = [*features, *memory, *core.parameters()]
    plain = play(core, features, memory, window=False)
    results = play(core, features, memory)
    if first == "inputs only":
        assert_same(pull(flat(results), features, retain_graph=True), pull(flat(plain), features, retain_graph=True))
    else:
        pull(results[2] if first == "another step" else flat(results), wanted, retain_graph=True)
    assert_same(pull(results[0], wanted), pull(plain[0], wanted))


@pytest.mark.parametrize("size", ROWS)
def test_the_gradient_of_the_inputs_alone(size):
    core, features, memory = make(2, ROWS[size])
    fast, plain = play(core, features, memory), play(core, features, memory, window=False)
    wanted = (features[1], memory[1])
    assert_same(pull(flat(fast), wanted), pull(flat(plain), wanted))


@pytest.mark.parametrize("size", ROWS)
def test_two_windows_are_apart(size):
    core, features, memory = make(2, ROWS[size])
    wanted = [*features, *memory, *core.parameters()]
    first, second = play(core, features, memory), play(core, features[:1], memory)
    plain = play(core, features, memory, window=False)
    assert_same(pull(second[0], wanted), pull(plain[0], wanted, retain_graph=True))
    assert_same(pull(flat(first), wanted), pull(flat(plain), wanted, retain_graph=True))
    # Chained through a memory that has not been detached.
    third = play(core, features[:1], memory)
    chained = [*third, *play(core, features[1:], third[0][1:])]
    assert_same(pull(flat(chained), wanted), pull(flat(plain), wanted))


@pytest.mark.parametrize("size", ROWS)
def test_accumulated_gradients_are_clipped_as_those_of_the_cells(size):
    core, features, memory = make(2, ROWS[size])
    found = []
    for window in (True, False):
        core.zero_grad()
        for _ in range(2):
            sum(r.square().sum() for r in flat(play(core, features, memory, window))).backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), 0.1)
        found.append([p.grad for p in core.parameters()])
    assert_same(*found)


@pytest.mark.parametrize("change", ["in place", "adam"])  # torch itself does not notice what a fused Adam changes
@pytest.mark.parametrize("size", ROWS)
def test_weights_changed_between_a_window_and_its_backward_are_an_error(size, change):
    core, features, memory = make(2, ROWS[size])
    results = flat(play(core, features, memory))
    pull(results, core.parameters(), retain_graph=True)
    if change == "in place":
        with torch.no_grad():
            core.cells[1].weight_hh.add_(1)
    else:
        core.head.bias.grad = torch.ones_like(core.head.bias)
        torch.optim.Adam(core.parameters()).step()
    with pytest.raises(RuntimeError):
        pull(results, core.parameters())


@pytest.mark.parametrize("frozen", [False, True], ids=["learned", "frozen"])
@pytest.mark.parametrize("size", ROWS)
def test_changed_weights_never_pass_a_wrong_gradient_to_the_inputs(size, frozen):
    core, features, memory = make(2, ROWS[size])
    core.requires_grad_(not frozen)
    expected = pull(flat(play(core, features, memory, window=False)), (*features, *memory))
    results = flat(play(core, features, memory))
    with torch.no_grad():
        for p in core.parameters():
            p.mul_(1.5)
    try:
        found = pull(results, (*features, *memory))
    except RuntimeError:
        return
    assert_same(found, expected)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("loss", [torch.sum, lambda r: r.square().sum()], ids=["linear", "square"])
@pytest.mark.parametrize("wanted", ["weights", "inputs"])
@pytest.mark.parametrize("size", ROWS)
def test_a_second_derivative_is_an_error(size, wanted, loss, beside):
    core, features, memory = make(2, ROWS[size])
    of = list(core.parameters()) if wanted == "weights" else [*features, *memory]
    out = play(core, features, memory)[-1][0]

    def twice():
        gradients = torch.autograd.grad(loss(out), of, create_graph=True)
        others = of if beside else [0.0] * len(of)
        torch.autograd.grad(sum((g + t).square().sum() for g, t in zip(gradients, others, strict=True)), of)

    with pytest.raises(RuntimeError):
        twice()


@pytest.mark.parametrize("without", [0, 1, 2])
@pytest.mark.parametrize("size", ROWS)
def test_a_step_without_a_graph_inside_a_window(size, without):
    core, features, memory = make(2, ROWS[size])

    def some(window):
        results, now = [], memory
        with core.window(3) if window else nullcontext():
            for k, x in enumerate(features):
                with torch.set_grad_enabled(k != without):
                    out, now = core(x, now)
                assert out.requires_grad == (k != without)
                results.append((out, *now))
        return [r for r in flat(results) if r.requires_grad]

    fast, plain = some(True), some(False)
    assert_same(fast, plain)
    wanted = [*features, *memory, *core.parameters()]
    assert_same(pull(fast, wanted), pull(plain, wanted))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("size", ROWS)
def test_a_window_without_a_graph(size, mode):
    core, features, memory = make(2, ROWS[size])
    plain = flat(play(core, features, memory, window=False))
    with mode():
        fast = flat(play(core, features, memory))
    assert not any(r.requires_grad for r in fast)
    with torch.no_grad():
        assert_same([r.clone() for r in fast], [p.detach() for p in plain])


@pytest.mark.parametrize("size", ROWS)
def test_the_plain_cells_are_back_after_a_window(seen, size):
    core, features, memory = make(1, ROWS[size])
    play(core, features, memory)
    assert len(seen) == 3
    with pytest.raises(RuntimeError), core.window(3):
        core(features[0][:, 1:], memory)  # a column too few
    seen.clear()
    out, _ = core(features[0], memory)
    assert not seen
    (once,) = torch.autograd.grad(out.square().sum(), features[0], create_graph=True)
    torch.autograd.grad(once.sum(), features[0])  # only the plain cells can do this
    with torch.no_grad():
        core.head.bias.add_(1)
    check(core, features, memory)  # and the next window has the new weights


@pytest.mark.parametrize("size", ROWS)
def test_a_core_is_copied_after_a_window(size):
    core, features, memory = make(2, ROWS[size])
    play(core, features, memory)
    other = copy.deepcopy(core)
    assert set(other.state_dict()) == set(core.state_dict())
    assert_same(flat(play(other, features, memory)), flat(play(core, features, memory)))
    check(other, features, memory)


@pytest.mark.parametrize("backward", [False, True], ids=["forward only", "backward"])
@pytest.mark.parametrize("size", ROWS)
def test_a_window_is_freed_when_it_is_let_go(size, backward):
    core, features, memory = make(2, ROWS[size])
    wanted = [*features, *memory, *core.parameters()]

    def window():
        results = flat(play(core, features, memory))
        if backward:
            pull(results, wanted)

    def held():
        return [o for o in gc.get_objects() if issubclass(type(o), KINDS) or "metatele.recurrent." in str(type(o))]

    window()
    gc.collect()
    gc.disable()
    try:
        before = {id(o) for o in held()}
        window()
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
def test_the_gates_of_all_rows_are_never_held_together(seen, graph):
    count = 16 * BLOCK
    core, features, memory = make(2, count, inputs=3, steps=1)
    with torch.set_grad_enabled(graph), Largest() as largest:
        results = play(core, features, memory)
        if graph:
            torch.autograd.grad([r.sum() for r in flat(results)], [*features, *memory, *core.parameters()])
    assert seen == [("many", count)]
    assert count * HIDDEN <= largest.elements < count * 4 * HIDDEN


def test_many_rows_go_in_blocks_unless_the_weights_are_large(seen, monkeypatch):
    for count, largest in ((BLOCK - 1, 2**18), (BLOCK + 1, 2**18), (BLOCK + 1, 0)):
        monkeypatch.setattr(blocks, "LARGEST", largest)
        check(*make(1, count, steps=1))
    assert [name for name, _ in seen] == ["few", "many", "few"]


def test_blocks_of_the_usual_size(monkeypatch, seen):
    monkeypatch.setattr(blocks, "CACHE", USUAL[0])
    monkeypatch.setattr(blocks, "FEWEST", USUAL[1])
    check(*make(1, 20_000, steps=1))
    assert seen == [("many", 20_000)]


def test_blocks_do_not_depend_on_the_other_rows_and_repeat_bit_for_bit():
    core, features, memory = make(2)
    few = 2 * BLOCK - 3
    once, again = (flat(play(core, features, memory)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    inputs = [*features, *memory]
    everything = [*inputs, *core.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(pull(once, everything), pull(again, everything), strict=True))
    part = flat(play(core, [x[:few] for x in features], tuple(m[:few] for m in memory)))
    assert_same(part, [r[:few] for r in flat(play(core, features, memory))])


@pytest.mark.parametrize("size", ROWS)
def test_two_threads_give_what_one_gives(size):
    core, features, memory = make(2, ROWS[size])
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results = flat(play(core, features, memory))
            found.append([*results, *pull(results, [*features, *memory, *core.parameters()])])
    finally:
        torch.set_num_threads(threads)
    assert_same(*found)


def test_another_device():
    core, features, memory = make(2)
    core = core.to("meta")
    features, memory = (tuple(t.to("meta").detach().requires_grad_() for t in group) for group in (features, memory))
    results = flat(play(core, features, memory))
    assert [r.shape[1] for r in results] == [OUTPUTS, *[HIDDEN] * 4] * 3
    wanted = [*features, *memory, *core.parameters()]
    gradients = torch.autograd.grad([r.sum() for r in results], wanted)
    assert [g.shape for g in gradients] == [w.shape for w in wanted]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_far_into_a_trajectory(seen, layers, monkeypatch):
    batch = sample_meta_batch(ExampleFamily(), "train", range(8)).to(torch.float64)
    inner = InnerOptimizer(CoordinateUpdate(layers=layers), NeuronTeleport())
    inner.bind(batch.network, batch.params)
    inner.double().initialise(1)
    unroll = Unroll(inner, batch, 43)
    far = unroll.window(unroll.start(), 40, differentiable=False).end
    assert seen.count(("many", flatten(batch.params).numel())) == 40
    before = copy.deepcopy(far.state.update.memory)
    fast = [unroll.window(far, 3, differentiable) for differentiable in (True, False)]
    seen.clear()
    monkeypatch.setattr(RecurrentCore, "window", lambda self, steps: nullcontext())
    plain = unroll.window(far, 3)
    assert not seen
    for window in fast:
        end, expected = window.end, plain.end
        assert_same([window.meta_losses.detach()], [plain.meta_losses.detach()])
        assert_same(end.params.values(), expected.params.values())
        assert_same(end.state.update.memory, expected.state.update.memory)
    weights = list(inner.parameters())
    gradients = [torch.autograd.grad(w.meta_losses.log().mean(), weights) for w in (fast[0], plain)]
    assert_same(*gradients)
    assert all(torch.equal(a, b) for a, b in zip(far.state.update.memory, before, strict=True))
    assert bool(fast[1].meta_losses.isfinite().all())
