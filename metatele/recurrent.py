"""The stacked LSTM cells that every learned part is made of."""

import torch
from torch import Tensor, nn

from metatele.checks import at_least
from metatele.errors import ConfigError
from metatele.seeding import seeded

MOST_HIDDEN, MOST_LAYERS = 65536, 64  # far above any sensible size; a hostile checkpoint stops here
CACHE = 2**20  # bytes: what a processor core has close at hand
FEWEST = 256  # rows worth a call of their own, however large the cell


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
        (rows, inputs), gates = features.shape, 4 * self.hidden
        block = max(CACHE // (gates * features.element_size()), FEWEST)
        # On wide inputs the multiplication takes the time, not the gates.
        if rows > block and inputs <= gates and features.device.type == "cpu" and not torch.is_grad_enabled():
            return self._in_blocks(features, memory, block * torch.get_num_threads())
        after: list[Tensor] = []
        for i, cell in enumerate(self.cells):
            features, c = cell(features, (memory[2 * i], memory[2 * i + 1]))
            after += [features, c]
        return self.head(features), tuple(after)

    def _in_blocks(self, features: Tensor, memory: tuple[Tensor, ...], block: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `forward` gives, to rounding, without a graph: some rows at a time, so that their gates stay in cache.

        All is computed transposed, [columns, rows], so that each gate is contiguous; views of that are returned.
        """
        rows, weights = len(features), [_joint_weights(cell) for cell in self.cells]
        out = features.new_empty(self.head.out_features, rows)
        after = [features.new_empty(self.hidden, rows) for _ in memory]
        space = features.new_empty(4 * self.hidden, min(block, rows))
        for begin in range(0, rows, block):
            here = slice(begin, min(begin + block, rows))
            x, gates = features[here].t(), space[:, : here.stop - begin]
            for i, weight in enumerate(weights):
                h, c = (m[here].t() for m in memory[2 * i : 2 * i + 2])
                torch.mm(weight, torch.cat([x, h, torch.ones_like(h[:1])]), out=gates)
                x, c_after = (m[:, here] for m in after[2 * i : 2 * i + 2])
                _advance(gates, c, x, c_after)
            torch.addmm(self.head.bias.unsqueeze(1), self.head.weight, x, out=out[:, here])
        return out.t(), tuple(m.t() for m in after)


def _joint_weights(cell: nn.Module) -> Tensor:
    """An LSTM cell's weights on (input, h, 1), [4 hidden, inputs + hidden + 1]: the candidate's rows come last."""
    assert isinstance(cell, nn.LSTMCell)
    bias = cell.bias_ih + cell.bias_hh
    joint = torch.cat([cell.weight_ih, cell.weight_hh, bias.unsqueeze(1)], dim=1)
    i, f, candidate, o = joint.chunk(4)
    return torch.cat([i, f, o, candidate])


def _advance(gates: Tensor, c: Tensor, h_after: Tensor, c_after: Tensor) -> None:
    """An LSTM cell's next h and c, [hidden, rows], from its gates [4 hidden, rows], which are overwritten."""
    i, f, o, candidate = gates.chunk(4)
    gates[: -len(candidate)].sigmoid_()
    torch.mul(f, c, out=c_after).addcmul_(i, candidate.tanh_())
    torch.tanh(c_after, out=h_after).mul_(o)


def check_size(hidden: int, layers: int) -> None:
    """Raises: ConfigError unless 1 <= hidden <= MOST_HIDDEN and 1 <= layers <= MOST_LAYERS."""
    at_least(1, hidden=hidden, layers=layers)
    if hidden > MOST_HIDDEN or layers > MOST_LAYERS:
        raise ConfigError(
            f"hidden must be at most {MOST_HIDDEN} and layers at most {MOST_LAYERS}, "
            f"got hidden={hidden}, layers={layers}"
        )
