"""How windows play the learned rules' cores: many rows in blocks, and weight gradients of large cores once a window."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from metatele.recurrent import RecurrentCore
from metatele.recurrent.cells import Factors, SmallCells, TappedCells, WeightRows, is_small, taps_of
from metatele.recurrent.eager import Eager

CACHE = 2**20  # bytes: what a processor core has close at hand
WORTH_A_BLOCK = 256  # rows worth a call of their own, however large the cell


class BlockedCells(SmallCells):
    """A small core on very many rows: some at a time, so that their gates stay in a processor core's cache. Steps with
    few rows are left to torch's own cells.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        super().__init__(core, Eager())
        self._joints: list[Tensor] = []

    def joints(self) -> list[Tensor]:
        """See `SmallCells.joints`; computed once per window."""
        if not self._joints:
            with torch.enable_grad():  # whatever this step needs, the next one may need a graph
                self._joints = super().joints()
        return self._joints

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `RecurrentCore.forward` gives, to rounding."""
        if len(features) < WORTH_A_BLOCK or features.device.type != "cpu":
            return self.core.plain(features, memory)
        rows = max(CACHE // (4 * self.core.hidden * features.element_size()), WORTH_A_BLOCK) * torch.get_num_threads()
        if len(features) <= rows:
            return super().step(features, memory)
        blocks = zip(features.split(rows), *(m.split(rows) for m in memory), strict=True)
        outputs, after = zip(*(super(BlockedCells, self).step(f, tuple(m)) for f, *m in blocks), strict=True)
        return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(*after, strict=True))


class TappingCells:
    """A large core, whose weight gradients are computed once per window, from what its steps record.

    A product at every step would write and add up the gradient of all weights each time: the five million numbers of
    the paper's LSTMs, for as few as one row.

    Args:
        core: the core.
    """

    def __init__(self, core: RecurrentCore) -> None:
        self.core, self.calls = core, list[TappedCells]()
        self._factors = Factors.of(core)

    def step(self, features: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `RecurrentCore.forward` gives, to rounding."""
        taps = taps_of(self.core, len(features))
        if torch.is_grad_enabled():
            taps = [tap.detach().requires_grad_() for tap in taps]
        cells = TappedCells(self._factors, taps, Eager())
        if torch.is_grad_enabled():
            self.calls.append(cells)
        return cells.step(features, memory)


class Taps:
    """The taps of all large cores in a window.

    Args:
        cores: what plays them.
    """

    def __init__(self, cores: list[TappingCells]) -> None:
        self._cores = cores

    def leaves(self) -> list[Tensor]:
        """The taps, of which gradients are to be asked once the window has been played."""
        return [tap for core in self._cores for call in core.calls for tap in call.taps]

    def gradients(self, slopes: Sequence[Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
        """(weight, its gradient) of the cores' weights, from the gradients of `leaves`."""
        left = iter(slopes)
        for core in self._cores:
            rows = WeightRows(core.core)
            for call in core.calls:
                rows.add([next(left) for _ in call.taps], call.seen, call.taps)
            yield from rows.gradients()


def _is_trained(core: RecurrentCore) -> bool:
    return any(p.requires_grad for p in core.parameters())


@contextmanager
def cores_played(inner: nn.Module, tapped: bool = False) -> Iterator[Taps]:
    """Inside, the cores of an inner optimizer compute the same as before, to rounding, but faster. Use it for a single
    window, in which the learned weights do not change. What small cores compute cannot be differentiated twice.

    Args:
        inner: the inner optimizer.
        tapped: whether to make the weight gradients of large cores from taps; autograd then gives them none.
    """
    cores = [m for m in inner.modules() if isinstance(m, RecurrentCore)]
    tapping = [TappingCells(c) for c in cores if tapped and not is_small(c) and _is_trained(c)]
    players = [(c, BlockedCells(c)) for c in cores if is_small(c)] + [(t.core, t) for t in tapping]
    with ExitStack() as stack:
        for core, player in players:
            stack.enter_context(core.played_by(player))
        yield Taps(tapping)
