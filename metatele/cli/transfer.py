"""Other tasks to evaluate the same contestants on: the cells of a transfer grid."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from metatele.errors import ConfigError
from metatele.support.checks import at_least

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Variant:
    """How a cell of the grid differs from the evaluation itself.

    Args:
        class_path: another task family; the evaluation's own by default.
        init_args: its arguments; those of the evaluation's own family that are not named stay.
        steps, tasks: other numbers of steps and tasks.
    """

    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    tasks: int | None = None

    @staticmethod
    def of(name: str, given: Mapping[str, Any] | None) -> "Variant":
        """From what a configuration says under a name. Raises: ConfigError."""
        given, known = given or {}, [f.name for f in fields(Variant)]
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ConfigError(f"transfer.{name}: unknown key {unknown[0]!r}; use {', '.join(known)}")
        variant = Variant(**given)
        if not isinstance(variant.class_path, str | None):
            raise ConfigError(f"transfer.{name}.class_path must be a string, got {variant.class_path!r}")
        if not isinstance(variant.init_args, Mapping):
            raise ConfigError(f"transfer.{name}.init_args must be arguments by name, got {variant.init_args!r}")
        return variant


@dataclass(frozen=True)
class Variation:
    """One evaluation of the grid.

    Attributes:
        name: what reports call it.
        family: class path and arguments.
        steps, tasks: see `metatele.evaluate`.
    """

    name: str
    family: dict[str, Any]
    steps: int
    tasks: int


def base_variant(family: dict[str, Any], steps: int, tasks: int) -> Variation:
    """The evaluation itself, as a cell."""
    return Variation(AS_IT_IS, family, steps, tasks)


def variants_of(base: Variation, transfer: Mapping[str, Variant]) -> dict[str, Variation]:
    """All cells by name, the evaluation itself first.

    Raises: ConfigError if two cells share a name or a folder, or if a number of steps or tasks is impossible.
    """
    cells = {base.name: base}
    for name, variant in transfer.items():
        own = variant.class_path in (None, base.family["class_path"], base.family["class_path"].rpartition(".")[2])
        kept = base.family["init_args"] if own else {}
        family = {
            "class_path": base.family["class_path"] if own else variant.class_path,
            "init_args": {**kept, **variant.init_args},
        }
        if folder_name(name) in map(folder_name, cells):
            raise ConfigError(f"the transfer {name!r} has the name, or the folder, of another one; choose another name")
        steps = base.steps if variant.steps is None else variant.steps
        tasks = base.tasks if variant.tasks is None else variant.tasks
        at_least(1, **{f"transfer.{name}.steps": steps, f"transfer.{name}.tasks": tasks})
        cells[name] = Variation(name, family, steps, tasks)
    return cells


def folder_name(name: str) -> str:
    """A name as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100] or "variant"
