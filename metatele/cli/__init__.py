"""The commands of metatele: meta-train, evaluate, report, compare, experiment."""

from metatele.cli.main import main

__all__ = ["main"]
