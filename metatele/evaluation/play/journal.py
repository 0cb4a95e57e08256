"""Finished pieces of an evaluation on disk, so that it goes on where it was stopped, even by kill -9."""

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from metatele.evaluation.results import DAMAGE, plain, restore
from metatele.support.files import make_folder, write_atomic

Piece = TypeVar("Piece")
PACKAGE = Path(__file__).parents[2]


class Journal:
    """Keeps each finished piece of work in a file of its own, named by what the piece depends on.

    Args:
        folder: where to keep them, created with the first piece; None for no journal.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def once(self, key: str, kind: Any, work: Callable[[], Piece]) -> Piece:
        """The result of `work`, from the journal if it holds one under this key.

        Args:
            key: a fingerprint of all that the result depends on (see `fingerprint`).
            kind: the type of the result, as `restore` takes it.
            work: makes the result.
        Raises: OutputError if the result cannot be written.
        """
        if self.folder is None:
            return work()
        path = self.folder / f"{key}.json"
        try:
            return cast(Piece, restore(kind, _read(path)))
        except (OSError, RecursionError, *DAMAGE):
            pass  # damaged, or of another version
        result = work()
        make_folder(self.folder)  # another evaluation that shares it may have deleted it
        if path.is_dir():
            shutil.rmtree(path)
        piece = _dump(plain(result))
        write_atomic(path, f'{{"sha256": "{_digest(piece)}", "piece": {piece}}}')
        return result

    def close(self) -> None:
        """Delete the journal: the results hold everything."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _dump(piece: Any) -> str:
    return json.dumps(piece, allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Any:
    """A piece as it was written. Raises: ValueError, and others in DAMAGE, if a single number of it has changed."""
    file = json.loads(path.read_text(encoding="utf-8"))
    if file["sha256"] != _digest(_dump(file["piece"])):
        raise ValueError(f"{path} is damaged")
    return file["piece"]


def fingerprint(*things: Any) -> str:
    """A digest of plain values, arrays, tensors and modules (their tensors)."""
    digest = hashlib.sha256()
    for thing in things:
        if isinstance(thing, nn.Module):
            thing = thing.state_dict()
        if isinstance(thing, Tensor):
            thing = thing.detach().cpu().numpy()
        if isinstance(thing, dict):
            for name, value in thing.items():
                digest.update(f"{name}:{fingerprint(value)};".encode())
        elif isinstance(thing, np.ndarray):
            digest.update(f"{thing.dtype}{thing.shape}".encode() + np.ascontiguousarray(thing).tobytes())
        else:
            digest.update(json.dumps(plain(thing), sort_keys=True).encode())
        digest.update(b"|")
    return digest.hexdigest()[:32]


def code_of(*things: object) -> str:
    """A digest of metatele's source files, and of those that define the classes of some objects."""
    files = set(PACKAGE.rglob("*.py"))
    for cls in {cls for thing in things for cls in inspect.getmro(type(thing))}:
        with suppress(TypeError, OSError):  # a class is built in, or was defined interactively
            files.add(Path(inspect.getfile(cls)))
    digest = hashlib.sha256()
    for file in sorted(files):
        with suppress(OSError):
            digest.update(file.read_bytes())
    return digest.hexdigest()
