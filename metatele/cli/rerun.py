"""metatele evaluate --rerun: an evaluation made again from its results.json."""

from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser, Namespace

from metatele.cli.checkpoints import Loaded, check_recorded
from metatele.cli.reporting import make_family, report
from metatele.errors import CheckpointError, ConfigError
from metatele.evaluation import Entry, Evaluation, Learned
from metatele.evaluation.contestants.contestant import Origin
from metatele.evaluation.settings import Options

OF_A_RERUN = ("checkpoints", "config", "rerun", "modules", "output", "overwrite")  # what does not contradict --rerun


def rerun(parser: ArgumentParser, config: Namespace) -> int:
    """Make an evaluation again from its results.json."""
    old = Evaluation.load(config.rerun)
    default = parser.get_defaults()
    own = [key for key in default.keys() if key not in OF_A_RERUN]  # noqa: SIM118 - a Namespace is no mapping
    given = [*config.checkpoints, *(f"--{key}" for key in own if config[key] != default[key])]
    if given:
        raise ConfigError(f"--rerun takes everything from {config.rerun}; leave {given[0]} out")
    if old.family_spec is None:
        raise ConfigError(f"{config.rerun} does not say how its task family was made; evaluate from Python again")
    checkpoints: Loaded = {}
    for entry in old.entries:
        if entry.kind == "checkpoint":
            checkpoints[entry.name] = [_same(entry.name, origin) for origin in entry.origins]
    spec = dict(old.family_spec)
    hint = "import the module that defines it with --modules, as in --modules '[sine]'"
    check_recorded(spec.get("class_path"), spec.get("init_args"), f"{config.rerun} is of the family", hint)
    family = make_family(parser, spec)
    options = Options(old.reference, strict=False, family_spec=dict(old.family_spec), title=old.title)
    new = report(checkpoints, family, old.settings, options, Path(config.output), overwrite=config.overwrite)
    differing = [e.name for e in old.entries if not _same_curves(e, new[e.name])]
    print(f"the losses differ for {', '.join(differing)}" if differing else "the losses are equal, bit for bit")
    if differing and old.environment != new.environment:
        print(f"before: {dict(old.environment)}\nnow:    {dict(new.environment)}")
    return 0


def _same_curves(a: Entry, b: Entry) -> bool:
    """Whether two entries have the same losses."""
    return len(a.runs) == len(b.runs) and all(
        np.array_equal(one.losses[part], other.losses[part], equal_nan=True)
        for one, other in zip(a.runs, b.runs, strict=True)
        for part in one.losses
    )


def _same(name: str, origin: Origin | None) -> Learned:
    """A checkpoint of an old evaluation, checked to be unchanged. Raises: ConfigError, CheckpointError."""
    if origin is None:
        raise ConfigError(
            f"the checkpoint {name!r} was handed over as an object, not read from a folder; evaluate from Python again"
        )
    learned = Learned.load(origin.source)
    assert learned.origin is not None
    if learned.origin.sha256 != origin.sha256:
        raise CheckpointError(
            f"{origin.source} is not the checkpoint that was evaluated as {name!r}: it has changed since"
        )
    return learned
