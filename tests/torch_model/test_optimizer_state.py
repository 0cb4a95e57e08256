"""What a torch optimizer remembers when its model is teleported."""

import copy

import pytest
import torch
from torch import Tensor, nn

import metatele
from metatele import (
    Balance,
    ConfigError,
    InnerOptimizer,
    OptimisedTeleport,
    RandomTeleport,
    TorchUpdate,
    Unroll,
)
from metatele.symmetry import group_of
from metatele.task.params import flatten
from tests.torch_model.conftest import (
    DOUBLE,
    LR,
    OPTIMIZERS,
    build,
    data,
    mlp,
    mse,
    norm_of_gradient,
    step,
    tensors,
    vector,
)


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_stays_and_the_objective_grows_inside_any_optimizer(name, moments):
    model, batch = mlp(bias=name != "muon"), data()
    optimizer = build(name, model)
    step(model, optimizer, 3)
    before, norm = vector(model), norm_of_gradient(model, batch)
    loss = mse(model(batch[0]), batch[1]).item()
    report = metatele.teleport(model, batch, mse, optimizer=optimizer, moments=moments, steps=5)
    assert report.loss_before == pytest.approx(loss, rel=1e-12)
    assert report.loss_after == pytest.approx(loss, rel=1e-10)
    assert mse(model(batch[0]), batch[1]).item() == pytest.approx(loss, rel=1e-10)
    assert report.gradient_norm_before == report.objective_before == pytest.approx(norm, rel=1e-10)
    assert report.gradient_norm_after == pytest.approx(norm_of_gradient(model, batch), rel=1e-9)
    assert report.objective_after == report.gradient_norm_after > 1.01 * norm
    assert report.distance == pytest.approx(float((vector(model) - before).norm()), rel=1e-10)
    assert report.residual == {}
    assert all(p.grad is None for p in model.parameters())
    step(model, optimizer, 2)
    assert bool(vector(model).isfinite().all())


@pytest.mark.parametrize("moments", ["transform", "keep", "reset"])
@pytest.mark.parametrize(
    "teleport",
    [OptimisedTeleport(steps=4, first=3, last=3), RandomTeleport(0.3, first=3, last=3), Balance(first=3, last=3)],
    ids=["optimised", "random", "balance"],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_loop_with_a_teleport_is_the_inner_loop_with_it(name, teleport, moments, make_batch):
    bias = name != "muon"
    batch = make_batch(tasks=1, widths=(4, 5, 3), activations=(nn.LeakyReLU(0.1),), bias=bias, rows=8)
    model = mlp(bias)
    model.load_state_dict({k: p[0] for k, p in batch.params.items()})
    rows = tuple(t[0] for t in batch.rows("inner"))
    start, optimizer = vector(model), build(name, model)
    step(model, optimizer, 3, rows)
    seed = int(batch.seeds[0])
    metatele.teleport(model, rows, mse, by=teleport, optimizer=optimizer, moments=moments, seed=seed)
    step(model, optimizer, 3, rows)
    unroll = Unroll(InnerOptimizer(TorchUpdate(*OPTIMIZERS[name]), teleport, "before", moments), batch, 6)
    end = unroll.window(unroll.start(), 6, differentiable=False).end.params
    moved = vector(model) - start
    assert moved.norm() > 1e-4
    torch.testing.assert_close(moved, flatten(end)[0] - start, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reset_makes_the_state_of_a_new_optimizer(name):
    model, batch = mlp(bias=name != "muon"), data()
    optimizer = build(name, model, lr=0.013)
    step(model, optimizer, 3)
    metatele.teleport(model, batch, mse, optimizer=optimizer, moments="reset", steps=3)
    twin = copy.deepcopy(model)
    fresh = build(name, twin, lr=0.013)
    assert [optimizer.state.get(p, {}).keys() for p in model.parameters()] == [
        fresh.state.get(p, {}).keys() for p in twin.parameters()
    ]
    for m, o in ((model, optimizer), (twin, fresh)):
        step(m, o, 3)
    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keep_does_not_touch_the_state(name):
    model = mlp(bias=name != "muon")
    optimizer = build(name, model)
    step(model, optimizer, 3)
    before = tensors([optimizer.state[p] for p in model.parameters()])
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="keep", steps=3)
    after = tensors([optimizer.state[p] for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["scaling", "general_linear"])
def test_transform_is_the_dual_action_of_the_group(kind):
    batch = data()
    model = mlp(activation=nn.ReLU() if kind == "scaling" else nn.Identity())
    optimizer = build("adam", model)
    step(model, optimizer, 3)
    names = dict(model.named_parameters())
    here = {k: p.detach().clone().unsqueeze(0) for k, p in names.items()}

    def read(key: str) -> dict[str, Tensor]:
        return {k: optimizer.state[p][key].clone().unsqueeze(0) for k, p in names.items()}

    keys = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    old, steps = [read(key) for key in keys], [optimizer.state[p]["step"].clone() for p in names.values()]
    teleport = RandomTeleport(0.4, kind)
    metatele.teleport(model, batch, mse, by=teleport, optimizer=optimizer, seed=9)
    group = group_of(model, kind)
    point = metatele.Point(here, here, batch[0].unsqueeze(0), 0)
    element, _ = teleport.element(point, group, teleport.start(here, group, torch.tensor([9])))
    there, covectors, squares = group.carry(element, here, point.inputs, old[:1], old[1:])
    torch.testing.assert_close(vector(model), flatten(there)[0], rtol=1e-12, atol=0)
    for key, expected, before in zip(keys, [*covectors, *squares], old, strict=True):
        torch.testing.assert_close(flatten(read(key)), flatten(expected), rtol=1e-12, atol=0)
        assert not torch.allclose(flatten(before), flatten(expected))
    assert [optimizer.state[p]["step"] for p in names.values()] == steps


@pytest.mark.parametrize(
    ("kind", "rows"), [("scaling", 8), ("general_linear", 8), ("data_dependent", 4), ("pseudo_inverse", 3)]
)
def test_a_momentum_that_is_the_gradient_is_the_gradient_after_the_teleport_too(kind, rows):
    model, batch = mlp(activation=nn.Identity() if kind == "general_linear" else nn.LeakyReLU(0.1)), data(rows)
    optimizer = build("momentum", model)
    step(model, optimizer, 1, batch)
    for which in ("before", "after"):
        grads = torch.autograd.grad(mse(model(batch[0]), batch[1]), list(model.parameters()))
        for p, g in zip(model.parameters(), grads, strict=True):
            if which == "before":
                optimizer.state[p]["momentum_buffer"].copy_(g)
            else:
                torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], g, rtol=1e-7, atol=1e-9)
        if which == "before":
            metatele.teleport(model, batch, mse, optimizer=optimizer, symmetry=kind, steps=3)


