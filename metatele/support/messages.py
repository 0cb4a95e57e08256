"""Errors and numbers as short text."""

import math

DASH = "-"  # stands for a missing number


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, that of a GPU, or torch's on a CPU."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def named_line(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def number(x: float, digits: int = 3) -> str:
    """x with `digits` significant digits, in few characters; a dash if it is not finite."""
    if not math.isfinite(x):
        return DASH
    if x != 0 and not 1e-3 <= abs(x) < 1e5:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    places = 0 if x == 0 else max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:.{places}f}"


def percent(x: float) -> str:
    """A signed percentage in few characters; a dash for NaN."""
    if math.isnan(x):
        return DASH
    if x > 1e6:
        return ">+1e6"  # only where there are too few tasks or seeds to tell
    if abs(x) < 1e5:
        return f"{x:+.1f}" if abs(x) < 100 else f"{x:+.0f}"
    return f"+{number(x)}" if x > 0 else number(x)


def fraction(x: float, places: int = 0) -> str:
    """A fraction in percent, with `places` decimal places; a dash if it is not finite."""
    return f"{100 * x:.{places}f}%" if math.isfinite(x) else DASH
