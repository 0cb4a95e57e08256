"""What the README shows is what runs: its own files, code and commands, taken from its text."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the README's sine.py."""
    (family,) = (b for b in blocks("python") if "class Sine" in b)
    assert len(family.splitlines()) <= 25
    (tmp_path / "sine.py").write_text(family)
    return tmp_path


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, cwd=cwd, env={**os.environ, "COLUMNS": "120"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_custom_teleport() -> None:
    (code,) = (b for b in blocks("python") if "class Shrink" in b)
    exec(code, {"__name__": "readme"})  # it ends with its own check


def test_teleports_in_a_training_loop_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    loop, *more = (b for b in blocks("python") if "metatele.teleport(" in b)
    (discrete,) = (b for b in blocks("python") if "discrete_symmetries_of" in b)
    assert len(loop.splitlines()) <= 21
    names: dict[str, object] = {"__name__": "readme"}
    for code in (loop, *more):  # what follows goes on from the loop
        exec(code, names)
    (drawing,) = (b for b in blocks("python") if "draw_orbit" in b)
    exec(drawing.replace("orbit.png", str(tmp_path / "orbit.png")), names)
    assert (tmp_path / "orbit.png").is_file()
    assert capsys.readouterr().out.count("gradient norm") == 2
    exec(discrete, {"__name__": "readme"})


@pytest.mark.slow
def test_custom_family_from_python(workplace: Path) -> None:
    (code,) = (b for b in blocks("python") if "from sine import Sine" in b)
    (workplace / "example.py").write_text(code)
    printed = run([sys.executable, "example.py"], workplace).stdout
    assert "teleport" in printed
    assert (workplace / "evaluation" / "results.json").is_file()


@pytest.mark.slow
def test_custom_family_from_the_command_line(workplace: Path) -> None:
    (commands,) = (b for b in blocks("sh") if "compare --family sine.Sine" in b)
    for line in commands.strip().splitlines():
        name, *arguments = shlex.split(line)
        assert name == "metatele"
        printed = run([sys.executable, "-m", "metatele", *arguments], workplace).stdout
        assert "no-teleport" in printed
    assert (workplace / "runs" / "sine" / "evaluation" / "results.json").is_file()
    assert (workplace / "evaluation" / "results.json").is_file()


@pytest.mark.slow
def test_custom_mixture(workplace: Path) -> None:
    (code,) = (b for b in blocks("python") if "class Waves" in b)
    (workplace / "waves.py").write_text(code)
    (commands,) = (b for b in blocks("sh") if "waves.Waves" in b)
    for line in commands.strip().splitlines():
        run([sys.executable, "-m", "metatele", *shlex.split(line)[1:]], workplace)
    assert (workplace / "waves" / "results.json").is_file()


def test_the_commands_of_the_readme_parse() -> None:
    """Every option that the README names exists; nothing is run."""
    from metatele.cli.main import load_command

    (commands,) = (b for b in blocks("sh") if "tensorboard" in b)
    for line in commands.strip().splitlines():
        name, *arguments = shlex.split(line, comments=True)
        if name == "metatele" and "--resume" not in arguments:
            load_command(arguments[0]).make_parser().parse_args(arguments[1:])


def test_the_ci_runs_the_test_command_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '(.*)' README", ci)
    assert pattern is not None
    assert len(re.findall(pattern.group(1), README, re.M)) == 1
