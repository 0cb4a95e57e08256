"""Who does which piece of an evaluation that several processes share: whoever is free takes the next one."""

import secrets
import shutil
import socket
from pathlib import Path

from metatele.errors import ConfigError
from metatele.support.files import make_folder
from metatele.support.ranks import Ranks


class Turns:
    """Lets each piece be taken by one of the processes; a process alone takes all.

    A piece is taken by making a file of its number, which the file system lets only one do. The files are in a folder
    of their own, for those that killed processes have left say nothing.

    Args:
        ranks: the processes.
        folder: one that all of them see, for the time of the evaluation; None for a process alone.
    Raises: ConfigError if a process does not see it; OutputError if it cannot be written to.
    """

    def __init__(self, ranks: Ranks, folder: Path | None) -> None:
        self.ranks = ranks
        if folder is None or ranks.size == 1:
            return
        self._taken = ranks.from_first(lambda: make_folder(folder / f".turns-{secrets.token_hex(8)}"))
        missing = ranks.gather(None if self._taken.is_dir() else f"process {ranks.number} on {socket.gethostname()}")
        blind = [process for process in missing if process is not None]
        if blind:
            raise ConfigError(
                f"{blind[0]} does not see {folder}, through which the processes share the evaluation; choose a folder "
                "that all machines share, or start processes on one machine only"
            )

    def take(self, piece: int) -> bool:
        """Whether this process is the first to ask for a piece, and so to do it."""
        if self.ranks.size == 1:
            return True
        try:
            (self._taken / str(piece)).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # then perhaps several do it, which is right, too
            return True
        return True

    def close(self) -> None:
        """Remove the files, when all pieces are done."""
        if self.ranks.size > 1 and self.ranks.first:
            shutil.rmtree(self._taken, ignore_errors=True)
