"""Pictures of teleports."""

from metatele.pictures.orbit import draw_orbit

__all__ = ["draw_orbit"]
