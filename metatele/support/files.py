"""Writing results so that a reader never meets half a file."""

import glob
import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from metatele.errors import OutputError

TEMPORARY = ".tmp"


def make_folder(path: Path) -> Path:
    """Make a folder with its parents, and check that it can be written to. In its path ~ means the user's home. What
    processes that were killed have left of temporary files in it is removed.

    Raises: OutputError.
    """
    try:
        path = path.expanduser()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        _remove_left_over(path)
    except (OSError, ValueError, RuntimeError) as error:  # also a character that no path has, a home that there is not
        raise OutputError(
            f"cannot write to the folder {path}: {_reason(error)}; choose another with --output"
        ) from error
    return path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all (see `write_together`)."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Write files whole or not at all: into temporary files beside them, which are renamed when all are written.

    Raises: OutputError if the disk is full or a folder is not writable; the old files then stay.
    """
    made: dict[Path, str] = {}
    path = Path()
    try:
        for path, data in files.items():
            handle, made[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_suffix())
            with os.fdopen(handle, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(made[path], 0o666 & ~_umask())
        for path in files:
            os.replace(made[path], path)
            del made[path]
    except BaseException as error:
        for name in made.values():
            Path(name).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"cannot write {path}: {_reason(error)}; free some space or choose another folder") from error


def _suffix() -> str:
    """The end of this process's temporary files: on which machine, by which process."""
    return f".{socket.gethostname()}.{os.getpid()}{TEMPORARY}"


def _remove_left_over(folder: Path) -> None:
    """Remove the temporary files of processes of this machine that are gone."""
    ours = f".{socket.gethostname()}."
    for left in folder.glob(f".*{glob.escape(ours)}*{TEMPORARY}"):
        process = left.name.removesuffix(TEMPORARY).rpartition(".")[2]
        if process.isdigit() and not is_running(int(process)):
            with suppress(OSError):
                left.unlink()


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _umask() -> int:
    """The permissions that new files do not get; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
