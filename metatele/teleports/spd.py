"""Roots of symmetric positive definite matrices, stacked, and differentiable to any order."""

from typing import Any

import torch
from torch import Tensor


class _Root(torch.autograd.Function):
    """X = A^(1/2). Its differential solves X dX + dX X = dA, which stays finite where eigenvalues of A
    coincide; the eigenvectors' own derivatives do not."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return _Lyapunov.apply(root, grads[0])


class _Lyapunov(torch.autograd.Function):
    """The Y with X Y + Y X = R, for a positive definite X."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, right: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        solution = vectors @ ((vectors.mT @ right @ vectors) / sums) @ vectors.mT
        ctx.save_for_backward(matrix, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        matrix, solution = ctx.saved_tensors
        back = _Lyapunov.apply(matrix, grads[0])
        return -(back @ solution.mT + solution.mT @ back), back


def spd_root(matrix: Tensor) -> Tensor:
    """A^(1/2) of symmetric positive definite matrices [B, h, h]; NaN, without a gradient, where one
    is not, so that one task's bad matrix is that task's outcome and not everybody's error."""
    good = matrix.detach().flatten(1).isfinite().all(1).reshape(-1, 1, 1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root = _Root.apply(torch.where(good, 0.5 * (matrix + matrix.mT), one))
    return torch.where(good, root, torch.nan)
