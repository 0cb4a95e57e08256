"""The losses of B networks as functions of their parameters, and a point of that landscape."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from metatele.errors import ConfigError
from metatele.symmetry import ProductGroup, as_group
from metatele.task.params import Params
from metatele.task.stack import over_tasks, stacked_forward

LEAST_NORM = 1e-30  # under the root of a norm
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Landscape:
    """The loss of each of B networks on a batch of its own, as a function of all their parameters.

    Attributes:
        network: the network for one task; its own parameter values are not used.
        loss_function: (predictions [n, ...], targets [n, ...]) of one task -> scalar.
        inputs, targets: the batch, [B, n, ...].
        group: the group whose orbits an objective may look along (a list of symmetries will do, as
            `symmetries_of` gives them); empty if none is known.
        constants: frozen parameters and buffers that differ from network to network, {name: [B, ...]}.
    """

    network: nn.Module
    loss_function: LossFunction
    inputs: Tensor
    targets: Tensor
    group: ProductGroup = field(default_factory=ProductGroup)
    constants: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.group, ProductGroup):
            object.__setattr__(self, "group", as_group(self.group))

    def predict(self, params: Mapping[str, Tensor]) -> Tensor:
        """Predictions [B, n, ...] for parameters {name: [B, ...]}."""
        if len(self.inputs) > 1:
            return stacked_forward(self.network, params, self.inputs, self.constants)
        # One network runs as it is, so that it may hold what vmap cannot batch.
        outputs = functional_call(self.network, self.values(params), (self.inputs[0],))
        return tree_map(lambda t: t.unsqueeze(0), outputs)

    def values(self, params: Mapping[str, Tensor]) -> Params:
        """The parameters and buffers of the first network; what its forward writes into buffers goes into copies."""
        buffers = {k: b.clone() for k, b in self.network.named_buffers()}
        return buffers | {k: p[0].clone() for k, p in self.constants.items()} | {k: p[0] for k, p in params.items()}

    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        """Loss of each task, [B]."""
        predictions = self.predict(params)
        if len(self.inputs) > 1:
            kind = getattr(self.loss_function, "__func__", self.loss_function)
            return over_tasks(self.loss_function, kind, predictions, self.targets)
        loss = self.loss_function(tree_map(lambda t: t[0], predictions), self.targets[0])
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"the loss function must return a tensor with one number, got {got}")
        return loss.reshape(1)

    def gradient(self, params: Mapping[str, Tensor], create_graph: bool = False) -> Params:
        """Gradient of each task's loss with respect to its own parameters, {name: [B, ...]}.

        Parameters that the loss does not depend on have a gradient of zeros.

        Raises: ConfigError if it depends on none.
        """
        with torch.enable_grad():
            # Views, because one moved parameter may depend on another and the gradient is the partial one.
            own = {k: (p if p.requires_grad else p.detach().requires_grad_()).view_as(p) for k, p in params.items()}
            loss = self.loss(own).sum()
            if not loss.requires_grad:
                raise ConfigError(
                    "the loss does not depend on the parameters, or not by operations that autograd follows"
                )
            grads = torch.autograd.grad(loss, list(own.values()), create_graph=create_graph, materialize_grads=True)
        return dict(zip(own, grads, strict=True))


class Place:
    """A point of a landscape, as an objective sees it.

    Attributes:
        landscape: the landscape.
        params: the parameters, {name: [B, ...]}.
    """

    def __init__(self, landscape: Landscape, params: Mapping[str, Tensor]) -> None:
        self.landscape, self.params = landscape, dict(params)

    @cached_property
    def loss(self) -> Tensor:
        """Loss of each task, [B]."""
        return self.landscape.loss(self.params)

    @cached_property
    def gradient(self) -> Params:
        """Gradient of each task's loss, {name: [B, ...]}; itself differentiable."""
        return self.landscape.gradient(self.params, create_graph=True)

    @cached_property
    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the gradient over all parameters of each task, [B]; differentiable, also at 0."""
        return smooth_task_norm(self.gradient)


def smooth_task_norm(params: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm over all parameters of each task, [B], with a derivative at zero."""
    squares = [p.reshape(len(p), -1).square().sum(1) for p in params.values()]
    return (torch.stack(squares).sum(0) + LEAST_NORM).sqrt()


class Objective(abc.ABC):
    """What a teleport climbs or descends. A plain function of the same form is accepted wherever one is.

    Attributes:
        needs_group: whether it looks along the landscape's group.
    """

    needs_group: bool = False

    @abc.abstractmethod
    def __call__(self, place: Place) -> Tensor:
        """One number for each task, [B], differentiable in the place's parameters."""


ObjectiveFunction = Callable[[Place], Tensor]
