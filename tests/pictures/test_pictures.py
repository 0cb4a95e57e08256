"""Pictures of teleports: what is drawn is what is there."""

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from metatele import Balance, ConfigError, LevelSetTeleport, OptimisedTeleport, RandomTeleport, SymmetryError
from metatele.landscape import Landscape
from metatele.pictures import draw_orbit
from metatele.pictures.orbit import box_around, draw_levels
from metatele.pictures.traces import Slice, losses, trace_runs


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.1), nn.Linear(4, 1)).double()
    x = torch.randn(8, 2, dtype=torch.float64)
    return model, (x, x.prod(1, keepdim=True)), nn.functional.mse_loss


def landscape_of(setting):
    model, (x, y), loss_fn = setting
    params = {k: p.detach().unsqueeze(0) for k, p in model.named_parameters()}
    return Landscape(model, loss_fn, x.unsqueeze(0), y.unsqueeze(0)), params


@pytest.mark.parametrize("by", [None, OptimisedTeleport(steps=3), Balance(), RandomTeleport(0.3)])
def test_draw_orbit_gives_a_figure_and_leaves_the_model(setting, by, tmp_path):
    model = setting[0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad for p in model.parameters()]
    figure = draw_orbit(*setting, by=by, lr=0.05, before=2, steps=3, resolution=9)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "orbit.png")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.grad for p in model.parameters()] == grads
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[0::3] == ["before", "with teleport"]


def test_level_sets_agree_with_the_loss_at_drawn_points(setting):
    """The emphasised contour passes through theta and g . theta, which lie in the plane at its level."""
    landscape, params = landscape_of(setting)
    runs = trace_runs(landscape, params, OptimisedTeleport(), 0.05, 2, 5)
    start = runs.orbit.points[0]
    plane = Slice.through(start, runs.orbit.points[-1] - start, runs.plain.points[-1] - start)
    axes = Figure().subplots()
    box = box_around(plane, runs)
    draw_levels(axes, landscape, params, plane, box, 201, float(runs.orbit.loss[0]))
    drawn = torch.as_tensor(axes.collections[-1].get_paths()[0].vertices)
    cell = max((box[1] - box[0]) / 200, (box[3] - box[2]) / 200)
    for end in plane.coordinates(runs.orbit.points[[0, -1]]):
        assert (drawn - end).norm(dim=1).min() < cell
    # Every point of the contour has the loss of its level, and so have the grid's own points theirs.
    assert losses(landscape, params, plane.at(drawn)) == pytest.approx(float(runs.orbit.loss[0]), rel=0.02)
    model, (x, y), loss_fn = setting
    nn.utils.vector_to_parameters(plane.at(drawn[:1])[0], model.parameters())
    assert float(loss_fn(model(x), y).detach()) == pytest.approx(
        float(losses(landscape, params, plane.at(drawn[:1]))[0])
    )


def test_the_orbit_keeps_the_loss_and_the_runs_lower_it(setting):
    runs = trace_runs(*landscape_of(setting), OptimisedTeleport(), 0.02, 2, 5)
    assert runs.orbit.loss == pytest.approx(float(runs.orbit.loss[0]), rel=1e-10)
    for trace in (runs.before, runs.plain, runs.jumped):
        assert (trace.loss.diff() < 0).all()
    assert torch.equal(runs.before.points[-1], runs.orbit.points[0])
    assert torch.equal(runs.orbit.points[0], runs.plain.points[0])
    assert torch.equal(runs.orbit.points[-1], runs.jumped.points[0])


def test_slice_projects():
    origin, first, second = torch.eye(4, dtype=torch.float64)[:3]
    plane = Slice.through(origin, first, first + second)
    where = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    assert torch.allclose(plane.coordinates(plane.at(where)), where)
    off = plane.at(where) + torch.tensor([0.0, 0, 0, 3])
    assert float(plane.distance(off)) == pytest.approx(3)
    assert torch.allclose(plane.coordinates(off), where)


