"""Memory that a process keeps for its next step."""

import platform
import subprocess
import sys

import pytest

from metatele.unroll import memory

# What the C library's own books say of a block of 16 MiB: whether it was taken from the system by itself, and by how
# many bytes the heap shrank when it was freed. Page faults would tell of it, too, but depend on where blocks happen to
# lie. A new process, because the setting stays.
BOOKS = """
import ctypes, sys
exec(open(sys.argv[1]).read())
{call}
class Books(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_int) for name in names.split()]
libc = ctypes.CDLL(None)
libc.mallinfo.restype, libc.malloc.restype, libc.free.argtypes = Books, ctypes.c_void_p, [ctypes.c_void_p]
before = libc.mallinfo()
block = libc.malloc(2**24)
held = libc.mallinfo()
libc.free(block)
print(held.hblks - before.hblks, held.arena - libc.mallinfo().arena)
"""
BIG = "libc = ctypes.CDLL(None); libc.mallopt(M_MMAP_THRESHOLD, THRESHOLD)"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("call", "by_itself", "given_back"),
    [("keep_freed_memory()", 0, 0), ("", 1, 0), (BIG, 0, 2**24)],
    ids=["kept", "as it is otherwise", "only the first setting"],
)
def test_freed_blocks_are_kept(call: str, by_itself: int, given_back: int) -> None:
    command = [sys.executable, "-c", BOOKS.format(call=call), str(memory.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    alone, shrunk = map(int, done.stdout.split())
    assert alone == by_itself
    assert given_back <= shrunk <= 2 * given_back


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: object) -> None:
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", fail)
    memory.keep_freed_memory.__wrapped__()
