"""Digests of tensors: equal for equal names, types, shapes and bits."""

from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The SHA-256 of named tensors, whatever their order and device, and of a text before them."""
    digest = sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
