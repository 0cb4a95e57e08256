"""Writing results so that a reader never meets half a file."""

import os
import tempfile
from pathlib import Path

from metatele.errors import OutputError


def make_folder(path: Path) -> Path:
    """Make a folder with its parents, and check that it can be written to.

    Raises: OutputError.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {path}: {_reason(error)}; choose another with --output"
        ) from error
    return path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then renamed.

    Raises: OutputError if the disk is full or the folder is not writable; the old file then stays.
    """
    raw = data.encode() if isinstance(data, str) else data
    handle, name = None, ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"cannot write {path}: {_reason(error)}; free some space or choose another folder") from error


def _umask() -> int:
    """The permissions that new files do not get; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