def test_an_optimizer_that_has_not_stepped_or_has_other_parameters_too():
    model, other = mlp(), nn.Linear(2, 2).double()
    optimizer = torch.optim.Adam([{"params": model[0].parameters()}, {"params": other.parameters(), "lr": 1e-3}])
    for moments in ("transform", "reset", "keep"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, steps=2)
        assert all(len(s) == 0 for s in optimizer.state.values())
    other(torch.ones(1, 2, dtype=DOUBLE)).sum().backward()
    step_of_other = tensors(optimizer.state)
    optimizer.step()
    step(model, optimizer, 1)
    before = tensors([optimizer.state[p] for p in other.parameters()])
    assert step_of_other == []
    for moments in ("transform", "reset"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, by=RandomTeleport())
        after = tensors([optimizer.state[p] for p in other.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p not in optimizer.state for p in model.parameters())


def test_lbfgs_and_sparse_adam_may_stand_by():
    for make in (torch.optim.LBFGS, torch.optim.SparseAdam):
        model = mlp()
        optimizer = make(model.parameters())
        if make is torch.optim.LBFGS:
            step(model, optimizer, 2)
        for moments in (None, "reset"):
            report = metatele.teleport(model, data(), mse, optimizer=optimizer, moments=moments, steps=2)
            assert report.loss_after == pytest.approx(report.loss_before, rel=1e-9)
            assert not optimizer.state, "by default it starts anew: lists of past steps cannot be carried"
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())
    step(model, optimizer, 2)
    with pytest.raises(ConfigError, match=r"LBFGS.*cannot be transformed; reset it"):
        metatele.teleport(model, data(), mse, optimizer=optimizer, moments="transform", steps=2)
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="reset", steps=2)
    twin = copy.deepcopy(model)
    for m, o in ((model, optimizer), (twin, torch.optim.LBFGS(twin.parameters()))):
        step(m, o, 1)
    torch.testing.assert_close(vector(model), vector(twin), rtol=1e-10, atol=1e-12)


class Peculiar(torch.optim.SGD):
    """An optimizer whose constructor takes other arguments than torch knows of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.01, momentum=0.9)


def test_reset_empties_the_state_of_an_optimizer_of_one_s_own():
    model = mlp()
    optimizer = Peculiar(model)
    step(model, optimizer, 2)
    metatele.teleport(model, data(), mse, optimizer=optimizer, moments="reset", steps=2)
    assert not optimizer.state
    step(model, optimizer, 1)


def test_rmsprops_momentum_stays_under_a_scaling():
    # It is a mean of gradients divided by their size, which a scaling of both leaves as it is.
    model = mlp()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=LR, momentum=0.5)
    step(model, optimizer, 3)
    before = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()]
    assert metatele.teleport(model, data(), mse, optimizer=optimizer).distance > 0
    for old, p in zip(before, model.parameters(), strict=True):
        assert torch.equal(old["momentum_buffer"], optimizer.state[p]["momentum_buffer"])
    changed = [
        not torch.allclose(old["square_avg"], optimizer.state[p]["square_avg"])
        for old, p in zip(before, model.parameters(), strict=True)
    ]
    assert sum(changed) >= 3


def test_lbfgs_goes_on_after_a_teleport():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())
    step(model, optimizer, 3)
    metatele.teleport(model, data(), mse, optimizer=optimizer, symmetry="scaling", steps=20)
    step(model, optimizer, 3)
    assert bool(vector(model).isfinite().all())
