"""results.json: strict JSON, written whole or not at all."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metatele.errors import ConfigError
from metatele.evaluation.entry import Entry
from metatele.files import write_atomic
from metatele.version import __version__

FORMAT = 1


def save_results(results: Mapping[str, Any], path: Path) -> None:
    """Write the results; NaN and infinite numbers become null.

    Raises: OutputError.
    """
    write_atomic(path, json.dumps(plain(results), allow_nan=False) + "\n")


def load_results(path: Path | str) -> dict[str, Any]:
    """Read a results.json as it stands. `np.array(curve, float)` turns a curve's nulls into NaN.

    Raises: ConfigError if the file cannot be read, or is not such a file of this version.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the results {path}: {error}") from error
    version = results.get("format") if isinstance(results, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{path} is not a results.json of format {FORMAT} (its format: {version!r})")
    return results


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    return {
        "metatele": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def describe(entry: Entry) -> dict[str, Any]:
    """One contestant with its curves: [S + 1][B], null after a task's `stopped_at`."""
    c, run = entry.contestant, entry.run
    curves = {"inner": run.inner, "test": run.test, "gradient_norm": run.gradient_norm}
    return {
        "name": c.name,
        "kind": c.kind,
        "note": c.note,
        "source": c.source,
        "update": type(c.inner.update).__name__,
        "teleport": type(c.inner.teleport).__name__,
        "order": c.inner.order,
        "moments": c.inner.moments,
        "tuning": c.tuning,
        "outcomes": [o.name for o in run.outcomes],
        "stopped_at": run.stopped_at,
        "seconds": entry.seconds,
        "curves": {k: v for k, v in curves.items() if v is not None},
    }


def plain(value: Any) -> Any:
    """The value in the types of strict JSON; float32 in the fewest digits that give it back."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(str(value)) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)
