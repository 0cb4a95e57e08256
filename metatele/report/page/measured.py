"""How an evaluation was measured: settings, tuning, meta-training, environment."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from metatele.evaluation import Entry, Evaluation
from metatele.report.text import clean
from metatele.support.messages import DASH, number

Pairs = tuple[tuple[str, str], ...]
DIGEST = 12  # letters of a checksum


@dataclass(frozen=True)
class Grid:
    """The tuning of a baseline: what was found, and every trial as (schedule, step size, score, diverged)."""

    name: str
    found: str
    trials: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Trained:
    """A checkpoint's seed: its meta-training and where it came from."""

    name: str
    budget: str
    families: str
    seed: str
    origin: str


@dataclass(frozen=True)
class Measured:
    """The contents of the section "How this was measured"."""

    settings: Pairs
    family: str
    grids: tuple[Grid, ...]
    trained: tuple[Trained, ...]
    parts: Pairs
    environment: Pairs


def measured(evaluation: Evaluation) -> Measured:
    """How an evaluation was measured, without absolute paths of the machine."""
    e = evaluation
    settings = {**asdict(e.settings), "reference": e.reference, "rules that apply": e.applicable_rules}
    settings["elapsed"] = f"{e.elapsed:.0f} s"
    return Measured(
        settings=tuple((clean(k.replace("_", " ")), _plain(v)) for k, v in settings.items()),
        family=_plain(e.family_spec) if e.family_spec else "",
        grids=tuple(_grid(x) for x in e.entries if x.tuning is not None),
        trained=tuple(t for x in e.entries if x.kind == "checkpoint" for t in _trained(x)),
        parts=tuple((clean(x.name), _plain(x.parts)) for x in e.entries),
        environment=tuple(_flat(e.environment)),
    )


def _grid(entry: Entry) -> Grid:
    t = entry.tuning
    assert t is not None
    found = f"{t.lr:g} ({t.schedule}), on {t.tasks} tasks of the train split and {t.steps} steps"
    trials = tuple((x.schedule, f"{x.lr:g}", number(x.score), str(x.diverged) if x.diverged else "") for x in t.trials)
    return Grid(clean(entry.name), found, trials)


def _trained(entry: Entry) -> Iterator[Trained]:
    """The meta-training of each of a checkpoint's seeds."""
    for budget, origin in zip(entry.budgets, entry.origins, strict=False):
        source = DASH if origin is None else f"{private(origin.source)} (sha256 {origin.sha256[:DIGEST]})"
        name = clean(entry.name)
        if budget is None:
            yield Trained(name, "unknown", DASH, DASH, clean(source))
            continue
        families = ", ".join(dict.fromkeys(family for family, _ in budget.families))
        spent = f"{budget.tasks} trajectories of {budget.steps} steps"
        yield Trained(name, spent, clean(families), str(budget.seed), clean(source))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}: ")
        else:
            yield clean(f"{prefix}{key}"), "unknown" if inner is None else _plain(inner)


def private(value: Any) -> Any:
    """A value in which the absolute path of a file is only the file's name."""
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
        return value
    if isinstance(value, Mapping):
        return {str(k): private(v) for k, v in value.items()}
    return [private(v) for v in value] if isinstance(value, Sequence) else value


def _plain(value: Any) -> str:
    value = private(value)
    if isinstance(value, list):
        return clean(", ".join(map(str, value))) or "none"
    return clean(json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else str(value))
