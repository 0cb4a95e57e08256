"""A core's cells by operations that vmap can batch over the learned weights, which torch's own LSTM cells are not."""

import torch
from torch import Tensor

from metatele.recurrent.core import RecurrentCore


class VmappedCells:
    """Computes a core without a graph, inside vmap.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        self.core = core

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `RecurrentCore.forward` gives, to rounding."""
        x, after = features, list[Tensor]()
        for k, cell in enumerate(self.core.lstm_cells):
            h, c = memory[2 * k : 2 * k + 2]
            weight = torch.cat([cell.weight_ih, cell.weight_hh], 1)
            sums = torch.addmm(cell.bias_ih + cell.bias_hh, torch.cat([x, h], 1), weight.t())
            i, f, candidate, o = sums.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
            x = o.sigmoid() * c.tanh()
            after += [x, c]
        return self.core.head(x), tuple(after)
