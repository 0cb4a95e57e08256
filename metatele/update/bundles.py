"""Small parameter tensors side by side, so that one call does to all of them what is done coordinate by coordinate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metatele.task.params import Params

SMALL = 2**14  # entries of all tasks up to which the call itself costs more than copying them does


class Bundles:
    """Which tensors of B tasks go together: the small ones of each dtype; a large one stays alone, as it is.

    Args:
        params: {name: [B, ...]}.
    """

    def __init__(self, params: Params) -> None:
        self.shapes = {name: p.shape for name, p in params.items()}
        small: dict[tuple[torch.dtype, torch.device], list[str]] = {}
        alone: list[list[str]] = []
        for name, p in params.items():
            if p.numel() > SMALL:
                alone.append([name])
            else:
                small.setdefault((p.dtype, p.device), []).append(name)
        self.names = [*small.values(), *alone]
        self.sizes = [[self.shapes[name][1:].numel() for name in names] for names in self.names]

    def together(self, params: Params) -> list[Tensor]:
        """Of each bundle its tensors as [B, entries]; a tensor alone as it is."""
        found = []
        for names, sizes in zip(self.names, self.sizes, strict=True):
            tensors = [params[name] for name in names]
            rows = [x.reshape(len(x), size) for x, size in zip(tensors, sizes, strict=True)]
            found.append(torch.cat(rows, 1) if len(names) > 1 else tensors[0])
        return found

    def apart(self, bundles: Sequence[Tensor]) -> Params:
        """The inverse of `together`, as views."""
        return {k: x.view(shape) for (k, shape), x in zip(self.shapes.items(), self.columns(bundles), strict=True)}

    def columns(self, bundles: Sequence[Tensor]) -> list[Tensor]:
        """Of each parameter tensor its columns of bundles [B, ..., entries], in the order of the parameters."""
        found: Params = {}
        for names, sizes, bundle in zip(self.names, self.sizes, bundles, strict=True):
            found |= zip(names, bundle.split(sizes, -1) if len(names) > 1 else [bundle], strict=True)
        return [found[name] for name in self.shapes]
