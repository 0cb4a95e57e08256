"""One process at a time in a folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

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

    The lock is the operating system's, which takes it away from a process that ends, however it ends (and with it the
    children that it has forked without another program).

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
    file = _taken(path)
    try:
        with suppress(OSError):  # a full disk: nobody will be told who is here
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            file.close()


def _taken(path: Path) -> TextIO:
    """The file, locked. Raises: OutputError."""
    while True:
        try:
            file = path.open("a+")
        except FileNotFoundError:
            make_folder(path.parent)  # whoever had made it has removed it since
            continue
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError as error:
            file.seek(0)
            other = file.read(200).strip() or "another process"
            file.close()
            raise OutputError(f"{path.parent} is in use by {other}; wait for it, or choose another folder") from error
        except FileNotFoundError:
            pass  # whoever had the lock has removed the file since
        except OSError:  # a file system without locks
            return file
        file.close()
