"""Files that are written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metatele import OutputError
from metatele.support.files import make_folder, write_together


def test_files_that_belong_together_are_written_together(tmp_path):
    write_together({tmp_path / "a": "1", tmp_path / "b": b"1"})
    with pytest.raises(OutputError, match="cannot write"):
        write_together({tmp_path / "a": "2", tmp_path / "nowhere" / "b": "2"})
    assert (tmp_path / "a").read_text() == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_killed_process_leaves_nothing_for_long(tmp_path):
    killed = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom metatele.support.files import write_atomic\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\nwrite_atomic(Path(sys.argv[1]), 'x')"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "a")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    others = tmp_path / f".b.x.elsewhere.{os.getpid()}.tmp"  # of another machine
    others.touch()
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [others]


def test_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_folder(Path("~/runs")) == tmp_path / "runs"
    with pytest.raises(OutputError, match="cannot write to the folder"):
        make_folder(Path("a\0b"))
