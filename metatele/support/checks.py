"""Checks of settings, with one wording for all of them."""

from numbers import Real

from metatele.errors import ConfigError

LARGEST = 1e30  # beyond it no setting makes sense, and arithmetic with it overflows


def is_number(value: object) -> bool:
    """Whether a value is a real number and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def at_least(lowest: int, **values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not a whole number of at least `lowest`."""
    for name, value in values.items():
        if not (isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= LARGEST):
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


def one_of(allowed: tuple[str, ...], **values: object) -> None:
    """Raises: ConfigError, with its name, for a value that is not among the allowed ones."""
    for name, value in values.items():
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
