"""One process at a time in a folder, and what happens to the folder."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from metatele import OutputError
from metatele.support.lock import LOCK, locked

RACE = """
import sys, time
from pathlib import Path
from metatele import OutputError
from metatele.support.lock import locked
end, held = time.monotonic() + 3, 0
while time.monotonic() < end:
    try:
        with locked(Path(sys.argv[1])) as folder:
            (folder / "mine").touch(exist_ok=False)
            (folder / "mine").unlink()
            held += 1
    except OutputError:
        pass
print(held)
"""


def test_a_folder_that_is_left_empty_is_removed_and_others_stay(tmp_path: Path) -> None:
    with locked(tmp_path / "new") as folder:
        assert (folder / LOCK).read_text().startswith("process ")
    assert not folder.exists()
    with locked(tmp_path / "new") as folder:
        (folder / "file").touch()
    with locked(folder):
        pass
    assert [p.name for p in folder.iterdir()] == ["file"]


def test_what_is_in_the_way_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*\.lock: Is a directory"), locked(tmp_path):
        pass


def test_a_full_disk_does_not_keep_anybody_out(tmp_path: Path) -> None:
    """It is only the name of the process that cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        with locked(tmp_path):
            assert (tmp_path / LOCK).exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_come_and_go_are_never_inside_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "folder")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        assert int(out) > 0
