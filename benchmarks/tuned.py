"""Step sizes of the baselines that were found before, so that other checkpoints are judged in a fraction of the time.

Of each family, steps and seed there is a file, with what `metatele.tuning.tune` found for each baseline, and a sketch
of the tasks that it was found on, by which these are known again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metatele import sample_meta_batch
from metatele.errors import ConfigError
from metatele.evaluation import Evaluation, Settings, Tuning
from metatele.meta_training.identity import Sketch, alike, sketch_of
from metatele.support.files import write_together
from metatele.task import TaskFamily
from metatele.tuning.step_size import Trial
from metatele.update.hand_designed import StepSizeSchedule

FOLDER = Path(__file__).parent / "step_sizes"


def found_before(folder: Path, name: str, family: TaskFamily, settings: Settings) -> Mapping[str, Tuning]:
    """What was found for a family, by the baseline's name; nothing, if that was on other tasks.

    Raises: ConfigError for a file that holds something else.
    """
    path = _path(folder, name, settings)
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text())
        if not alike(kept["tasks"], _sketch(family, settings)):
            return {}
        return {baseline: _tuning(**found) for baseline, found in kept["found"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not hold what was tuned ({error!r}); delete it, and it is tuned anew"
        ) from error


def keep(folder: Path, name: str, family: TaskFamily, evaluation: Evaluation) -> None:
    """Write what an evaluation has found for a family."""
    settings = evaluation.settings
    tunings = {e.name: asdict(e.tuning) for e in evaluation.entries if e.tuning is not None}
    found = {name: {k: v for k, v in tuning.items() if k != "trials"} for name, tuning in tunings.items()}
    kept = {"tasks": _sketch(family, settings), "found": found}
    folder.mkdir(parents=True, exist_ok=True)
    write_together({_path(folder, name, settings): json.dumps(kept, indent=1) + "\n"})


def _tuning(schedule: StepSizeSchedule, lr: float, score: float, **others: Any) -> Tuning:
    """What was found; of its trials there is the best one."""
    return Tuning(schedule, lr, score, (Trial(schedule, lr, score, 0),), **others)


def _sketch(family: TaskFamily, settings: Settings) -> Sketch:
    """Of the tasks that are tuned on."""
    batch = sample_meta_batch(family, "train", range(settings.tuning_tasks), settings.seed)
    return sketch_of(t for part in (batch.params, batch.inputs, batch.targets) for t in part.values())


def _path(folder: Path, name: str, settings: Settings) -> Path:
    told = f"{settings.steps}-steps.{settings.tuning_tasks}-tasks.seed-{settings.seed}"
    return folder / f"{name.replace(' ', '-')}.{told}.json"
