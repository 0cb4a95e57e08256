"""The state of an unfinished run, in one file that is written whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from metatele.errors import CheckpointError, ConfigError
from metatele.meta_training.trainer import MetaTrainer
from metatele.support.files import write_atomic
from metatele.support.messages import first_line

STATE = "state.safetensors"
FORMAT, VERSION = "metatele.run", "1"


def save_state(path: Path, trainer: MetaTrainer, record: dict[str, Any], flights: Sequence[Sequence[Tensor]]) -> None:
    """Write everything that the rest of the run depends on.

    Args:
        path: the file.
        trainer: between two iterations.
        record: further values to keep, as JSON.
        flights: where the meta-batches in flight stand, of all processes (see `Flight.gather`).
    Raises: OutputError.
    """
    tensors = {f"weights/{k}": v.detach().cpu().contiguous() for k, v in trainer.inner.state_dict().items()}
    if trainer.average is not None:
        tensors |= {f"average/{k}": v.detach().cpu().contiguous() for k, v in trainer.average.state_dict().items()}
    for index, moments in trainer.meta_optimizer.adam.state_dict()["state"].items():
        tensors.update({f"adam/{index}/{k}": torch.as_tensor(v).cpu().contiguous() for k, v in moments.items()})
    for i, own in enumerate(flights):
        tensors |= {f"flight/{i}/{k}": t.clone(memory_format=torch.contiguous_format) for k, t in enumerate(own)}
    counts = {"done": trainer.done, "begun": trainer.begun, "flights": [f.record() for f in trainer.flights]}
    metadata = {"format": FORMAT, "version": VERSION, "record": json.dumps({**counts, **record})}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def restore_state(path: Path, trainer: MetaTrainer, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Restore a trainer, made with the run's own settings, to the state that `save_state` saved.

    Args:
        path: path of the file, for error messages.
        trainer: the trainer, which is changed in place.
        record, tensors: from `read_state`.
    Raises: CheckpointError if they are damaged or belong to another run.
    """
    done: Any = record.get("done")
    begun: Any = record.get("begun", done)  # runs from before there were several in flight have none
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (done, begun)):
        raise CheckpointError(f"{path} is damaged: it says that {done!r} iterations are done, and {begun!r} begun")
    try:
        floating = (v for k, v in tensors.items() if not k.startswith("flight/"))
        if not all(bool(v.isfinite().all()) for v in floating):
            raise ValueError("it holds values that are NaN or infinite")
        trainer.inner.load_state_dict(_under("weights/", tensors))
        trainer.done, trainer.begun = done, begun
        trainer.enter()
        if trainer.average is not None:
            trainer.average.load_state_dict(_under("average/", tensors))
        adam = trainer.meta_optimizer.adam
        moments = _adam_state(tensors)
        _check_moments(adam, moments)
        adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})
        _restore_flights(trainer, record.get("flights", []), tensors)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not belong to a run with these settings: {reason}") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_flights(trainer: MetaTrainer, records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    """Let the meta-batches in flight go on. Raises: ValueError, TypeError, KeyError."""
    numbers = [record["number"] for record in records]
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"the meta-batches in flight are {numbers!r}")
    if numbers and max(numbers) >= trainer.stages[-1].end:
        raise ConfigError(
            f"meta.iterations is {trainer.meta.iterations}, but meta-batch {max(numbers) + 1} has been begun; set it "
            f"to {max(numbers) + 1} or more"
        )
    known = range(trainer.stage.begin, min(trainer.begun, trainer.stage.end))
    if trainer.begun - trainer.done != len(numbers) or len(set(numbers) & set(known)) != len(numbers):
        raise ValueError(f"of {trainer.begun!r} meta-batches {trainer.done!r} are done, and {numbers!r} in flight")
    for i, record in enumerate(records):
        if type(record["horizon"]) is not int or record["horizon"] < 1:
            raise ValueError(f"meta-batch {record['number']} has {record['horizon']!r} steps")
        flight = trainer.begin(record["number"], horizon=record["horizon"])  # which its engine is made with
        own, estimator = _under(f"flight/{i}/", tensors), trainer.estimator
        flight.restore(record, [own[str(k)] for k in range(len(own))], trainer.ranks, estimator.units, estimator.scales)
        trainer.flights.append(flight)


def _check_moments(adam: torch.optim.Adam, moments: dict[int, dict[str, Tensor]]) -> None:
    """Adam's moments must have the shapes of their parameters. Raises: ValueError."""
    params = [p for group in adam.param_groups for p in group["params"]]
    for index, state in moments.items():
        if not 0 <= index < len(params):
            raise ValueError(f"Adam's state names parameter {index}, but there are only {len(params)}")
        found = {k: v.shape for k, v in state.items()}
        shape = params[index].shape
        if found != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError(f"Adam's state of parameter {index} has shapes {found}")


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of a state file. Raises: CheckpointError."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                raise CheckpointError(
                    f"{path} is a {metadata.get('format')} of version {metadata.get('version')}, expected "
                    f"{FORMAT} of version {VERSION}"
                )
            record = json.loads(metadata["record"])
            if not isinstance(record, dict):
                raise CheckpointError(f"{path} is damaged: its record is not a mapping")
            return record, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing, damaged or cut off: {first_line(error)}") from error


def _adam_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    return state
