"""Questions about numbers, asked by code that may run before the numbers are known.

A computation that is being compiled, or queued on a device, cannot wait for its numbers to decide what comes next.
Inside `presuming` the usual answer is assumed and noted, so that it can be checked once the numbers are known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Notes = list[tuple[str, Tensor]]  # (what was presumed, whether it holds)
_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


def presume(flags: Tensor, what: str) -> bool:
    """Whether all flags are true. Inside `presuming`: True, and noted.

    Args:
        flags: a tensor of truth values.
        what: what they say, in words, for the message if it turns out not to hold.
    """
    notes = _notes.get()
    if notes is None:
        return bool(flags.all())
    notes.append((what, flags.detach().all()))
    return True


def known(flags: Tensor) -> bool:
    """Whether all flags are known to be true; inside `presuming` nothing is."""
    return _notes.get() is None and bool(flags.all())


@contextmanager
def presuming() -> Iterator[Notes]:
    """Inside, `presume` does not look at numbers; yields the notes that it makes."""
    notes: Notes = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)
