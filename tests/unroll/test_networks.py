"""Networks that are not quite what their layers say: frozen layers, buffers, hooks."""

import pytest
import torch
from torch import nn

from metatele import (
    Balance,
    CoordinateUpdate,
    DenseTeleport,
    DenseUpdate,
    GradientDescent,
    InnerOptimizer,
    NeuronTeleport,
    SymmetryError,
    TaskError,
    Unroll,
    sample_meta_batch,
)
from metatele.task.family import TaskFamily
from metatele.testing import ExampleFamily


class Frozen(ExampleFamily):
    """A deep network of which some layers are frozen."""

    def __init__(self, frozen: tuple[int, ...] = (0,), **arguments) -> None:
        super().__init__((3, 4, 4, 4, 2), (nn.ReLU(),) * 3, rows=6, **arguments)
        self.frozen = frozen

    def network(self) -> nn.Module:
        network = super().network()
        for i in self.frozen:
            network[i].requires_grad_(False)
        return network


class Projected(ExampleFamily):
    """Each task's network draws a buffer, of which one is not saved."""

    def network(self) -> nn.Module:
        class Features(nn.Sequential):
            def __init__(self, layers: nn.Sequential) -> None:
                super().__init__(*layers)
                self.register_buffer("kept", torch.randn(4, 4))
                self.register_buffer("lost", torch.randn(4), persistent=False)

            def forward(self, x):
                return super().forward(x @ self.kept + self.lost)

        return Features(super().network())


def end(inner: InnerOptimizer, family: TaskFamily, tasks=range(3), steps: int = 4):
    batch = sample_meta_batch(family, "train", tasks)
    play = Unroll(inner, batch, steps)
    return batch, play.window(play.start(), steps, differentiable=False).end.params


@pytest.mark.parametrize("update", [GradientDescent(0.1), CoordinateUpdate(hidden=3), DenseUpdate(hidden=3)])
def test_frozen_parameters_stay_each_tasks_own(update):
    batch, params = end(InnerOptimizer(update), Frozen((0, 4)))
    for name, p in batch.params.items():
        assert torch.equal(params[name], p) == name.startswith(("0.", "4."))
    assert not torch.equal(params["0.weight"][0], params["0.weight"][1])


def test_updates_and_teleports_do_not_see_frozen_parameters():
    seen = []

    class Watching(GradientDescent):
        def propose(self, point, state):
            seen.append(set(point.params))
            return super().propose(point, state)

    end(InnerOptimizer(Watching(0.1), Balance(last=None)), Frozen((0,)), steps=1)
    assert seen == [{"2.weight", "2.bias", "4.weight", "4.bias", "6.weight", "6.bias"}]


def test_groups_that_would_move_a_frozen_parameter_are_left_out():
    batch = sample_meta_batch(Frozen((0,)), "train", range(2))
    play = Unroll(InnerOptimizer(GradientDescent(0.1), NeuronTeleport(hidden=3)), batch, 2)
    assert [f.name for f in play.group.factors] == ["the hidden layer after '2'", "the hidden layer after '4'"]
    with pytest.raises(SymmetryError, match=r"would move a parameter that is frozen .*'2\.weight'"):
        end(InnerOptimizer(GradientDescent(0.1), Balance()), Frozen((2, 6)))
    with pytest.raises(SymmetryError, match=r"knows trained parameters only, and the network has '6\.weight'"):
        end(InnerOptimizer(GradientDescent(0.1), DenseTeleport(hidden=3, symmetry="pseudo_inverse")), Frozen((6,)))
    with pytest.raises(TaskError, match="nothing to train"):
        sample_meta_batch(Frozen((0, 2, 4, 6)), "train", range(2))


@pytest.mark.parametrize("family", [Projected(), Frozen((2,))], ids=["buffers", "frozen"])
def test_a_task_is_the_same_alone(family):
    inner = InnerOptimizer(CoordinateUpdate(hidden=3))
    _, together = end(inner, family)
    for i in range(3):
        _, alone = end(inner, family, [i])
        for name, p in alone.items():
            torch.testing.assert_close(p[0], together[name][i], rtol=1e-4, atol=1e-5)


def test_each_tasks_buffers_are_its_own():
    batch = sample_meta_batch(Projected(), "train", range(3))
    assert set(batch.buffers) == {"kept", "lost"}
    for buffer in batch.buffers.values():
        assert not torch.equal(buffer[0], buffer[1])


class Hooked(ExampleFamily):
    """A hook, or a forward that is written over, changes what a layer gives."""

    def __init__(self, how: str) -> None:
        super().__init__((3, 8, 2), (nn.ReLU(),), rows=16)
        self.how = how

    def network(self) -> nn.Module:
        network = super().network()
        if self.how == "hook":
            network[1].register_forward_hook(lambda module, inputs, out: out.clamp(max=0.3))
        elif self.how == "pre-hook":
            network[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.5,))
        elif self.how == "forward":
            network[1].forward = torch.tanh
        elif self.how == "declared":
            network[1] = nn.Tanh()
            found = ExampleFamily((3, 8, 2), (nn.ReLU(),)).network()
            network.symmetries = lambda: __import__("metatele").symmetries_of(found)
        elif self.how == "watching":
            network[1].register_forward_hook(lambda module, inputs, out: None)
        return network


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward", "declared"])
@pytest.mark.parametrize("teleport", [Balance(), NeuronTeleport(hidden=3)], ids=["rule", "learned"])
def test_a_network_that_is_not_what_its_layers_say_is_not_teleported(how, teleport):
    with pytest.raises(SymmetryError, match=r"Hooked.*change its loss, from .* to"):
        end(InnerOptimizer(GradientDescent(0.1), teleport), Hooked(how))
    end(InnerOptimizer(GradientDescent(0.1)), Hooked(how))


def test_hooks_that_only_watch_do_no_harm():
    end(InnerOptimizer(GradientDescent(0.1), Balance()), Hooked("watching"))
