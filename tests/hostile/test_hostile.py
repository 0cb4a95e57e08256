"""The short forms of the hostile runs, for CI; the long ones are `python -m tests.hostile.bad_input` and `.kills`."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT


def run(module: str, count: int, seed: int) -> dict[str, Any]:
    """The figures of a run in a process of its own, which is forked again and again; no problem may be among them."""
    command = [sys.executable, "-m", f"tests.hostile.{module}", str(count), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.slow
def test_bad_input_is_refused_in_a_line() -> None:
    figures = run("bad_input", 300, 0)
    kinds = {name.split(":")[0] for name in figures if name.endswith("refused")}
    assert kinds >= {"checkpoint", "configuration", "images", "results", "state"}
    assert sum(n for name, n in figures.items() if name.endswith("refused")) > 150


@pytest.mark.slow
def test_killed_runs_end_as_if_nobody_had_disturbed_them() -> None:
    figures = run("kills", 24, 0)
    assert figures["kills"] == 24
    assert {"compare", "evaluate", "meta-train"} <= figures.keys()
