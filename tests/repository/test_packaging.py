"""The wheel holds all that is needed, and works without the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # From a copy of what git knows: a build leaves files behind in the folder that it is run in.
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True).stdout
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_code_configs_and_checkpoints(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("metatele", "metatele"), ("tasks", "metatele/tasks"), ("configs", "metatele/configs"),
                           ("checkpoints", "metatele/checkpoints")):  # fmt: skip
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert not [n for n in names if not n.startswith(("metatele/", "metatele-"))], "no loose top-level packages"


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    # The dependencies come from this environment (its .pth files, and so the editable metatele, do not).
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=environment)
    program = """
import metatele, metatele.tasks
from metatele.checkpoint import shipped_checkpoints
assert metatele.__file__.startswith({env!r}), metatele.__file__
assert metatele.tasks.__file__.startswith({env!r})
for name in shipped_checkpoints():
    metatele.load_checkpoint(name)
""".format(env=str(tmp_path / "env"))
    subprocess.run([python, "-c", program], cwd=tmp_path, check=True, env=environment)
    command = tmp_path / "env" / "bin" / "metatele"
    arguments = ["--family=Digits", "--family.rows=20", "--optimizer.update=CoordinateUpdate", "--unroll.steps=2"]
    settings = ["--unroll.window=1", "--meta.iterations=1", "--meta.tasks=2", "--validation.tasks=2", "--output=run"]
    done = subprocess.run(
        [command, "meta-train", *arguments, *settings], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