def test_directions_of_the_user(setting):
    model = setting[0]
    ways = [[torch.randn_like(p) for p in model.parameters()] for _ in range(2)]
    figure = draw_orbit(*setting, lr=0.05, steps=2, resolution=5, directions=(ways[0], ways[1]))
    assert figure.axes[0].get_xlabel() == "along the first direction"
    with pytest.raises(ConfigError, match="not parallel"):
        draw_orbit(*setting, lr=0.05, steps=2, resolution=5, directions=(ways[0], ways[0]))
    with pytest.raises(ConfigError, match="each of the 17 parameters, got 8 and 8"):
        draw_orbit(*setting, lr=0.05, steps=2, resolution=5, directions=(ways[0][:1], ways[0][:1]))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"lr": 0}, ConfigError, "lr must be above 0 and finite, got 0"),
    ({"steps": 0}, ConfigError, "steps must be a whole number of at least 1, got 0"),
    ({"before": -1}, ConfigError, "before must be a whole number of at least 0, got -1"),
    ({"resolution": 1}, ConfigError, "resolution must be a whole number of at least 2, got 1"),
    ({"lr": 1e200}, ConfigError, "lr=1e\\+200|above 0 and finite"),
    ({"lr": 1e20, "steps": 40}, ConfigError, "diverges at step"),
    ({"model": "mlp"}, ConfigError, "model must be an nn.Module, got str"),
    ({"batch": None}, ConfigError, "batch must be two tensors, .inputs, targets., got NoneType"),
    ({"batch": torch.ones(2, 2)}, ConfigError, "batch must be two tensors, .inputs, targets., got Tensor"),
    ({"batch": (torch.ones(2, 2), torch.ones(3, 1))}, ConfigError, "the same number of rows, .* got 2 and 3"),
    ({"loss_fn": "mse"}, ConfigError, "loss_fn must be a function"),
    ({"seed": -1}, ConfigError, "seed must be"),
    ({"by": 3}, ConfigError, "by must be a teleport such as .*, got 3"),
    ({"by": OptimisedTeleport}, ConfigError, "by must be a teleport such as .*, got <class"),
    ({"by": OptimisedTeleport(cap=0.0)}, SymmetryError, "does not move the parameters"),
])  # fmt: skip
def test_bad_settings_are_refused(setting, change, error, message):
    arguments = dict(zip(("model", "batch", "loss_fn"), setting, strict=True))
    with pytest.raises(error, match=message) as caught:
        draw_orbit(**{**arguments, "lr": 0.05, "steps": 2, "resolution": 5, **change})
    assert "\n" not in str(caught.value)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.cell(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])


@pytest.mark.parametrize(
    "build",
    [Recurrent, lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))],
    ids=["gru", "batch norm"],
)
def test_networks_that_vmap_cannot_batch_are_drawn(setting, build):
    model = build().double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    figure = draw_orbit(model, *setting[1:], by=LevelSetTeleport(steps=3), lr=0.05, steps=2, resolution=5)
    assert len(figure.axes) == 2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    landscape, params = landscape_of((model, *setting[1:]))
    points = nn.utils.parameters_to_vector(model.parameters()).detach() + torch.tensor([[0.0], [0.1]])
    for point, found in zip(points, losses(landscape, params, points), strict=True):
        nn.utils.vector_to_parameters(point, model.parameters())
        assert float(found) == pytest.approx(float(setting[2](model(setting[1][0]), setting[1][1]).detach()))


def test_a_random_forward_pass_is_refused(setting):
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1)).double()
    with pytest.raises(ConfigError, match=r"draw_orbit needs a deterministic loss.*network\.eval"):
        draw_orbit(model, *setting[1:])


def test_a_network_without_a_symmetry_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1))
    x = torch.randn(4, 2)
    with pytest.raises(SymmetryError, match="no symmetry"):
        draw_orbit(model, (x, x[:, :1]), nn.functional.mse_loss)
