"""Optimizers of torch as updates: they step as torch does, and teleports carry their moments."""

import json
from pathlib import Path

import pytest
import torch

from metatele import (
    Adam,
    Balance,
    CheckpointError,
    ConfigError,
    GradientDescent,
    InnerOptimizer,
    Momentum,
    NeuronTeleport,
    Point,
    RandomTeleport,
    State,
    TorchUpdate,
    Unroll,
    load_checkpoint,
    save_checkpoint,
)
from metatele.cli.arguments import instantiate, make_training_parser
from metatele.parts.torch_state import COVECTORS, SQUARES, StateKeys, split_state
from metatele.task.params import Params, flatten, map_params
from metatele.testing import check_update

CASES = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "foreach": True}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.3, "lr_decay": 0.1}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    ("Adam", {"lr": 0.05, "betas": [0.8, 0.9]}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.2}),
    ("NAdam", {"lr": 0.05}),
    ("RAdam", {"lr": 0.05}),
    ("Adamax", {"lr": 0.05}),
    ("Adadelta", {"lr": 1.0}),
    ("ASGD", {"lr": 0.05, "t0": 3}),
    ("Rprop", {"lr": 0.05}),
    ("Adafactor", {"lr": 0.05}),
    ("Muon", {"lr": 0.05}),
]
NAMES = [f"{name}-{'-'.join(list(options)[1:])}" for name, options in CASES]
ORDERS = ["before", "after"]
STEPS = 8


def known(name: str) -> None:
    if not hasattr(torch.optim, name):
        pytest.skip(f"torch {torch.__version__} has no {name}")


def stacked(name: str, tasks: int = 3) -> Params:
    """Parameters of a few tasks; Muon takes matrices only."""
    stream = torch.Generator().manual_seed(0)
    shapes = {"weight": (4, 3), **({} if name == "Muon" else {"bias": (4,), "scale": ()})}
    return {k: torch.randn(tasks, *s, generator=stream, dtype=torch.float64) for k, s in shapes.items()}


