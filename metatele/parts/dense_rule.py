"""An LSTM over the flattened gradient of a whole network: the paper's design, tied to one size."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metatele.errors import CheckpointError
from metatele.recurrent import RecurrentCore, check_size
from metatele.support.checks import at_least, one_of
from metatele.task.params import Params, flatten, smooth_norm

Inputs = Literal["raw", "normalised"]
Shapes = Mapping[str, Sequence[int]]


def gradient_features(gradient: Params, inputs: Inputs) -> Tensor:
    """What the LSTM sees of a gradient with n entries.

    raw: the flattened gradient, [B, n], as in the paper. normalised: its direction, scaled to unit
    mean square, and log(norm) / 5 as one more column, [B, n + 1].
    """
    flat = flatten(gradient)
    if inputs == "raw":
        return flat
    norm = smooth_norm(flat, 1).unsqueeze(1)
    return torch.cat([flat / norm * flat.shape[1] ** 0.5, norm.log() / 5], dim=1)


class DenseRule(nn.Module):
    """The LSTM, made when the shapes of the network's parameters are known.

    Args:
        hidden, layers: size of the LSTM.
        inputs: see `gradient_features`.
        shapes: shapes of one task's parameters, or None to take them from the first network.
        head_scale: factor on the initial weights of the output layer.
    """

    core: RecurrentCore

    def __init__(
        self, hidden: int, layers: int, inputs: Inputs, shapes: Shapes | None, head_scale: float = 1.0
    ) -> None:
        super().__init__()
        check_size(hidden, layers)
        one_of(get_args(Inputs), inputs=inputs)
        self.hidden, self.layers, self.inputs, self.head_scale = hidden, layers, inputs, head_scale
        for name, shape in (shapes or {}).items():
            for size in shape:
                at_least(0, **{f"shapes of {name}": size})
        self.shapes = None if shapes is None else {k: list(s) for k, s in shapes.items()}

    @property
    def size(self) -> int:
        """Number n of parameters of one network."""
        assert self.shapes is not None
        return sum(torch.Size(s).numel() for s in self.shapes.values())

    def build(self, outputs: int) -> None:
        """Make the LSTM for the known shapes."""
        columns = self.size + (self.inputs == "normalised")
        core = RecurrentCore(columns, self.hidden, self.layers, outputs, self.head_scale)
        self.core = core.float()  # as all learned weights are, whatever torch's default

    def fit(self, params: Params) -> bool:
        """Take over a network's shapes if none are known yet.

        Returns: whether they were taken over.
        Raises: CheckpointError if the LSTM was made for other shapes.
        """
        found = {k: list(p.shape[1:]) for k, p in params.items()}
        if self.shapes is None:
            self.shapes = found
            return True
        if list(self.shapes.items()) != list(found.items()):
            raise CheckpointError(
                f"this dense optimizer was made for a network with parameters {self.shapes} and cannot run on "
                f"{found}; use a size-free optimizer (CoordinateUpdate, NeuronTeleport) or meta-train on this size"
            )
        return False

    def start(self, params: Params) -> tuple[Tensor, ...]:
        """The LSTM's memory before the first step."""
        first = next(iter(params.values()))
        return self.core.start(len(first), first)

    def forward(self, gradient: Params, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs [B, outputs] and the next memory."""
        return self.core(gradient_features(gradient, self.inputs), memory)
