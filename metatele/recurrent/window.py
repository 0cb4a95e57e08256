"""A recurrent core for the length of one window, in which its weights stay as they are."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from metatele.recurrent import blocks
from metatele.recurrent.cell import Cell
from metatele.recurrent.gather import Gather, Shares
from metatele.recurrent.rows import RowsStep, StackedShares

AnyShares = TypeVar("AnyShares", bound=Shares)


class CoreWindow:
    """Plays the steps of a window with what suits the number of rows: blocks of many, or a few at once.

    Args:
        cells, head: the core's modules.
        steps: length of the window.
    """

    def __init__(self, cells: Iterable[nn.Module], head: nn.Linear, steps: int) -> None:
        self._steps = steps
        self._weights: list[Tensor] = []
        self._cells: list[Cell] = []
        for cell in cells:
            assert isinstance(cell, nn.LSTMCell)
            self._weights += [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
            self._cells.append(
                (cell.weight_ih.detach(), cell.weight_hh.detach(), (cell.bias_ih + cell.bias_hh).detach())
            )
        self._weights += [head.weight, head.bias]
        self._head = (head.weight.detach(), head.bias.detach())
        # With large weights the products take the time, not the gates.
        self._small = all(w.nbytes + u.nbytes <= blocks.LARGEST for w, u, _ in self._cells)
        self._rows: tuple[StackedShares, Tensor] | None = None
        self._blocks: tuple[blocks.SummedShares, Tensor] | None = None

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the cells and the head give, to rounding."""
        if len(features) >= blocks.FEWEST and self._small and features.device.type == "cpu":
            if self._blocks is None:
                self._blocks = self._begin(blocks.SummedShares(self._cells, self._head))
            block = blocks.block_size(self._head[0].shape[1], features) * torch.get_num_threads()
            out, *after = blocks.BlocksStep.apply(self._blocks[0], block, self._blocks[1], features, *memory)
        else:
            if self._rows is None:
                self._rows = self._begin(StackedShares(self._cells, self._head, self._steps))
            out, *after = RowsStep.apply(*self._rows, features, *memory)
        return out, tuple(after)

    def _begin(self, shares: AnyShares) -> tuple[AnyShares, Tensor]:
        shares.watch(self._weights)
        with torch.enable_grad():  # whatever this step needs, the next one may need a graph
            return shares, Gather.apply(shares, *self._weights)
