"""Memory that a process keeps for its next step."""

import platform
import subprocess
import sys

import pytest

from metatele.compiled import memory

# Page faults of twenty blocks of 16 MiB, one after the other, after the first ones: each takes 4096 where pages are of
# 4 KiB, if it is taken from the system anew. Without the call two to seven of the twenty are, by chance of addresses;
# none might be in a process with as much on its heap as metatele leaves there, so the module is run by itself.
FAULTS = """
import resource, sys, torch
exec(open(sys.argv[1]).read())
keep_freed_memory()
def block(): torch.ones(2**22)
for _ in range(3): block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_are_kept() -> None:
    command = [sys.executable, "-c", FAULTS, str(memory.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: object) -> None:
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", fail)
    memory.keep_freed_memory.__wrapped__()
