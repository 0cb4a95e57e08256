"""Keeping the C library from giving back memory that the next step needs again."""

import contextlib
import ctypes
import functools

# Their numbers in glibc's malloc.h; 32 MiB is the largest threshold that all versions take.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
THRESHOLD, PAD, KEPT = 2**25, 2**26, 2**30


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte that it has freed, where the C library is glibc.

    A step allocates the same blocks as the one before. glibc takes blocks of some size from the system one by one, and
    gives the top of its heap back whenever enough of it is free: a compiled step then spends a fifth of its time in
    page faults, and one of `TensorUpdate` a tenth. The setting is the whole process's, and stays.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in ((M_MMAP_THRESHOLD, THRESHOLD), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, PAD)):
            mallopt(setting, value)
