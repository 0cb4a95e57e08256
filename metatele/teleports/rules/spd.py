"""Roots of symmetric positive definite matrices, stacked, and differentiable to any order."""

from typing import Any

import torch
from torch import Tensor, nn


class _Root(torch.autograd.Function):
    """X = A^(1/2). Its differential solves X dX + dX X = dA, which stays finite where eigenvalues of A
    coincide; the eigenvectors' own derivatives do not."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        values = values.clamp_min(torch.finfo(values.dtype).tiny)  # rounding may take one below 0
        root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return _Lyapunov.apply(root, grads[0])


class _GramRoot(torch.autograd.Function):
    """X = (F^T F + delta)^(1/2) by the singular values of F, which are exact to rounding where F^T F
    has lost the small ones."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, delta: Tensor) -> Tensor:
        _, values, vectors = torch.linalg.svd(factor, full_matrices=True)
        squares = nn.functional.pad(values.square(), (0, factor.shape[-1] - values.shape[-1]))
        root = (vectors.mT * (squares + delta.unsqueeze(-1)).sqrt().unsqueeze(-2)) @ vectors
        ctx.save_for_backward(factor, root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        factor, root = ctx.saved_tensors
        back = _Lyapunov.apply(root, grads[0])
        return factor @ (back + back.mT), back.diagonal(dim1=-2, dim2=-1).sum(-1)


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
    is not, so that a bad matrix affects its own task only and is not an error for all."""
    finite = matrix.detach().isfinite().all(2, keepdim=True).all(1, keepdim=True)
    info = torch.linalg.cholesky_ex(torch.where(finite, matrix.detach(), 0.0))[1]
    good = finite & (info == 0).reshape(-1, 1, 1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root = _Root.apply(torch.where(good, 0.5 * (matrix + matrix.mT), one))
    return torch.where(good, root, torch.nan)


def gram_root(factor: Tensor, delta: Tensor) -> Tensor:
    """(F^T F + delta)^(1/2) for F [B, m, h] and delta [B] above 0; NaN, without a gradient, where one is
    not finite."""
    good = (factor.detach().flatten(1).isfinite().all(1) & (delta.detach() > 0)).reshape(-1, 1, 1)
    root = _GramRoot.apply(torch.where(good, factor, 0.0), torch.where(good.flatten(), delta, 1.0))
    return torch.where(good, root, torch.nan)
