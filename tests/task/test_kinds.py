"""Networks, losses and data of kinds that users have: no vmap, several outputs, wrappers, another default dtype."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metatele import (
    Adam,
    Balance,
    ConfigError,
    CoordinateUpdate,
    DenseStepSize,
    DenseTeleport,
    DenseUpdate,
    GlobalStepSize,
    GradientDescent,
    InnerOptimizer,
    LevelSetTeleport,
    MetaSettings,
    NeuronTeleport,
    OptimisedTeleport,
    RandomTeleport,
    Svd,
    SymmetryError,
    TaskError,
    TaskFamily,
    TorchUpdate,
    Unroll,
    UnrollSettings,
    ValidationSettings,
    White,
    Wout,
    evaluate,
    meta_train,
    sample_meta_batch,
    teleport,
)
from metatele.task import stack
from metatele.task.stack import stacked_forward


class Last(nn.Module):
    """A recurrent layer over copies of the inputs."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn, self.out = kind(3, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.rnn(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])


class Two(nn.Module):
    """Two heads."""

    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.body, self.value, self.label = nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(8, 4)
        self.kind = kind

    def forward(self, x):
        h = self.body(x).tanh()
        heads = {"value": self.value(h), "label": self.label(h)}
        return heads if self.kind is dict else tuple(heads.values())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))


def both(outputs, y):
    value, label = outputs.values() if isinstance(outputs, dict) else outputs
    return value.square().mean() + F.cross_entropy(label, y)


def family(network, loss=F.cross_entropy, missing: bool = False) -> TaskFamily:
    class Made(TaskFamily):
        def network(self):
            return network()

        def sample(self, generator):
            y = torch.randint(4, (12,), generator=generator)
            if missing:
                y[::3] = -1
            return torch.randn(12, 3, generator=generator), y

        def loss(self, prediction, target):
            return loss(prediction, target)

    return Made()


def end(made: TaskFamily, tasks=range(3), inner=None):
    batch = sample_meta_batch(made, "train", tasks)
    play = Unroll(inner or InnerOptimizer(GradientDescent(0.1)), batch, 3)
    return play.window(play.start(), 3).end


