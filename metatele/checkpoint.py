"""Meta-trained optimizers on disk: config.json, model.safetensors and a model card.

The layout is that of Hugging Face models, so a folder can be uploaded to the Hub as it is. Loading
never executes code from a checkpoint: the weights are safetensors, and a class is looked up among
those that are already imported.
"""

import inspect
import json
import os
import warnings
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch

from metatele.errors import CheckpointError, MetateleError
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart
from metatele.support.digests import digest_of
from metatele.support.files import make_folder, write_together
from metatele.support.messages import first_line
from metatele.support.modules import enter
from metatele.teleports import Teleport
from metatele.update import Update
from metatele.version import __version__

FORMAT, VERSION = "metatele.InnerOptimizer", 1
OF_WEIGHTS = "weights_sha256"  # in the configuration: of the weights that belong to it
HELD, WHOLE = "metatele", "sha256"  # in the weights: their configuration, with a digest of it and the tensors
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
TRAINING = "training.yaml"  # the resolved configuration of the meta-training, for the record
HUB = "hf://"
REPLACED = {"size-free": "general", "size-free-no-teleport": "general-no-teleport"}  # shipped once, by what

P = TypeVar("P", bound=OptimizerPart)


def save_checkpoint(inner: InnerOptimizer, folder: str | Path, card: str = "", training: str = "") -> Path:
    """Write an inner optimizer to a folder; each file is written whole or not at all.

    Args:
        inner: the optimizer; dense parts must have been bound to a network.
        folder: made if needed.
        card: text of the model card.
        training: the configuration that it was meta-trained with, as YAML.
    Raises: OutputError if the folder cannot be written; CheckpointError if a part has an argument that
        JSON cannot hold, such as a function.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in inner.state_dict().items()}
    description = describe(inner)
    # The weights hold the configuration, too: files are renamed one by one, and this one alone is a checkpoint.
    own = _as_json(description)
    whole = json.dumps({WHOLE: digest_of(tensors, own), CONFIG: own})
    weights = safetensors.torch.save(tensors, {HELD: whole})  # under one name: several would be in any order
    config = _as_json({**description, OF_WEIGHTS: sha256(weights).hexdigest()})
    folder = make_folder(Path(folder))
    files: dict[Path, bytes | str] = {folder / CONFIG: config, folder / CARD: card, folder / TRAINING: training}
    files[folder / WEIGHTS] = weights  # the last, because without them it is no checkpoint yet
    write_together({path: data for path, data in files.items() if data})
    return folder


def _as_json(config: dict[str, Any]) -> str:
    try:
        return json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise CheckpointError(
            f"this optimizer cannot be saved: {error}; give its parts plain arguments only (an objective by its name)"
        ) from error


def load_checkpoint(source: str | Path) -> InnerOptimizer:
    """Read an inner optimizer.

    Args:
        source: a checkpoint folder; a run folder of meta-training (its best checkpoint is taken);
            the name of a shipped checkpoint; or "hf://user/name" on the Hugging Face Hub.
    Raises: CheckpointError if it is missing, damaged, truncated or of another version.
    """
    folder = find_checkpoint(source)
    config = _read_config(folder / CONFIG)
    if config.get(OF_WEIGHTS, "") in ("", _digest_of_file(folder / WEIGHTS)):
        return _load_weights(build(config, folder), folder / WEIGHTS)
    own = _own_config(folder / WEIGHTS)
    if own is None:
        _load_weights(build(config, folder), folder / WEIGHTS)  # which may say more
        raise CheckpointError(
            f"{folder}: {CONFIG} and {WEIGHTS} are not of one checkpoint (saving it was interrupted?), or damaged; "
            "save it again"
        )
    warnings.warn(
        f"{folder / CONFIG} is not of these weights (saving was interrupted?); they are taken with the configuration "
        "that they hold",
        stacklevel=2,
    )
    return _load_weights(build(own, folder), folder / WEIGHTS)


def find_checkpoint(source: str | Path) -> Path:
    """The folder that a source names (see `load_checkpoint`)."""
    if str(source).startswith(HUB):
        return _download(str(source).removeprefix(HUB))
    path = Path(os.path.expanduser(source))
    for folder in (path, path / "best", path / "last"):
        if _is_checkpoint(folder):
            return folder
        if folder != path and os.path.isdir(folder):
            break  # if best/ is damaged, last/ must not silently be used instead
    shipped = shipped_checkpoints()
    if str(source) in shipped:
        return shipped[str(source)]
    if os.path.isdir(path):
        runs = sorted(inner.name for inner in path.iterdir() if _is_checkpoint(inner / "best"))
        if runs:
            raise CheckpointError(f"{path} holds several runs; name one: {', '.join(str(path / run) for run in runs)}")
        if os.path.isdir(path / "best"):
            raise CheckpointError(f"{path / 'best'} is damaged: it holds no {CONFIG} or no {WEIGHTS}")
        missing = WEIGHTS if os.path.isfile(path / CONFIG) else CONFIG
        raise CheckpointError(f"{path} holds no {missing}, so it is neither a checkpoint nor a run of meta-training")
    if str(source) in REPLACED:
        raise CheckpointError(
            f"{str(source)!r} is not shipped any more: {REPLACED[str(source)]!r} has taken its place; to have the "
            "old one, meta-train it by `metatele compare --config configs/size_free.yaml`"
        )
    raise CheckpointError(
        f"there is no checkpoint {str(source)!r}: no such folder, and not one of the shipped ones "
        f"({', '.join(sorted(shipped)) or 'none'})"
    )


def _is_checkpoint(folder: Path) -> bool:
    # os.path's checks return False where those of pathlib raise, for example for a name that is too long.
    return os.path.isfile(folder / CONFIG) and os.path.isfile(folder / WEIGHTS)


def shipped_checkpoints() -> dict[str, Path]:
    """The checkpoints that come with metatele, {name: folder}."""
    root = Path(str(resources.files("metatele.checkpoints")))
    return {folder.name: folder for folder in root.iterdir() if _is_checkpoint(folder)}


def describe(inner: InnerOptimizer) -> dict[str, Any]:
    """What config.json holds: how to build the optimizer again."""

    def spec(part: OptimizerPart) -> dict[str, Any]:
        return {"class": _class_name(type(part)), "arguments": part.arguments()}

    return {
        "format": FORMAT,
        "version": VERSION,
        "metatele": __version__,
        "update": spec(inner.update),
        "teleport": spec(inner.teleport),
        "order": inner.order,
        "moments": inner.moments,
    }


def build(config: Mapping[str, Any], where: str | Path = "the configuration") -> InnerOptimizer:
    """Build an inner optimizer from what `describe` returned, with its weights on torch's meta device.

    Raises: CheckpointError.
    """
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{where}: format is {config.get('format')!r}, expected {FORMAT!r}")
    if config.get("version") != VERSION or isinstance(config["version"], bool):
        raise CheckpointError(
            f"{where}: checkpoint version {config.get('version')!r} (written by metatele "
            f"{config.get('metatele')!r}), this metatele reads version {VERSION}; install a matching metatele"
        )
    # On the meta device nothing is allocated, so a damaged size cannot exhaust the memory.
    with torch.device("meta"):
        update = _build_part(Update, config.get("update"), f"{where}: update")  # type: ignore[type-abstract]
        teleport = _build_part(Teleport, config.get("teleport"), f"{where}: teleport")  # type: ignore[type-abstract]
        try:
            moments: Any = str(config.get("moments", "transform"))
            return InnerOptimizer(update, teleport, config.get("order", ""), moments)
        except MetateleError as error:
            raise CheckpointError(f"{where}: {error}") from error


def _build_part(base: type[P], spec: Any, where: str) -> P:
    """The part of an inner optimizer that a configuration describes. Raises: CheckpointError."""
    if not (isinstance(spec, dict) and isinstance(spec.get("class"), str) and isinstance(spec.get("arguments"), dict)):
        raise CheckpointError(f"{where} must be an object with 'class' and 'arguments', got {str(spec)[:80]}")
    known = _known(base, where)
    name, arguments = spec["class"], spec["arguments"]
    if name not in known:
        raise CheckpointError(
            f"{where} class {name!r} is unknown (known: {', '.join(sorted(known))}); if it is your own, import its "
            "module first"
        )
    try:
        return known[name](**arguments)
    except (MetateleError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where} {name}: {first_line(error)}") from error


def _known(base: type[P], where: str) -> dict[str, type[P]]:
    """The classes that can be built, {name: class}. Raises: CheckpointError if one name stands for two of them."""
    known: dict[str, type[P]] = {}
    try:
        for c in _subclasses(base):
            if not inspect.isabstract(c):
                enter(known, _class_name(c), c)
    except TypeError as error:
        raise CheckpointError(f"{where} cannot be built: {error}") from error
    return known


def _subclasses(base: type[P]) -> list[type[P]]:
    """A class and all below it, in the order of their definition: of one that is defined anew, the newest is last."""
    return [base, *(below for c in base.__subclasses__() for below in _subclasses(c))]


def _class_name(cls: type) -> str:
    """The name of a class: alone for metatele's own classes, with the module for others."""
    own = cls.__module__.split(".")[0] == "metatele"
    return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def _digest_of_file(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error


def _own_config(path: Path) -> dict[str, Any] | None:
    """The configuration that weights hold; None if they hold none, or are damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            held = json.loads((file.metadata() or {})[HELD])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        if held[WHOLE] == digest_of(tensors, held[CONFIG]):
            return dict(json.loads(held[CONFIG]))
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError, RecursionError):
        pass
    return None


def _load_weights(inner: InnerOptimizer, path: Path) -> InnerOptimizer:
    """Put the weights of a checkpoint into an optimizer of the same shapes. Raises: CheckpointError."""
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is missing, damaged or cut off: {first_line(error)}") from error
    expected = {k: v.shape for k, v in inner.state_dict().items()}
    found = {k: v.shape for k, v in weights.items()}
    if expected != found:
        differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise CheckpointError(
            f"{path} does not fit its {CONFIG}: {differing[0]} is {_shape(found.get(differing[0]))}, expected "
            f"{_shape(expected.get(differing[0]))} ({len(differing)} differences)"
        )
    bad = [k for k, v in weights.items() if not (v.is_floating_point() and bool(v.isfinite().all()))]
    if bad:
        raise CheckpointError(f"{path}: {bad[0]} holds values that are NaN, infinite or not floating-point numbers")
    trainable = {name: p.requires_grad for name, p in inner.named_parameters()}
    inner.load_state_dict(weights, assign=True)
    for name, p in inner.named_parameters():
        p.requires_grad_(trainable[name])
    return inner


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS, CARD, TRAINING]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"cannot fetch {HUB}{repository}: {first_line(error)}") from error


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
