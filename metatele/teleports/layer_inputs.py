"""What the linear and convolutional layers of any network get as inputs on a batch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metatele.landscape import Landscape
from metatele.task.params import Params

Convolution = nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer, as matrices W [out, d], one for each group of channels.

    Attributes:
        module: the layer.
        weight, bias: the names of its parameters; a bias of None does not move.
    """

    module: nn.Module
    weight: str
    bias: str | None

    def inputs(self, x: Tensor) -> Tensor:
        """The rows h of inputs for which the layer computes W h, [groups, rows, d]."""
        h = x.reshape(1, -1, x.shape[-1]) if isinstance(self.module, nn.Linear) else _patches(self.module, x)
        return h if self.bias is None else torch.cat([h, torch.ones_like(h[..., :1])], -1)

    def project(self, slope: Mapping[str, Tensor], basis: Tensor) -> Params:
        """The part of the layer's own slope that is orthogonal to the basis [B, groups, d, k]."""
        weight = slope[self.weight]
        rows = weight.reshape(len(weight), basis.shape[1], -1, weight[0, 0].numel())
        if self.bias is not None:
            rows = torch.cat([rows, slope[self.bias].reshape(*rows.shape[:3], 1)], -1)
        for _ in range(2):  # the second time takes away what rounding left of a small result
            rows = rows - (rows @ basis) @ basis.mT
        rows = rows * free_directions(basis).sign().unsqueeze(-1).unsqueeze(-1)
        if self.bias is None:
            return {self.weight: rows.reshape(weight.shape)}
        moves = {self.weight: rows[..., :-1], self.bias: rows[..., -1]}
        return {k: m.reshape(slope[k].shape) for k, m in moves.items()}


def find_layers(network: nn.Module, params: Mapping[str, Tensor]) -> dict[str, Layer]:
    """The layers of a network whose weights are among the parameters and belong to no other module."""
    owners = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))

    def own(prefix: str, module: nn.Module, name: str) -> str | None:
        path, value = f"{prefix}.{name}" if prefix else name, getattr(module, name)
        return path if path in params and owners[id(value)] == 1 else None

    found = {}
    for prefix, module in network.named_modules():
        # A subclass with a forward of its own may compute anything.
        if any(isinstance(module, k) and type(module).forward is k.forward for k in (nn.Linear, nn.Conv1d, nn.Conv2d)):
            weight = own(prefix, module, "weight")
            if weight is not None:
                found[prefix] = Layer(module, weight, own(prefix, module, "bias"))
    return found


def layer_inputs(
    landscape: Landscape, params: Params, layers: Mapping[str, Layer]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """What each layer that is called gets on the batch.

    Returns: matrices [B, groups, k, d] with the same span of rows as all its inputs, k at most d; the
        numbers of its input rows.
    """
    counts: Counter[str] = Counter()

    def run(values: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def note(name: str, layer: Layer, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            h = layer.inputs(args[0] if args else kwargs["input"])
            counts[name] += h.shape[1]
            seen[name] = _triangle(torch.cat([seen[name], h], 1) if name in seen else h)

        handles = [
            layer.module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name, layer=layer: note(name, layer, args, kwargs), with_kwargs=True
            )
            for name, layer in layers.items()
        ]
        try:
            functional_call(landscape.network, dict(values), (x,))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    with torch.no_grad():
        if len(landscape.inputs) > 1:
            return vmap(run)({**landscape.constants, **params}, landscape.inputs), counts
        seen = run(landscape.values(params), landscape.inputs[0])
        return {k: h.unsqueeze(0) for k, h in seen.items()}, counts


def span(rows: Tensor, rtol: float) -> Tensor:
    """An orthonormal basis of the span of rows [..., k, d], as columns [..., d, min(k, d)].

    Columns for singular values of at most rtol times the largest are zero; so are all where the rows
    are not finite.
    """
    finite = rows.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    _, values, vectors = torch.linalg.svd(torch.where(finite, rows, torch.zeros_like(rows)), full_matrices=False)
    counted = values > rtol * values[..., :1]
    return vectors.mT * counted.unsqueeze(-2)


def free_directions(basis: Tensor) -> Tensor:
    """The dimension of the space that a basis [..., d, k] from `span` leaves out, [...]."""
    return basis.shape[-2] - basis.square().sum((-2, -1)).round()


def _triangle(rows: Tensor) -> Tensor:
    """At most d rows with the same singular values and right singular vectors as rows [..., n, d]."""
    return torch.linalg.qr(rows, mode="r")[1] if rows.shape[-2] > rows.shape[-1] else rows


def _patches(module: nn.Module, x: Tensor) -> Tensor:
    """The patches that a convolution multiplies with its weight, [groups, n * positions, d]."""
    assert isinstance(module, Convolution)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if x.dim() == len(kernel) + 1:
        x = x.unsqueeze(0)
    if any(module._reversed_padding_repeated_twice):  # what the layer's own forward pads with
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    if len(kernel) == 1:
        x, kernel, stride, dilation = x.unsqueeze(-2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)  # [n, channels * kernel, positions]
    split = columns.reshape(len(columns), module.groups, -1, columns.shape[-1])
    return split.permute(1, 0, 3, 2).flatten(1, 2)
