"""Memory that a process keeps for its next step."""

import platform
import subprocess
import sys

import pytest

from metatele.compiled import memory

# Page faults of twenty blocks of 16 MiB, one after the other, after a first one.
FAULTS = """
import resource, torch
{}
def block(): torch.ones(2**22)
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_are_kept() -> None:
    kept = faults("from metatele.compiled.memory import keep_freed_memory; keep_freed_memory()")
    assert kept < faults("") / 4


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: object) -> None:
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", fail)
    memory.keep_freed_memory.__wrapped__()
