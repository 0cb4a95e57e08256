"""Checks of settings, with one wording for all of them."""

from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from metatele.errors import ConfigError

LARGEST = 1e30  # beyond it no setting makes sense, and arithmetic with it overflows


def is_number(value: object) -> bool:
    """Whether a value is a real number and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain_numbers(value: Any) -> Any:
    """A setting with Python's numbers in the place of numpy's, also inside lists, tuples and mappings."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {k: plain_numbers(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain_numbers, value))
    return value


def make_plain(settings: object) -> None:
    """Let a dataclass, which may be frozen, hold Python's numbers only."""
    for field in fields(settings):  # type: ignore[arg-type]
        object.__setattr__(settings, field.name, plain_numbers(getattr(settings, field.name)))


def at_least(lowest: int, **values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not a whole number of at least `lowest`."""
    for name, value in values.items():
        if not (isinstance(value, Integral) and not isinstance(value, bool) and lowest <= int(value) <= LARGEST):
            raise ConfigError(f"{name} must be a whole number of at least {lowest}, got {value!r}")


def above_zero(**values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not above 0 and finite."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value <= LARGEST):  # type: ignore[operator]
            raise ConfigError(f"{name} must be above 0 and finite, got {value!r}")


def within(lowest: float, highest: float, **values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not in [lowest, highest)."""
    for name, value in values.items():
        if not (is_number(value) and lowest <= value < highest):  # type: ignore[operator]
            raise ConfigError(f"{name} must be in [{lowest}, {highest}), got {value!r}")


def yes_or_no(**values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")


def one_of(allowed: tuple[str, ...], **values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not among the allowed ones."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
