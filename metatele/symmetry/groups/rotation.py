"""Rotations of the plane after a change of coordinates, for test functions of two variables."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metatele.symmetry.base import Symmetry
from metatele.task.params import Params

PlaneMap = Callable[[Tensor], Tensor]


class PlaneRotation(Symmetry):
    """SO(2) for a loss L(w) = u^2 + v^2 in coordinates (u, v) of the plane.

    w <- uv^-1(R(g) uv(w)) with R(g) the rotation by the angle g;  exact. T = g, [B, 1]; exp is the
    identity map (of the universal cover: angles are not taken modulo 2 pi), composition is +.
    Source: Zhao et al. 2022, arXiv:2205.10637, appendix on test functions.

    Args:
        to_uv: w [..., 2] -> (u, v) [..., 2], differentiable and one to one.
        from_uv: its inverse.
        parameter: name of w, [B, 2].
        name: what errors call the group.
    """

    def __init__(self, to_uv: PlaneMap, from_uv: PlaneMap, parameter: str = "w", name: str | None = None) -> None:
        self.to_uv, self.from_uv, self.parameter = to_uv, from_uv, parameter
        self._name = name or f"the plane of '{parameter}'"

    @classmethod
    def booth(cls, parameter: str = "w") -> "PlaneRotation":
        """(u, v) = (x + 2 y - 7, 2 x + y - 5), the coordinates of Booth's function."""
        return cls(_booth_to_uv, _booth_from_uv, parameter, f"Booth's function of '{parameter}'")

    @classmethod
    def rosenbrock(cls, parameter: str = "w") -> "PlaneRotation":
        """(u, v) = (10 (x^2 - y), x - 1), the coordinates of Rosenbrock's function."""
        return cls(_rosenbrock_to_uv, _rosenbrock_from_uv, parameter, f"Rosenbrock's function of '{parameter}'")

    @property
    def name(self) -> str:
        return self._name

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (1,)

    def exp(self, algebra: Tensor) -> Tensor:
        return algebra

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g + h

    def inverse(self, g: Tensor) -> Tensor:
        return -g

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        u, v = self.to_uv(params[self.parameter]).unbind(-1)
        cos, sin = g[:, 0].cos(), g[:, 0].sin()
        rotated = torch.stack([cos * u - sin * v, sin * u + cos * v], dim=-1)
        return {**params, self.parameter: self.from_uv(rotated)}


def _booth_to_uv(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return torch.stack([x + 2 * y - 7, 2 * x + y - 5], dim=-1)


def _booth_from_uv(uv: Tensor) -> Tensor:
    a, b = uv[..., 0] + 7, uv[..., 1] + 5
    return torch.stack([(2 * b - a) / 3, (2 * a - b) / 3], dim=-1)


def _rosenbrock_to_uv(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return torch.stack([10 * (x.square() - y), x - 1], dim=-1)


def _rosenbrock_from_uv(uv: Tensor) -> Tensor:
    x = uv[..., 1] + 1
    return torch.stack([x, x.square() - uv[..., 0] / 10], dim=-1)
