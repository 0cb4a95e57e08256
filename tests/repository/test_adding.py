"""One new file adds an update, a teleport, a group, a closed-form rule or a task family: no list, no test is edited."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ADDED = Path(__file__).parent / "added"  # one file of each, as somebody who adds it would write it
CONFORMANCE = (
    *("tests/symmetry", "tests/teleports", "tests/update", "tests/tasks", "tests/unroll/test_meta_gradient.py"),
    *("tests/evaluation/test_claims.py", "tests/evaluation/test_contestants.py", "tests/cli/test_compare.py"),
    *("tests/testing", "tests/test_optimizer.py", "tests/report/test_report.py"),
)
NAMES = """
import metatele, metatele.tasks
from metatele.symmetry import Symmetry
from metatele.teleports.rules import rules
assert issubclass(metatele.SmoothSign, metatele.Update) and issubclass(metatele.GradientBalance, metatele.Teleport)
assert issubclass(metatele.tasks.Polynomials, metatele.TaskFamily) and "gated" in Symmetry.kinds
assert {"win", "win-every"} <= {rule.name for rule in rules()}
"""
TINY = ["--meta.iterations=1", "--meta.tasks=2", "--validation.tasks=2", "--unroll.steps=2", "--unroll.window=2"]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the repository, laid out as it is installed, with the added files."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("metatele", "tasks", "configs", "checkpoints", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ADDED / "tasks", tmp_path / "tasks", dirs_exist_ok=True)
    for room in ("symmetry", "teleports", "update"):
        shutil.copytree(ADDED / room, tmp_path / "metatele" / room, dirs_exist_ok=True)
    for folder in ("tasks", "configs", "checkpoints"):
        (tmp_path / "metatele" / folder).symlink_to(tmp_path / folder)
    return tmp_path


def run(house: Path, *arguments: str) -> str:
    """What Python prints in the copy."""
    done = subprocess.run([sys.executable, *arguments], cwd=house, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
def test_one_file_adds_one_thing(house):
    run(house, "-c", NAMES)
    chosen = ["--family=Polynomials", "--optimizer.update=SmoothSign", "--optimizer.teleport=GradientBalance"]
    run(house, "-m", "metatele", "meta-train", *chosen, *TINY, "--output=run")
    assert "Polynomials: loss" in run(
        house, "-m", "metatele", "evaluate", "run", "--tasks=2", "--steps=2", "--output=e"
    )
    out = run(house, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "-rA", *CONFORMANCE)
    for test in (
        "test_every_update_obeys_the_laws[SmoothSign]",
        "test_every_pair[SmoothSign-stay-before]",
        "test_every_teleport_obeys_the_laws[GradientBalance]",
        "test_every_teleport_obeys_the_laws[Win]",
        "test_every_group_obeys_its_laws[GatedScaling]",
        "test_every_family_obeys_the_contract[Polynomials]",
    ):
        assert test in out
