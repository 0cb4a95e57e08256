"""One process at a time in a folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metatele.errors import OutputError
from metatele.support.files import make_folder

try:
    import fcntl
except ImportError:  # not on Windows: folders are then not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Inside, no other process, of this machine or another that shares the disk, is inside with the same folder; yields
    the folder, with ~ made whole.

    The lock is the operating system's, which takes it away from a process that ends, however it ends.

    Args:
        folder: made where it does not exist, and removed again if it is left empty.
    Raises: OutputError, which names the other process, or says that the folder cannot be written to.
    """
    new = not os.path.exists(os.path.expanduser(folder))
    folder = make_folder(folder)
    try:
        with _locked(folder):
            yield folder
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            other = file.read(200).strip() or "another process"
            file.close()
            raise OutputError(f"{folder} is in use by {other}; wait for it, or choose another folder") from error
        except OSError:  # a file system without locks
            break
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # whoever had it has removed it since
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
