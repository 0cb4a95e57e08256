"""What runs in other processes say to the one that waits for them, and its word that they stop."""

import os
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, NamedTuple

from metatele.errors import OutputError

MOST_AT_ONCE = 1024  # runs that may be calling at the same moment
PAUSE = 0.2  # seconds until a run hears that it is to stop


class Line:
    """The line of one run to whoever waits for it; to be opened (`with line:`) where the run is.

    Args:
        hear: is given what the run says.
        stop: whether it is to stop.
    """

    def __init__(self, hear: Callable[[Any], None], stop: Callable[[], bool]) -> None:
        self._hear, self._stop = hear, stop

    def say(self, message: Any) -> None:
        """Tell whoever waits."""
        self._hear(message)

    def stopping(self) -> bool:
        """Whether the run is to stop."""
        return self._stop()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *raised: object) -> None:
        """The run ends."""


class _Warned(NamedTuple):
    """A warning in another process."""

    text: str
    category: type[Warning]
    file: str
    line: int


class FarLine(Line):
    """The line of a run in another process, which brings its warnings along.

    While it is open, that process ends at once when the one that waits does, so that it keeps nothing locked. On a
    machine from which nobody can be reached the run goes on without being heard.

    Args:
        address, key: of the exchange.
        number: of the run.
        home: process of the exchange.
    """

    def __init__(self, address: str, key: bytes, number: int, home: int) -> None:
        self._address, self._key, self._number, self._home = address, key, number, home

    def say(self, message: Any) -> None:
        if self._connection is not None:
            with suppress(OSError):  # then this process is about to end
                self._connection.send(message)

    def stopping(self) -> bool:
        return self._stopping.is_set()

    def __enter__(self) -> "FarLine":
        self._connection: Connection | None = None
        self._stopping, self._leaving = threading.Event(), False
        try:
            self._connection = Client(self._address, authkey=self._key)
            self._connection.send(self._number)
            self._note(self._connection.recv())
        except (ConnectionError, EOFError):
            self._connection = None
            self._bereft()
            return self
        except OSError:  # on another machine there is no such address
            return self
        self._ear = threading.Thread(target=self._listen, args=(self._connection,), daemon=True)
        self._ear.start()
        self._show = warnings.showwarning
        if os.getpid() != self._home:
            warnings.showwarning = self._warn  # type: ignore[assignment]
        return self

    def __exit__(self, *raised: object) -> None:
        if self._connection is not None:
            warnings.showwarning = self._show
            self._leaving = True
            self.say(None)
            self._ear.join()  # until all that was said has been heard

    def _listen(self, connection: Connection) -> None:
        try:
            while True:
                self._note(connection.recv())
        except (EOFError, OSError):
            connection.close()
            if not self._leaving:
                self._bereft()

    def _warn(self, message: Warning | str, category: type[Warning], file: str, line: int, *rest: object) -> None:
        self.say(_Warned(str(message), category, file, line))

    def _note(self, stop: bool) -> None:
        if stop:
            self._stopping.set()

    def _bereft(self) -> None:
        """Nobody waits for this run any more."""
        self._stopping.set()
        if os.getpid() != self._home:
            os._exit(1)


class Exchange:
    """Inside (`with exchange:`), runs are heard; those in other processes, in threads of this one.

    Args:
        hear: is given the number of a run and what it says.
        stop: whether the runs are to stop.
        far: whether the runs are in other processes.
    """

    def __init__(self, hear: Callable[[int, Any], None], stop: Callable[[], bool], far: bool) -> None:
        self._hear, self._stop, self._far = hear, stop, far
        self._closing, self._key = False, os.urandom(32)
        self._warned: dict[Any, Any] = {}  # so that each warning is shown once, as in one process

    def line(self, number: int) -> Line:
        """The line of a run; it can be pickled if the run is in another process."""
        if self._far:
            return FarLine(str(self._listener.address), self._key, number, os.getpid())
        return Line(partial(self._hear, number), self._stop)

    def __enter__(self) -> "Exchange":
        if not self._far:
            return self
        try:
            self._listener = Listener(family="AF_UNIX", backlog=MOST_AT_ONCE, authkey=self._key)
        except OSError as error:
            raise OutputError(f"cannot listen to other processes: {error.strerror or error}; set TMPDIR") from error
        threading.Thread(target=self._answer, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        if not self._far:
            return
        self._closing = True
        # Wakes the thread that answers. It may have gone already, so that nothing must be waited for.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self._listener.address)
        self._listener.close()

    def _answer(self) -> None:
        while not self._closing:
            with suppress(OSError, EOFError):  # a process has died while it called
                connection = self._listener.accept()
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: Connection) -> None:
        """Hear one run until it ends, or its process does."""
        told = self._stop()
        with connection, suppress(OSError, EOFError):
            number = connection.recv()
            connection.send(told)
            while not self._closing:
                if not told and self._stop():
                    told = True
                    connection.send(told)
                if connection.poll(PAUSE):
                    message = connection.recv()
                    if message is None:
                        return
                    if isinstance(message, _Warned):
                        warnings.warn_explicit(*message, registry=self._warned)
                    else:
                        self._hear(number, message)
