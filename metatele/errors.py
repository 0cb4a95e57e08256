"""The errors that a user can encounter. Each message names the offending value and a remedy."""


class MetateleError(Exception):
    """Base of all expected errors; the command line prints it as one line and exits with code 2."""


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
