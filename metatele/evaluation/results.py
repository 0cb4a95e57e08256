"""results.json: dataclasses as strict JSON, written whole or not at all, and read back."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from metatele.errors import ConfigError
from metatele.support.files import write_atomic

FORMAT = 2
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)  # what `restore` raises for other values
Results = TypeVar("Results")


def save_results(results: Any, path: Path) -> None:
    """Write a dataclass. NaN becomes null; infinite numbers become "inf" and "-inf".

    Raises: OutputError.
    """
    write_atomic(path, json.dumps({"format": FORMAT, **plain(results)}, allow_nan=False) + "\n")


def load_results(path: Path | str, kind: type[Results]) -> Results:
    """Read what `save_results` wrote.

    Raises: ConfigError if the file cannot be read, or is not such a file of this version.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the results {path}: {error}") from error
    version = results.get("format") if isinstance(results, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{path} is not a results.json of format {FORMAT} (its format: {version!r})")
    try:
        return typing.cast(Results, restore(kind, results))
    except DAMAGE as error:
        raise ConfigError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def plain(value: Any) -> Any:
    """The value in the types of strict JSON; float32 in the fewest digits that give it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind == "i":
        return value.tolist()
    if isinstance(value, (np.ndarray, Sequence)) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(str(value)) if np.isfinite(value) else None if np.isnan(value) else str(float(value))
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


def restore(kind: Any, value: Any) -> Any:
    """The inverse of `plain` for the types that dataclasses of an evaluation are made of."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return None if value is None else restore(inner[0], value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        # A field that a later version has added with a default may be absent.
        known = [f for f in dataclasses.fields(kind) if f.name in value or f.default is dataclasses.MISSING]
        return kind(**{f.name: restore(hints[f.name], value[f.name]) for f in known})  # type: ignore[operator]
    if origin is np.ndarray:
        (dtype,) = typing.get_args(arguments[1])
        return _array(value, dtype)
    if origin is Literal and value not in arguments:
        raise ValueError(f"expected one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if len(arguments) == 2 and arguments[1] is Ellipsis else arguments
        return tuple(restore(k, v) for k, v in zip(kinds, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {k: restore(arguments[1], v) for k, v in value.items()}
    if kind is float:
        return float("nan") if value is None else float(value)
    if kind in (int, str, bool) and not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _array(value: Any, dtype: Any) -> Any:
    """Nested lists as an array; nulls are NaN (and no list at all is an empty one)."""
    if issubclass(dtype, np.integer):
        return np.array(value, dtype)
    if not value:
        return np.empty(0, dtype)
    with np.errstate(over="ignore"):  # a number beyond the type is infinite
        return np.array(value, np.dtype(object)).astype(np.float64, copy=False).astype(dtype)