UNBATCHED = {
    "lstm": family(lambda: Last(nn.LSTM)),
    "gru": family(lambda: Last(nn.GRU)),
    "mask": family(mlp, lambda p, y: F.cross_entropy(p[y >= 0], y[y >= 0]), missing=True),
    "nll": family(mlp, lambda p, y: F.gaussian_nll_loss(p[:, 0], y.float(), p[:, 1].exp())),
    "item": family(mlp, lambda p, y: F.cross_entropy(p, y) / max(1.0, p.abs().max().item())),
    "if": family(mlp, lambda p, y: F.cross_entropy(p, y) if p.mean() > 0 else 2 * F.cross_entropy(p, y)),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_what_vmap_cannot_batch_runs_task_by_task(name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        together = end(UNBATCHED[name])
    assert len([w for w in told if "one after the other" in str(w.message)]) <= 2
    assert together.alive.all()
    for i in range(3):
        for key, p in end(UNBATCHED[name], [i]).params.items():
            torch.testing.assert_close(p[0], together.params[key][i], rtol=1e-4, atol=1e-5)


def test_it_is_told_once_and_random_draws_are_still_refused():
    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * (2 if x.sum().item() > 0 else 1)

    made = family(lambda: Own(*mlp()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        end(made)
        end(made)
    assert len([w for w in told if "Own cannot be batched over tasks by vmap" in str(w.message)]) == 1
    with pytest.raises(TaskError, match="random"):
        end(family(lambda: nn.Sequential(mlp(), nn.Dropout(0.5))))
    with pytest.raises(TaskError, match="changes its buffer"):
        end(family(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))))


def test_a_lack_of_memory_is_no_matter_of_batching():
    class Greedy(nn.Sequential):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    network = Greedy(*mlp())
    params = {k: p.detach().expand(2, *p.shape) for k, p in network.named_parameters()}
    with pytest.raises(torch.OutOfMemoryError):
        stacked_forward(network, params, torch.zeros(2, 5, 3))
    assert network not in stack._looped


@pytest.mark.parametrize("kind", [tuple, dict])
@pytest.mark.parametrize("teleport", [None, LevelSetTeleport(steps=1)], ids=["none", "level set"])
def test_several_outputs(kind, teleport):
    made = family(lambda: Two(kind), both)
    assert end(made, inner=InnerOptimizer(GradientDescent(0.1), teleport)).alive.all()
    made.accuracy = lambda outputs, y: (
        ((outputs["label"] if kind is dict else outputs[1]).argmax(1) == y).float().mean()
    )
    settings = {"tasks": 2, "steps": 2, "tuning_tasks": 2, "timing_repeats": 1, "baselines": False}
    result = evaluate({"a": InnerOptimizer(GradientDescent(0.1), teleport)}, made, **settings)
    assert result["a"].failure is None


class Odd(nn.Module):
    """A network with a parameter without dimensions, empty ones, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.scale = mlp(), nn.Parameter(torch.tensor(1.5))
        self.none, self.no_rows = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0, 3))
        self.register_buffer("two", torch.tensor(2.0))
        self.register_buffer("nothing", torch.empty(0, 2))

    def forward(self, x):
        return self.scale * self.two * self.mlp(x) + self.no_rows.sum()


UPDATES = [
    lambda: CoordinateUpdate(4),
    lambda: GlobalStepSize(4),
    lambda: DenseUpdate(4),
    lambda: DenseStepSize(4),
    lambda: GradientDescent(0.1, learn=True),
    lambda: Adam(0.1),
    lambda: TorchUpdate("SGD", {"lr": 0.1}),
]


@pytest.mark.parametrize("make", UPDATES)
def test_parameters_without_dimensions_or_entries(make):
    batch = sample_meta_batch(family(Odd), "train", range(3))
    inner = InnerOptimizer(make())
    inner.bind(batch.network, batch.params)
    inner.initialise(0)
    play = Unroll(inner, batch, 3, True)
    window = play.window(play.start(), 3)
    assert window.end.alive.all()
    assert all(float((window.end.params["scale"][i] - 1.5).abs()) > 0 for i in range(3)), "it is trained"
    assert window.end.params["no_rows"].shape == (3, 0, 3)
    alone = end(family(Odd), [1], inner)
    for key, p in alone.params.items():
        torch.testing.assert_close(p[0], window.end.params[key][1], rtol=1e-4, atol=1e-5)
    if inner.learned:
        window.meta_losses.log().mean().backward()
        assert all(bool(p.grad.isfinite().all()) for p in inner.parameters() if p.grad is not None)


@pytest.mark.parametrize("rule", [Balance(), Svd(), White(), Wout(), OptimisedTeleport(), RandomTeleport()])
def test_a_layer_without_neurons_has_no_symmetry(rule):
    network = nn.Sequential(nn.Linear(3, 0), nn.ReLU(), nn.Linear(0, 2))
    with pytest.raises(SymmetryError):
        teleport(network, (torch.randn(5, 3), torch.randn(5, 2)), nn.functional.mse_loss, by=rule)


def test_a_compiled_network_is_the_network_inside():
    made, plain = family(lambda: torch.compile(mlp())), family(mlp)
    inner = InnerOptimizer(CoordinateUpdate(hidden=3), NeuronTeleport(hidden=3))
    for key, p in end(plain, inner=inner).params.items():
        assert torch.equal(p, end(made, inner=inner).params[key])


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("update", [CoordinateUpdate, DenseUpdate])
@pytest.mark.parametrize("teleport", [NeuronTeleport, DenseTeleport])
def test_another_default_dtype(double, update, teleport):
    few = UnrollSettings(steps=2, window=2), MetaSettings(iterations=1, tasks=2), ValidationSettings(tasks=2)
    meta_train(InnerOptimizer(update(hidden=3), teleport(hidden=3)), family(mlp), *few)


class Attend(nn.Module):
    """Attention over the features; or a bag of embeddings, which has no second derivative."""

    def __init__(self, bag: bool) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 8), nn.Linear(8, 4)
        self.bag = nn.EmbeddingBag(5, 8, mode="max") if bag else None

    def forward(self, x):
        h = self.into(x).unsqueeze(1)
        h = F.scaled_dot_product_attention(h, h, h).squeeze(1)
        if self.bag is not None:
            h = h + self.bag(x.argmax(1, keepdim=True))
        return self.out(h)


def test_second_order_through_attention():
    few = UnrollSettings(steps=2, window=2, second_order=True), MetaSettings(iterations=1, tasks=2)
    result = meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family(lambda: Attend(False)), *few)
    assert result.finished


def test_an_operation_without_a_second_derivative_is_refused_in_a_line():
    few = UnrollSettings(steps=2, window=2, second_order=True), MetaSettings(iterations=1, tasks=2)
    with pytest.raises(ConfigError, match=r"set unroll\.second_order to false") as refused:
        meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family(lambda: Attend(True)), *few)
    assert "\n" not in str(refused.value)


def test_sparse_data_are_refused_in_a_line():
    class Sparse(TaskFamily):
        network = staticmethod(mlp)
        loss = staticmethod(F.cross_entropy)

        def sample(self, generator):
            return torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.int64)

    with pytest.raises(TaskError, match=r"inputs are torch\.sparse_coo, which is not supported; give dense tensors"):
        sample_meta_batch(Sparse(), "train", range(2))
