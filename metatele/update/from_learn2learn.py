"""Two learned updates without teleports, made of learn2learn's classes, on stacked tasks."""

import abc
import contextlib
import importlib
import io
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap

from metatele.errors import CheckpointError, ConfigError
from metatele.parts.dense_rule import Shapes
from metatele.parts.point import Point, State
from metatele.support.checks import above_zero, at_least, one_of
from metatele.support.messages import first_line
from metatele.symmetry import ProductGroup
from metatele.task.params import Params
from metatele.update.base import Update

Transform = Literal["kronecker", "meta_curvature", "linear"]
MOST_LINEAR = 10_000  # coordinates of one tensor; the matrix of that square has 400 MB


class Preconditioner(Update):
    """What the two share: f = -A gradient with a learned A of one network's size, for all tasks alike.

    A comes as one of learn2learn's containers, with an entry for each parameter tensor of the network.

    Args:
        lr: a fresh A is lr times the identity, so that a fresh update is gradient descent.
    Raises: ConfigError without learn2learn.
    """

    learned_parts: Any

    def __init__(self, lr: float) -> None:
        super().__init__()
        above_zero(lr=lr)
        import_learn2learn()  # to fail now, not after the tasks are made
        self.lr = lr
        self.shapes: dict[str, list[int]] | None = None

    @abc.abstractmethod
    def make(self, model: nn.Module) -> nn.Module:
        """learn2learn's container for the parameters of a model, in their order, as it is before learning."""

    @abc.abstractmethod
    def precondition(self, part: Any, gradient: Tensor) -> Tensor:
        """Apply one entry of the container to the gradients [B, ...] of its parameter."""

    def build(self, shapes: Shapes | None) -> None:
        """Make A for the shapes of one task's parameters; nothing is made yet if they are None."""
        if shapes is not None:
            self.shapes = {k: list(s) for k, s in shapes.items()}
            self.learned_parts = self._fresh()

    def bind(self, params: Params, group: ProductGroup) -> None:
        found = {k: list(p.shape[1:]) for k, p in params.items()}
        if self.shapes is None:
            self.build(found)
        elif list(self.shapes.items()) != list(found.items()):
            raise CheckpointError(
                f"this {type(self).__name__} was made for a network with parameters {self.shapes} and cannot run on "
                f"{found}; use a size-free optimizer (CoordinateUpdate) or meta-train on this size"
            )

    def initialise(self) -> None:
        if self.shapes is not None:
            self.learned_parts.load_state_dict(self._fresh().state_dict())

    def start(self, params: Params) -> State:
        return State()

    def propose(self, point: Point, state: State) -> tuple[Params, State]:
        pairs = zip(self.learned_parts, point.gradient.items(), strict=True)
        return {name: -self.precondition(part, g) for part, (name, g) in pairs}, state

    def _fresh(self) -> nn.Module:
        """The container for the known shapes."""
        assert self.shapes is not None
        for name, shape in self.shapes.items():
            for size in shape:
                at_least(0, **{f"shapes of {name}": size})
        return self.make(nn.ParameterList(torch.zeros(shape) for shape in self.shapes.values()))


class MetaSGD(Preconditioner):
    """Meta-SGD: f = -lrs * gradient, with a learned step size for each coordinate of the network.

    The step sizes are those of `learn2learn.algorithms.MetaSGD`. They may become negative.

    Args:
        lr: the initial value of all step sizes.
        shapes: shapes of one task's parameters; taken from the first network when None.
    Raises: ConfigError without learn2learn.
    Source: Li et al. 2017, arXiv:1707.09835.
    """

    def __init__(self, lr: float = 0.01, shapes: Shapes | None = None) -> None:
        super().__init__(lr)
        self.build(shapes)

    def make(self, model: nn.Module) -> nn.Module:
        lrs: nn.Module = import_learn2learn().algorithms.MetaSGD(model, lr=self.lr).lrs
        return lrs

    def precondition(self, part: Any, gradient: Tensor) -> Tensor:
        """Step sizes [...] times gradients [B, ...]."""
        step: Tensor = part * gradient
        return step


class LearnableTransform(Preconditioner):
    """f = -lr * transform(gradient), with a learned transform for each parameter tensor.

    The transforms are those that `learn2learn.optim.LearnableOptimizer` makes, started at the identity:

    - kronecker: L'L G R'R for the gradient G of a matrix (a vector counts as a column), which is never
      uphill (Arnold et al. 2019, arXiv:1910.13603).
    - meta_curvature: M G N for a matrix, an element-wise factor for a vector (Park and Oliva 2019, arXiv:1902.03356).
    - linear: a full matrix and a bias on all coordinates of the tensor; learn2learn starts it at random.

    Args:
        transform: which one. The first two take tensors of 1, 2 or 4 dimensions, the last those of up to 10000
            coordinates.
        lr: step size of a fresh one, not learned itself.
        shapes: shapes of one task's parameters; taken from the first network when None.
    Raises: ConfigError without learn2learn, or for a network with other tensors.
    """

    def __init__(self, transform: Transform = "kronecker", lr: float = 0.01, shapes: Shapes | None = None) -> None:
        super().__init__(lr)
        one_of(get_args(Transform), transform=transform)
        self.transform = transform
        self.build(shapes)

    def make(self, model: nn.Module) -> nn.Module:
        learn2learn = import_learn2learn()
        for p in model.parameters():
            if self.transform == "linear" and p.numel() > MOST_LINEAR:
                raise ConfigError(
                    f"transform 'linear' takes tensors of at most {MOST_LINEAR} coordinates, and the network has "
                    f"one of {tuple(p.shape)}; use 'kronecker' or 'meta_curvature'"
                )
            if self.transform != "linear" and p.dim() not in (1, 2, 4):
                raise ConfigError(
                    f"transform {self.transform!r} takes tensors of 1, 2 or 4 dimensions, and the network has one of "
                    f"{tuple(p.shape)}; use 'linear'"
                )
        make = {
            "kronecker": learn2learn.optim.KroneckerTransform(learn2learn.nn.KroneckerLinear),
            "meta_curvature": learn2learn.optim.MetaCurvatureTransform,
            "linear": learn2learn.optim.ModuleTransform(_identity_map),
        }[self.transform]
        transforms: nn.Module = learn2learn.optim.LearnableOptimizer(model, make, lr=self.lr).transforms
        return transforms

    def precondition(self, part: Any, gradient: Tensor) -> Tensor:
        """lr times the transform of each task's gradient, [B, ...]."""
        # learn2learn views each gradient in another shape, for which it must be contiguous.
        return self.lr * vmap(part)(gradient.contiguous())


def _identity_map(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts as the identity; nothing is drawn."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, device=torch.get_default_device())
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def import_learn2learn() -> Any:
    """The package learn2learn, imported without the notices that it and gym print.

    Raises: ConfigError if that fails.
    """
    quiet = io.StringIO()
    # A checkpoint is built with everything on the meta device; what a package makes for itself is not.
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), torch.device("cpu"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module("learn2learn")
        except Exception as error:  # also what a torchvision for another torch raises
            raise ConfigError(
                f"this needs learn2learn, which cannot be imported ({first_line(error)}); install it with: "
                "pip install -r requirements.txt"
            ) from error
