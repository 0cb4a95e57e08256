"""Properties of a layer that the rules use.

A = W_in W_in^T + b b^T and C = W_out^T W_out are the Gram matrices of a layer, Z [h, n] its pre-activations on the
batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from metatele.errors import SymmetryError
from metatele.symmetry import HiddenLayer

DEAD = 1e-30  # under the root of a mean square: a derivative where a neuron is dead


def inflow(layer: HiddenLayer, params: Mapping[str, Tensor]) -> int:
    """The number of a layer's inputs, of which a bias is one."""
    return params[layer.weight_in].shape[2] + (layer.bias_in is not None)


def incoming_gram(layer: HiddenLayer, params: Mapping[str, Tensor], rule: str) -> Tensor:
    """A = W_in W_in^T + b b^T, [B, h, h].

    Raises: SymmetryError if the layer has more neurons than inputs, so that A is singular.
    """
    inputs = inflow(layer, params)
    if inputs < layer.width:
        raise SymmetryError(
            f"{layer.name}: {rule} of GL(h) needs at least as many inputs (with the bias) as neurons, got {inputs} "
            f"inputs and {layer.width} neurons; set its symmetry to 'scaling'"
        )
    incoming = params[layer.weight_in] @ params[layer.weight_in].mT
    if layer.bias_in is not None:
        bias = params[layer.bias_in].unsqueeze(2)
        incoming = incoming + bias @ bias.mT
    return incoming


def eye_like(like: Tensor) -> Tensor:
    """Identity matrices [B, h, h] for a tensor [B, h, ...]."""
    eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    return eye.expand(len(like), *eye.shape)


def or_one(size: Tensor, scale: Tensor) -> Tensor:
    """The scale, or 1 for neurons whose size is nearly 0."""
    return torch.where(size < 1e-24, torch.ones_like(scale), scale)
