"""Differentiable trajectories of the inner loop, and the engines that play them."""

from metatele.unroll.engine import Engine, EngineName, MakeEngine, engine_maker
from metatele.unroll.higher.unroll import Unroll
from metatele.unroll.trajectory import Outcome, Position, Score, Scored, Window

__all__ = [
    "Engine",
    "EngineName",
    "MakeEngine",
    "Outcome",
    "Position",
    "Score",
    "Scored",
    "Unroll",
    "Window",
    "engine_maker",
]
