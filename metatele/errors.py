"""The errors that a user can encounter. Each message names the offending value and a remedy."""

LONGEST_MESSAGE = 300  # characters of a message


def on_one_line(text: str) -> str:
    """A text on one line, without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """A text for the terminal: on one line, the middle of a long one left out."""
    if len(text) > 4 * LONGEST_MESSAGE:
        text = text[: 2 * LONGEST_MESSAGE] + text[-2 * LONGEST_MESSAGE :]
    clean = on_one_line(text)
    if len(clean) <= LONGEST_MESSAGE:
        return clean
    return f"{clean[: LONGEST_MESSAGE - 105]} ... {clean[-100:]}"


class MetateleError(Exception):
    """Base of all expected errors: one line; the command line prints it and exits with code 2."""

    def __str__(self) -> str:
        return on_one_line(super().__str__())


class ConfigError(MetateleError):
    """A setting is unknown, of the wrong type or impossible."""


class CheckpointError(MetateleError):
    """A checkpoint is missing, damaged, of another version, or does not fit the task."""


class TaskError(MetateleError):
    """A task family breaks its contract: wrong shapes, non-finite data, a loss that is not a scalar."""


class SymmetryError(MetateleError):
    """A network has no symmetry that the teleport can use, or a group element cannot act."""


class OutputError(MetateleError):
    """A result cannot be written: the disk is full, or the folder is not writable."""
