"""The stacked LSTM cells that every learned part is made of, as a module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from metatele.errors import ConfigError
from metatele.support.checks import at_least
from metatele.support.seeding import seeded

MOST_HIDDEN, MOST_LAYERS = 65536, 64  # far above any sensible size; a hostile checkpoint stops here


class CorePlayer(Protocol):
    """Computes a core's steps instead of the core itself (see `RecurrentCore.played_by`)."""

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `RecurrentCore.forward` gives, to rounding."""


class RecurrentCore(nn.Module):
    """LSTM cells on top of each other with a linear head: one step of a learned rule.

    Args:
        inputs: number of input features.
        hidden: hidden size of each cell.
        layers: number of cells.
        outputs: number of outputs.
        head_scale: factor on the head's initial weights, so that a fresh rule starts near zero.
    Raises: ConfigError if hidden or layers is out of range.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int, head_scale: float = 1.0) -> None:
        super().__init__()
        check_size(hidden, layers)
        sizes = [inputs] + [hidden] * (layers - 1)
        with seeded(0):  # equal sizes give equal fresh weights; meta-training draws its own from its seed
            self.cells = nn.ModuleList(nn.LSTMCell(size, hidden) for size in sizes)
            self.head = nn.Linear(hidden, outputs)
        self.hidden, self.head_scale = hidden, head_scale
        self._player: CorePlayer | None = None
        self.reset_head()

    def reset_head(self) -> None:
        """Scale the head's fresh weights and clear its bias."""
        self.head.weight.data.mul_(self.head_scale)
        self.head.bias.data.zero_()

    def initialise(self) -> None:
        """Draw all weights anew from torch's global generator."""
        for cell in self.cells:
            assert isinstance(cell, nn.LSTMCell)
            cell.reset_parameters()
        self.head.reset_parameters()
        self.reset_head()

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        """The memory before the first step: (h, c) of every cell, each [rows, hidden], zero."""
        return tuple(like.new_zeros(rows, self.hidden) for _ in range(2 * len(self.cells)))

    def forward(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features [rows, inputs] and memory to outputs [rows, outputs] and the next memory."""
        return self.plain(features, memory) if self._player is None else self._player.step(features, memory)

    def plain(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `forward` gives, by torch's own cells, also inside `played_by`."""
        after: list[Tensor] = []
        for i, cell in enumerate(self.lstm_cells):
            weights = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
            features, c = torch.lstm_cell(features, memory[2 * i : 2 * i + 2], *weights)
            after += [features, c]
        return nn.functional.linear(features, self.head.weight, self.head.bias), tuple(after)

    @property
    def lstm_cells(self) -> list[nn.LSTMCell]:
        """The cells, from the features up."""
        return [cell for cell in self.cells if isinstance(cell, nn.LSTMCell)]

    @contextmanager
    def played_by(self, player: CorePlayer) -> Iterator[None]:
        """Inside, the player computes `forward`."""
        before, self._player = self._player, player
        try:
            yield
        finally:
            self._player = before


def check_size(hidden: int, layers: int) -> None:
    """Raises: ConfigError unless 1 <= hidden <= MOST_HIDDEN and 1 <= layers <= MOST_LAYERS."""
    at_least(1, hidden=hidden, layers=layers)
    if hidden > MOST_HIDDEN or layers > MOST_LAYERS:
        raise ConfigError(
            f"hidden must be at most {MOST_HIDDEN} and layers at most {MOST_LAYERS}, "
            f"got hidden={hidden}, layers={layers}"
        )
