"""Differentiable trajectories of the inner loop, and the engines that play them."""

from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Outcome, Position, Window

__all__ = ["Outcome", "Position", "Unroll", "Window"]