def slope(p: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss that adds up over coordinates, so that a stack and a task agree in every bit."""
    return (p - 1) * (1 + 0.3 * p.sin()) + 0.5 * (3 * p).cos()


def trajectory(update: TorchUpdate, params: Params, steps: int = STEPS) -> list[Params]:
    """Displacements from the start after each step."""
    start, state, out = params, update.start(params), []
    for k in range(steps):
        f, state = update.propose(Point(params, map_params(slope, params), torch.empty(0), k), state)
        params = map_params(torch.add, params, f)
        out.append(map_params(torch.sub, params, start))
    return out


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_each_task_steps_as_torch_does(name, options):
    known(name)
    params = stacked(name)
    found = trajectory(TorchUpdate(name, options), params)
    for task in range(3):
        leaves = {k: p[task].clone().requires_grad_() for k, p in params.items()}
        optimizer = getattr(torch.optim, name)(list(leaves.values()), **options)
        for after in found:
            for p in leaves.values():
                p.grad = slope(p.detach())
            optimizer.step()
            for k, p in leaves.items():
                expected = p.detach() - params[k][task]
                assert bool(expected.abs().max() > 0)
                torch.testing.assert_close(after[k][task], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_every_torch_update_obeys_the_laws(name, options, make_batch):
    known(name)
    check_update(TorchUpdate(name, options), make_batch(tasks=3, bias=name != "Muon"))


def test_every_optimizer_of_torch_is_tried_or_refused():
    base = torch.optim.Optimizer
    every = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, base)} - {"Optimizer"}
    assert every <= {name for name, _ in CASES} | {"LBFGS", "SparseAdam"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("teleport", [Balance(), RandomTeleport(0.1)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_it_runs_in_an_unroll_with_teleports(name, options, teleport, order, make_batch):
    known(name)
    if options.get("centered"):
        teleport = type(teleport)() if isinstance(teleport, Balance) else RandomTeleport(0.1, "scaling")
    batch = make_batch(bias=name != "Muon")
    unroll = Unroll(InnerOptimizer(TorchUpdate(name, {**options, "lr": 0.01}), teleport, order), batch, 6)
    whole = unroll.window(unroll.start(), 6, differentiable=False)
    assert bool(whole.end.alive.all())
    assert bool(whole.meta_losses.isfinite().all())
    # The state of two windows is that of one: nothing is kept outside it.
    first = unroll.window(unroll.start(), 2)
    unroll.window(unroll.start(), 3)
    halves = torch.cat([first.meta_losses, unroll.window(first.end, 4).meta_losses])
    torch.testing.assert_close(halves.detach(), whole.meta_losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["scaling", "general_linear"])
@pytest.mark.parametrize(
    ("own", "other"),
    [
        (GradientDescent(0.05), TorchUpdate("SGD", {"lr": 0.05})),
        (Momentum(0.05, 0.8), TorchUpdate("SGD", {"lr": 0.05, "momentum": 0.8})),
        (Momentum(0.05, 0.8, nesterov=True), TorchUpdate("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True})),
        (Adam(0.02), TorchUpdate("Adam", {"lr": 0.02})),
    ],
    ids=["sgd", "momentum", "nesterov", "adam"],
)
def test_teleports_carry_its_moments_as_they_carry_those_of_the_own_updates(own, other, kind, order, make_batch):
    ends = []
    for update in (own, other):
        unroll = Unroll(InnerOptimizer(update, RandomTeleport(0.2, kind), order).double(), make_batch(), 6)
        ends.append(flatten(unroll.window(unroll.start(), 6, differentiable=False).end.params))
    # The own Adam adds 1e-30 under its root, and the own step size is the exponential of a logarithm.
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adagrad", {"lr": 0.1}),
        ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
        ("Adam", {"lr": 0.1, "amsgrad": True}),
    ],
    ids=["adagrad", "rmsprop", "amsgrad"],
)
def test_a_diagonal_teleport_carries_the_whole_history(name, options, order, make_batch):
    """Gradients at theta, carried to g theta one by one, would have made the moments that are carried."""
    batch = make_batch()
    inner = InnerOptimizer(TorchUpdate(name, {**options, "eps": 0.0}), RandomTeleport(0.5, "scaling"), order)
    group = inner.bind(batch.network, batch.params)
    x, stream = batch.inputs["inner"], torch.Generator().manual_seed(0)
    gradients = [map_params(lambda p: torch.randn(p.shape, generator=stream).to(p), batch.params) for _ in range(4)]
    element = group.exp([torch.randn(2, *s, generator=stream).double() for s in group.algebra_shapes])

    def moments(history: list[Params]) -> tuple[State, Params]:
        state = inner.update.start(batch.params)
        for k, g in enumerate(history):
            f, state = inner.update.propose(Point(batch.params, g, x, k), state)
        return state, f

    params, carried, _ = group.carry(element, batch.params, x, gradients)
    here, _ = moments(gradients[:3])
    there, expected = moments(carried)
    _, covectors, squares = group.carry(element, batch.params, x, here.covectors, here.squares)
    state = State(tuple(covectors), tuple(squares), here.memory)
    found, after = inner.update.propose(Point(params, carried[3], x, 3), state)
    torch.testing.assert_close(flatten(found), flatten(expected), rtol=1e-9, atol=1e-12)
    for a, b in zip((*after.covectors, *after.squares), (*there.covectors, *there.squares), strict=True):
        torch.testing.assert_close(flatten(a), flatten(b), rtol=1e-9, atol=1e-12)


def test_no_gradient_passes_through_a_step():
    params = {k: p.requires_grad_() for k, p in stacked("SGD").items()}
    update = TorchUpdate("Adam")
    gradient, state = map_params(slope, params), update.start(params)
    for k in range(2):
        f, state = update.propose(Point(params, gradient, torch.empty(0), k), state)
    assert not any(t.requires_grad for t in (*f.values(), *state.memory, *state.covectors[0].values()))
    assert all(p.grad is None and p.grad_fn is None for p in params.values())


def test_a_learned_teleport_still_gets_a_meta_gradient(make_batch):
    inner = InnerOptimizer(TorchUpdate("AdamW", {"lr": 0.01}), NeuronTeleport(3)).double()
    inner.initialise(0)
    unroll = Unroll(inner, make_batch(), 3)
    loss = unroll.window(unroll.start(), 3).meta_losses.sum()
    grads = torch.autograd.grad(loss, [p for p in inner.parameters() if p.requires_grad])
    assert max(float(g.abs().max()) for g in grads) > 0


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_it_is_saved_and_loaded(tmp_path, name, options):
    known(name)
    inner = InnerOptimizer(TorchUpdate(name, options), RandomTeleport(0.1), "after")
    loaded = load_checkpoint(save_checkpoint(inner, tmp_path / "it"))
    assert not loaded.learned
    params = stacked(name)
    found, expected = (trajectory(i.update, params)[-1] for i in (loaded, inner))
    assert all(torch.equal(found[k], expected[k]) for k in params)


def test_a_hostile_checkpoint_is_refused(tmp_path):
    folder = save_checkpoint(InnerOptimizer(TorchUpdate("SGD", {"lr": 0.1})), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name, options in (("os.system", {}), ("LBFGS", {}), ("lr_scheduler", {}), ("SGD", {"lr": "x"}), ("SGD", 3)):
        config["update"]["arguments"] = {"optimizer": name, "options": options}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="TorchUpdate"):
            load_checkpoint(folder)


def test_it_is_named_in_a_configuration(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "family: PaperRegression\n"
        "optimizer:\n"
        "  update:\n"
        "    class_path: metatele.TorchUpdate\n"
        "    init_args: {optimizer: AdamW, options: {lr: 0.001, betas: [0.8, 0.9]}}\n"
        "  teleport: NeuronTeleport\n"
    )
    parser = make_training_parser("test")
    update = instantiate(parser, parser.parse_args(["--config", str(file)])).optimizer.update
    assert isinstance(update, TorchUpdate)
    assert update.arguments() == {"optimizer": "AdamW", "options": {"lr": 0.001, "betas": [0.8, 0.9]}}
    short = ["--family=PaperRegression", "--optimizer.update=TorchUpdate", "--optimizer.update.optimizer=RMSprop"]
    update = instantiate(parser, parser.parse_args([*short, '--optimizer.update.options={"alpha": 0.9}'])).optimizer
    assert update.update.arguments() == {"optimizer": "RMSprop", "options": {"alpha": 0.9}}
    wrong = parser.parse_args([*short[:2], '--optimizer.update.options={"alpha": 0.9}'])  # SGD has none
    with pytest.raises(ConfigError, match="alpha"):
        instantiate(parser, wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchUpdate("Sgd"), r"torch.optim \(ASGD, .*SGD\), got 'Sgd'"),
        (lambda: TorchUpdate("Optimizer"), "got 'Optimizer'"),
        (lambda: TorchUpdate("lr_scheduler"), "got 'lr_scheduler'"),
        (lambda: TorchUpdate(3), "got 3"),
        (lambda: TorchUpdate("LBFGS"), "'LBFGS' cannot be an update: .* closure"),
        (lambda: TorchUpdate("SparseAdam"), "'SparseAdam' cannot be an update: .* sparse gradients"),
        (lambda: TorchUpdate("SGD", {"rate": 1}), "torch.optim.SGD .*'rate'"),
        (lambda: TorchUpdate("SGD", {"params": 1}), "torch.optim.SGD .*'params'"),
        (lambda: TorchUpdate("SGD", {"lr": -1.0}), r"torch.optim.SGD .*-1\.0"),
        (lambda: TorchUpdate("SGD", {"lr": "big"}), "torch.optim.SGD .*'big'"),
        (lambda: TorchUpdate("SGD", {"lr": torch.tensor(0.1)}), "plain numbers.*tensor"),
        (lambda: TorchUpdate("SGD", {1: 2}), r"got \{1: 2\}"),
        (lambda: TorchUpdate("SGD", [0.1]), r"got \[0.1\]"),
        (lambda: TorchUpdate("Adam", {"betas": 0.5}).start(stacked("Adam")), r"torch.optim.Adam .*0\.5"),
    ],
)
def test_what_torch_refuses_is_a_clear_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_optimizer_that_refuses_the_parameters_says_so():
    known("Muon")
    with pytest.raises(ConfigError, match=r"torch.optim.Muon .*2D.*torch.Size\(\[4\]\)"):
        TorchUpdate("Muon").start(stacked("SGD"))


def state_after_a_step(name: str, **options: object) -> dict[str, object]:
    parameter = torch.ones(3, 2)
    optimizer = getattr(torch.optim, name)([parameter], **options)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    return dict(optimizer.state[parameter])


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        ("SGD", {}, StateKeys()),
        ("SGD", {"momentum": 0.9}, StateKeys(covectors=("momentum_buffer",))),
        ("Adagrad", {}, StateKeys(squares=("sum",), scalars=("step",))),
        (
            "RMSprop",
            {"momentum": 0.9, "centered": True},
            StateKeys(("grad_avg",), ("square_avg",), ("momentum_buffer",), ("step",)),
        ),
        ("Adam", {"amsgrad": True}, StateKeys(("exp_avg",), ("exp_avg_sq", "max_exp_avg_sq"), scalars=("step",))),
        ("NAdam", {}, StateKeys(("exp_avg",), ("exp_avg_sq",), scalars=("step", "mu_product"))),
        ("Adamax", {}, StateKeys(("exp_avg",), unknown=("exp_inf",), scalars=("step",))),
        ("Adadelta", {}, StateKeys(squares=("square_avg",), unknown=("acc_delta",), scalars=("step",))),
        ("Rprop", {}, StateKeys(("prev",), unknown=("step_size",), scalars=("step",))),
        ("Adafactor", {}, StateKeys(unknown=("row_var", "col_var"), scalars=("step",))),
        ("Muon", {}, StateKeys(covectors=("momentum_buffer",))),
    ],
)
def test_the_meaning_of_the_states_of_torch(name, options, keys):
    known(name)
    assert split_state(state_after_a_step(name, **options)) == keys


def test_the_meaning_of_other_states():
    scalar = torch.tensor(1.0)
    assert split_state({}) == StateKeys()
    assert split_state({"exp_avg": None, "count": 3, "step": scalar}) == StateKeys(scalars=("exp_avg", "count", "step"))
    assert split_state({"exp_avg": scalar, "sum": scalar}) == StateKeys(("exp_avg",), ("sum",))  # of a parameter ()
    assert not COVECTORS & SQUARES
