"""Conformance checks for symmetries, updates, teleports and task families, also for your own.

Each check raises AssertionError with a message that names the broken law. All run in float64.
"""

from metatele.testing.families import ExampleFamily, check_task_family
from metatele.testing.laws import gradient_of
from metatele.testing.parts import check_teleport, check_update
from metatele.testing.symmetries import check_discrete_symmetry, check_symmetry

__all__ = [
    "ExampleFamily",
    "check_discrete_symmetry",
    "check_symmetry",
    "check_task_family",
    "check_teleport",
    "check_update",
    "gradient_of",
]
