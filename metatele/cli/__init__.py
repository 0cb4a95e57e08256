"""The commands: metatele meta-train, metatele evaluate, metatele compare."""

from metatele.cli.main import main

__all__ = ["main"]
